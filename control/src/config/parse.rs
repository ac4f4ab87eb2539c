//! From TOML to [`Config`], table by table.

mod port;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::model::*;
use super::reader::{Problem, Section, Source};
use super::{DEFAULT_SOCKET, DEFAULT_STATE};

/// Parses and validates a configuration; relative paths in it are relative to `base`. Warnings come with the
/// configuration, errors instead of it.
pub fn parse(text: &str, base: &Path) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let source = Source::new(text);
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().unwrap_or(0..0);
            source.problem(
                &at,
                "syntax",
                error.message().to_owned(),
                Some("the file is TOML: https://toml.io".to_owned()),
            );
            return Err(source.into_problems());
        }
    };
    let root = Section::new(&source, document.get_ref(), "", 0..0);
    let warnings = Source::new(text);
    version(&root, &source);
    let runtime = runtime(&root);
    let ports = port::ports(&root, &source, &warnings);
    let tables = tables(&root);
    let (icmp_rate, icmp_burst) = icmp(&root);
    let multipath_hash = multipath(&root);
    let acl_dir = acl_dir(&root, base);
    let (socket, state) = control(&root, base);
    let metrics = metrics(&root);
    root.finish();

    let problems = source.into_problems();
    if !problems.is_empty() {
        return Err(problems);
    }
    let config = Config {
        runtime,
        ports,
        tables,
        icmp_rate,
        icmp_burst,
        multipath_hash,
        acl_dir,
        socket,
        state,
        metrics,
    };
    Ok((config, warnings.into_problems()))
}

fn version(root: &Section<'_, '_>, source: &Source<'_>) {
    match root.integer("version", 0..=i64::MAX) {
        None => source.problem(
            &(0..0),
            "missing_key",
            "version is missing".to_owned(),
            Some("begin the file with version = 1".to_owned()),
        ),
        Some(version) if version.value != 1 => root.refuse(
            &version.span,
            "version",
            &format!("{} is not known", version.value),
            "this daemon reads version 1",
        ),
        Some(_) => {}
    }
}

fn runtime(root: &Section<'_, '_>) -> Runtime {
    let mut runtime = Runtime {
        profile: Profile::Adaptive,
        workers: Workers::Auto,
        frames: 16384,
        frame_size: 4096,
        stall_after: Duration::from_millis(100),
    };
    let Some(section) = root.section("runtime") else {
        return runtime;
    };
    let profiles = [("poll", Profile::Poll), ("adaptive", Profile::Adaptive)];
    if let Some(profile) = section.word("profile", &profiles) {
        runtime.profile = profile.value;
    }
    runtime.workers = workers(&section);
    // Below 1,024 frames not even one port's fill ring is served; 16 Mi frames are 64 GiB.
    if let Some(frames) = section.integer("frames", 1024..=16 << 20) {
        runtime.frames = u32::try_from(frames.value).unwrap_or(runtime.frames);
    }
    if let Some(size) = section.integer("frame_size", 0..=i64::from(u32::MAX)) {
        match size.value {
            2048 => runtime.frame_size = 2048,
            4096 => runtime.frame_size = 4096,
            other => section.refuse(
                &size.span,
                "frame_size",
                &format!("{other} is not possible"),
                "2048 or 4096: the kernel wants a power of two that fits a page",
            ),
        }
    }
    if let Some(text) = section.string("stall_after") {
        match duration(&text.value) {
            Some(limit) if (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&limit) => {
                runtime.stall_after = limit;
            }
            Some(_) => section.refuse(
                &text.span,
                "stall_after",
                &format!("{} is out of range", text.value),
                "a value from \"10ms\" to \"60s\" is possible",
            ),
            None => section.refuse(
                &text.span,
                "stall_after",
                &format!("{:?} is not a time", text.value),
                "write a whole number with its unit: \"100ms\", \"2s\"",
            ),
        }
    }
    section.finish();
    runtime
}

fn workers(section: &Section<'_, '_>) -> Workers {
    if section.is_string("workers") {
        if let Some(text) = section.string("workers")
            && text.value != "auto"
        {
            section.refuse(
                &text.span,
                "workers",
                &format!("{:?} is not known", text.value),
                "\"auto\" or a list of cores, [2, 3]",
            );
        }
        return Workers::Auto;
    }
    let Some(list) = section.integers("workers", 0..=4095) else {
        return Workers::Auto;
    };
    let mut cores = Vec::new();
    for core in &list.value {
        let number = usize::try_from(core.value).unwrap_or(0);
        if cores.contains(&number) {
            section.refuse(
                &core.span,
                "workers",
                &format!("core {number} is named twice"),
                "one worker runs on a core",
            );
        }
        cores.push(number);
    }
    if cores.is_empty() {
        section.refuse(
            &list.span,
            "workers",
            "no core is named",
            "name at least one, or say \"auto\"",
        );
    }
    Workers::Cores(cores)
}

