//! Labs that change what all namespaces of the machine share; no other lab runs beside them.

use std::collections::HashSet;
use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use tests::lab::announce;
use tests::margay::list;
use tests::{LIMIT, Lab, Margay, wait_for};

use crate::common::{PORTS, node_in};

const HOSTS: u16 = 4096;

/// The limits of the kernel's IPv4 neighbour table, which are global and can be set in the first namespace only. They come back when
/// this is dropped, also when the lab fails.
struct Limits(Vec<(String, String)>);

/// Where the limits are: `gc_thresh1` to `gc_thresh3`.
fn limit_paths() -> [String; 3] {
    [1, 2, 3].map(|number| format!("/proc/sys/net/ipv4/neigh/default/gc_thresh{number}"))
}

impl Limits {
    /// Sets `gc_thresh1`, `gc_thresh2` and `gc_thresh3`; an error where this process may not.
    fn set(values: [u32; 3]) -> std::io::Result<Self> {
        let mut limits = Self(Vec::new());
        // The largest first: each has to be below the next.
        for (path, value) in limit_paths().into_iter().zip(values).rev() {
            let before = fs::read_to_string(&path)?;
            fs::write(&path, value.to_string())?;
            limits.0.push((path, before));
        }
        Ok(limits)
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for (path, before) in self.0.drain(..).rev() {
            if let Err(error) = fs::write(&path, before.trim()) {
                announce(&format!("{path} is not as it was: {error}"));
            }
        }
    }
}

/// A lab that fails, or that cannot set all of them, leaves the limits as it found them.
#[test]
fn limits_come_back_after_a_panic() {
    let Some(_lab) = Lab::alone("limits") else { return };
    let read = || limit_paths().map(|path| fs::read_to_string(path).unwrap_or_default());
    let before = read();
    let [low, middle, high] = [1, 2, 3].map(|factor| 5000 * factor);
    let set = match Limits::set([low, middle, high]) {
        Ok(limits) => limits,
        Err(error) => {
            return tests::lab::skip("limits_come_back_after_a_panic", &format!("gc_thresh3: {error}"));
        }
    };
    assert_eq!(
        read().map(|text| text.trim().to_owned()),
        ["5000", "10000", "15000"]
    );
    drop(set);
    assert_eq!(read(), before);
    let failed = std::panic::catch_unwind(|| {
        let _limits = Limits::set([low, middle, high]).expect("they could be set before");
        assert_ne!(read(), before);
        // Unwinds as a failed assertion does, without its message.
        std::panic::resume_unwind(Box::new("the lab fails"));
    });
    let said = failed.expect_err("the lab fails");
    assert_eq!(said.downcast_ref::<&str>(), Some(&"the lab fails"));
    assert_eq!(read(), before);
    // The last one of the three cannot be set: no int of the kernel's holds it.
    assert!(Limits::set([u32::MAX, middle, high]).is_err());
    assert_eq!(read(), before);
}

/// 4,096 hosts on one port, each resolved when the first packet to it comes.
#[test]
fn four_thousand_neighbours() {
    let Some(lab) = Lab::alone("many") else { return };
    let net = node_in(lab);
    let _limits = match Limits::set([4096, 8192, 16384]) {
        Ok(limits) => limits,
        Err(error) => return tests::lab::skip("four_thousand_neighbours", &format!("gc_thresh3: {error}")),
    };
    let a = net.container("a", 2);
    // All of 10.8.0.0/19 is u itself, on the link of up0.
    net.u
        .sh("ip route add local 10.8.0.0/19 dev lo; ip route add 10.8.0.1 dev r0");
    net.r.sh("ip addr add 10.8.0.1/19 dev up0");
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    let receiver = net
        .u
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a UDP port is free");
    receiver
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a time limit can be set");
    let port = receiver.local_addr().expect("it is bound").port();
    let sender = a
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a UDP port is free");
    let mut heard: HashSet<u16> = HashSet::new();
    // As many at a time as may be resolved at once; what a busy machine loses is sent again.
    wait_for("a datagram to each of 4,096 hosts", LIMIT * 4, || {
        let missing: Vec<u16> = (0..HOSTS).filter(|host| !heard.contains(host)).collect();
        for some in missing.chunks(64) {
            for host in some {
                // From 10.8.1.0 on.
                let [high, low] = (host + 256).to_be_bytes();
                let _ = sender.send_to(&host.to_be_bytes(), format!("10.8.{high}.{low}:{port}"));
            }
            let mut buffer = [0; 2];
            let mut left = some.iter().filter(|host| !heard.contains(*host)).count();
            while left > 0 && receiver.recv(&mut buffer).is_ok() {
                left -= usize::from(heard.insert(u16::from_be_bytes(buffer)));
            }
        }
        let count = heard.len();
        if count == usize::from(HOSTS) {
            Ok(())
        } else {
            Err(format!("{count} hosts heard"))
        }
    });
    let shown = margay.json("neigh show");
    let known = list(&shown, "neighbours").iter();
    let known = known.filter(|n| n["dev"] == "up0" && n["mac"] != "").count();
    assert!(known >= usize::from(HOSTS), "{known} neighbours are known");
    // Here no limit is seen, which doctor says instead of guessing; that it warns in time is a matter of its unit tests.
    let done = margay.run("-j doctor");
    let answer: serde_json::Value = serde_json::from_str(&done.out).expect("an answer");
    let limits = list(&answer, "checks").iter();
    let limits: Vec<_> = limits.filter(|check| check["name"] == "gc_thresh3").collect();
    assert_eq!(limits.len(), 2, "one of either family: {answer}");
    for (limit, family) in limits.iter().zip(["ipv4", "ipv6"]) {
        let expected = format!("{family}: the limit is seen and set in the first network namespace only");
        assert_eq!(
            (&limit["result"], &limit["message"]),
            (&"pass".into(), &expected.into())
        );
    }
    // They are routes of the data plane now, and equal to the kernel's.
    margay.mirrors_kernel();
    let held = margay.port("cali-a", "held");
    for address in ["10.8.1.0", "10.8.9.9", "10.8.16.255"] {
        let out = a.sh(&format!("ping -n -c 2 -i 0.02 -W 5 {address}"));
        assert!(out.contains("2 received"), "{out}");
    }
    assert_eq!(margay.port("cali-a", "held"), held, "nothing waited any more");
    margay.check_sums();
}
