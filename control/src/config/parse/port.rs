//! `[[port]]`.

use std::collections::BTreeSet;
use std::ops::Range;

use classifier::lpm::{IpPrefix, LpmError};

use crate::config::model::*;
use crate::config::reader::{Section, Source};

pub(super) fn ports(root: &Section<'_, '_>, source: &Source<'_>, warnings: &Source<'_>) -> Vec<Port> {
    let sections = root.sections("port");
    if sections.is_empty() {
        warnings.problem(
            &(0..0),
            "no_port",
            "no [[port]] is configured: nothing will be forwarded".to_owned(),
            None,
        );
    }
    let mut ports = Vec::new();
    let mut seen = BTreeSet::new();
    for section in sections {
        let at = section.span.clone();
        let Some(port) = port(&section, source) else {
            section.finish();
            continue;
        };
        if !seen.insert(port.selector.text().to_owned()) {
            source.problem(
                &at,
                "duplicate_port",
                format!("port {} is configured twice", port.selector.text()),
                Some("leave one of the two [[port]] tables".to_owned()),
            );
        }
        section.finish();
        ports.push(port);
    }
    ports
}

fn port(section: &Section<'_, '_>, source: &Source<'_>) -> Option<Port> {
    let selector = selector(section, source);
    let roles = [("uplink", Role::Uplink), ("workload", Role::Workload)];
    let role = section.word("role", &roles).map_or(Role::Uplink, |at| at.value);
    let modes = [
        ("auto", Mode::Auto),
        ("zerocopy", Mode::Zerocopy),
        ("copy", Mode::Copy),
        ("generic", Mode::Generic),
    ];
    let mode = section.word("mode", &modes).map_or(Mode::Auto, |at| at.value);
    let on_exit = section.word("on_exit", &[("kernel", OnExit::Kernel), ("drop", OnExit::Drop)]);
    let on_exit_span = on_exit.as_ref().map(|at| at.span.clone());
    let checks = [
        ("strict", AntiSpoof::Strict),
        ("loose", AntiSpoof::Loose),
        ("off", AntiSpoof::Off),
    ];
    let by_role = match role {
        Role::Uplink => (AntiSpoof::Off, FixChecksums::Off),
        Role::Workload => (AntiSpoof::Strict, FixChecksums::Auto),
    };
    let anti_spoof = section
        .word("anti_spoof", &checks)
        .map_or(by_role.0, |at| at.value);
    let fixes = [("auto", FixChecksums::Auto), ("off", FixChecksums::Off)];
    let fix_checksums = section
        .word("fix_checksums", &fixes)
        .map_or(by_role.1, |at| at.value);
    let mut acl = AclNames::default();
    if let Some(names) = section.section("acl") {
        acl.ingress = list_name(&names, "ingress");
        acl.egress = list_name(&names, "egress");
        names.finish();
    }
    let multicast = multicast(section);
    let (selector, selector_span) = selector?;
    let port = Port {
        selector,
        role,
        mode,
        on_exit_said: on_exit.map(|at| at.value),
        anti_spoof,
        fix_checksums,
        acl,
        multicast,
        line: source.line(section.span.start),
    };
    // The guard names interfaces as nftables does: exactly, or with one `*` at the end.
    if !port.selector.can_be_guarded() && port.on_exit(&port.acl) == OnExit::Drop {
        section.refuse(
            &on_exit_span.unwrap_or(selector_span),
            "match",
            &format!("on_exit = \"drop\" cannot guard {:?}", port.selector.text()),
            "the nftables guard knows one * at the end of a name (\"cali*\"): use such a pattern, exact names, or on_exit = \"kernel\"",
        );
    }
    Some(port)
}

/// Prefixes of multicast groups: within 224.0.0.0/4 (RFC 5771) or ff00::/8 (RFC 4291 2.7).
fn multicast(section: &Section<'_, '_>) -> Vec<IpPrefix> {
    let mut groups = Vec::new();
    for item in section.strings("multicast").unwrap_or_default() {
        let refuse = |message: &str, hint: &str| section.refuse(&item.span, "multicast", message, hint);
        match item.value.parse::<IpPrefix>() {
            // 224.0.0.0/3 holds more than groups; one of IPv6 that begins so and is shorter than /8 has host bits.
            Ok(prefix) if prefix.addr().is_multicast() && prefix.len() >= 4 => groups.push(prefix),
            Ok(prefix) => refuse(
                &format!("{prefix} is not multicast"),
                "groups are within 224.0.0.0/4 and ff00::/8; on_exit = \"kernel\" opens the port for everything",
            ),
            Err(LpmError::HostBits { given, meant }) => refuse(
                &format!("{given} has host bits set"),
                &format!("did you mean {meant}, or the group alone?"),
            ),
            Err(error) => refuse(
                &error.to_string(),
                "write groups as \"239.1.0.0/16\" or \"ff1e::/16\"",
            ),
        }
    }
    groups
}

fn selector(section: &Section<'_, '_>, source: &Source<'_>) -> Option<(Selector, Range<usize>)> {
    match (section.string("name"), section.string("match")) {
        (Some(name), None) => {
            interface_name(section, "name", &name.value, &name.span)?;
            if name.value.contains(['*', '?']) {
                section.refuse(
                    &name.span,
                    "name",
                    &format!("{:?} is a pattern", name.value),
                    "write match instead of name",
                );
                return None;
            }
            Some((Selector::Name(name.value), name.span))
        }
        (None, Some(pattern)) => {
            interface_name(section, "match", &pattern.value, &pattern.span)?;
            Some((Selector::Match(pattern.value), pattern.span))
        }
        (Some(_), Some(pattern)) => {
            section.refuse(
                &pattern.span,
                "match",
                "name is given as well",
                "leave one of the two",
            );
            None
        }
        (None, None) => {
            source.problem(
                &section.span,
                "missing_key",
                "port: name is missing".to_owned(),
                Some("say name = \"eth1\", or match = \"cali*\" for a pattern".to_owned()),
            );
            None
        }
    }
}

/// What Linux accepts as the name of an interface (`dev_valid_name`), and what can stand in the guard's quotes.
fn interface_name(section: &Section<'_, '_>, key: &str, name: &str, at: &Range<usize>) -> Option<()> {
    let wrong = if name.is_empty() || name.len() > 15 {
        "is not 1 to 15 letters long"
    } else if name == "." || name == ".." || name.contains(['/', ':', '"', '\\']) {
        "has a letter that no interface can have"
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        "has a blank or a letter that is not ASCII"
    } else if name == "lo" {
        "is the loopback device, which cannot be a port"
    } else {
        return Some(());
    };
    section.refuse(
        at,
        key,
        &format!("{name:?} {wrong}"),
        "it is a name that `ip link` shows",
    );
    None
}

fn list_name(section: &Section<'_, '_>, key: &'static str) -> Option<String> {
    let name = section.string(key)?;
    let bare = name.value.replace("{port}", "");
    if name.value.is_empty() || bare.contains(['{', '}']) {
        section.refuse(
            &name.span,
            key,
            &format!("{:?} cannot be the name of a list", name.value),
            "the only placeholder is {port}",
        );
        return None;
    }
    Some(name.value)
}