/// `100ms`, `2s`, `500us`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

fn tables(root: &Section<'_, '_>) -> Vec<u32> {
    let default = vec![254];
    let Some(section) = root.section("kernel") else {
        return default;
    };
    let mut tables: Vec<u32> = Vec::new();
    match section.integers("tables", 1..=i64::from(u32::MAX)) {
        None => tables = default,
        Some(list) => {
            for table in &list.value {
                let number = u32::try_from(table.value).unwrap_or(0);
                if number == 255 {
                    section.refuse(
                        &table.span,
                        "tables",
                        "255 is the local table",
                        "it is mirrored always and need not be named",
                    );
                } else if tables.contains(&number) {
                    section.refuse(
                        &table.span,
                        "tables",
                        &format!("{number} is named twice"),
                        "tables are asked in this order, each once",
                    );
                }
                tables.push(number);
            }
            if tables.is_empty() {
                section.refuse(&list.span, "tables", "no table is named", "the main table is 254");
            }
        }
    }
    section.finish();
    tables
}

fn icmp(root: &Section<'_, '_>) -> (u32, u32) {
    let (mut rate, mut burst) = (1000, 100);
    if let Some(section) = root.section("icmp") {
        if let Some(at) = section.integer("rate", 0..=1_000_000) {
            rate = u32::try_from(at.value).unwrap_or(rate);
        }
        if let Some(at) = section.integer("burst", 0..=1_000_000) {
            burst = u32::try_from(at.value).unwrap_or(burst);
        }
        section.finish();
    }
    (rate, burst)
}

fn multipath(root: &Section<'_, '_>) -> Hash {
    let mut hash = Hash::L4;
    if let Some(section) = root.section("multipath") {
        let words = [
            ("l3", Hash::L3),
            ("l4", Hash::L4),
            ("inner", Hash::Inner),
            ("kernel", Hash::Kernel),
        ];
        if let Some(at) = section.word("hash", &words) {
            hash = at.value;
        }
        section.finish();
    }
    hash
}

fn acl_dir(root: &Section<'_, '_>, base: &Path) -> PathBuf {
    let mut dir = base.join("acl.d");
    if let Some(section) = root.section("acl") {
        if let Some(at) = section.string("dir") {
            dir = base.join(at.value);
        }
        section.finish();
    }
    dir
}

fn control(root: &Section<'_, '_>, base: &Path) -> (PathBuf, PathBuf) {
    let mut socket = PathBuf::from(DEFAULT_SOCKET);
    let mut state = None;
    if let Some(section) = root.section("control") {
        if let Some(at) = section.string("socket") {
            socket = base.join(&at.value);
            // sun_path of unix(7) has 108 bytes with the final zero.
            if at.value.is_empty() || socket.as_os_str().len() > 107 {
                section.refuse(
                    &at.span,
                    "socket",
                    "is no path of 1 to 107 bytes",
                    "the kernel's limit for the path of a socket",
                );
            }
        }
        if let Some(at) = section.string("state") {
            state = Some(base.join(at.value));
        }
        section.finish();
    }
    let state = state.unwrap_or_else(|| {
        if socket == Path::new(DEFAULT_SOCKET) {
            PathBuf::from(DEFAULT_STATE)
        } else {
            socket.with_extension("ports.json")
        }
    });
    (socket, state)
}

fn metrics(root: &Section<'_, '_>) -> Option<Listen> {
    let section = root.section("metrics")?;
    let listen = section.string("listen").and_then(|at| {
        let text = at.value.strip_prefix("unix:").unwrap_or(&at.value);
        if text.starts_with('/') {
            return Some(Listen::Unix(PathBuf::from(text)));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Some(Listen::Tcp(address)),
            Ok(_) => {
                section.refuse(
                    &at.span,
                    "listen",
                    &format!("{text} is not a loopback address"),
                    "metrics have no authentication: listen on 127.0.0.1, [::1] or a Unix socket and put a proxy in front",
                );
                None
            }
            Err(_) => {
                section.refuse(
                    &at.span,
                    "listen",
                    &format!("{text:?} is no address"),
                    "write \"127.0.0.1:9469\", \"[::1]:9469\" or the path of a Unix socket",
                );
                None
            }
        }
    });
    section.finish();
    listen
}
