//! The mirror against the kernel: every kind of route, what the kernel does silently, overruns, neighbours.

mod lab;
mod neighbours;
mod routes;
mod silent;
mod size;
mod vrf;

use std::net::IpAddr;
use std::time::Duration;

use forwarder::fib::{Group, VrfId};

use lab::{Lab, sh};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// What the data plane does with an address: the matched prefix and the group in a few words.
fn found(lab: &Lab, address: &str) -> String {
    let fib = &lab.plane.fib;
    let Some((_, prefix, id)) = fib.lookup(VrfId::DEFAULT, ip(address)) else {
        return "nothing".to_owned();
    };
    let text = match fib.group(id).expect("group") {
        Group::Forward { members, .. } => {
            let mut members: Vec<String> = (members.iter())
                .map(|m| {
                    format!(
                        "{} x{}",
                        fib.adjacency(m.adj).expect("adjacency").neighbour,
                        m.weight
                    )
                })
                .collect();
            members.sort();
            members.join(", ")
        }
        Group::Glean { .. } => "glean".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    format!("{prefix}: {text}")
}

/// Runs each line, lets the mirror follow, and compares: with the kernel as a whole and with what is written here.
/// Nothing may be left to the verification that follows silent changes.
async fn steps(lab: &mut Lab, steps: &[(&str, &[(&str, &str)])]) {
    for (line, expected) in steps {
        sh(line);
        lab.pump(Duration::from_millis(25)).await;
        lab.agree(line).await;
        for (address, what) in *expected {
            assert_eq!(found(lab, address), *what, "{address} after {line}");
        }
        assert_eq!(
            lab.mirror.stats().corrected,
            0,
            "left to the verification: {line}"
        );
        assert_eq!(lab.mirror.stats().bad_messages, 0, "after {line}");
    }
}
