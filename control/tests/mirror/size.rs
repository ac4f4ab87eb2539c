//! Lost messages and a full Internet table.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use control::mirror::MirrorConfig;

use crate::found;
use crate::lab::{Lab, inside, sh};

/// At most so many prefixes of the shared Internet table as lines for `ip -batch`, in a file of its own; `None`, said loudly, where the
/// table is missing.
fn table(test: &str, most: usize) -> Option<PathBuf> {
    let data = std::env::var("MARGAY_DATA").unwrap_or_else(|_| "../../shared/data".to_owned());
    let file = Path::new(&data).join("prefixes.txt.gz");
    if !file.exists() {
        eprintln!(
            "SKIPPED {test}: no {}; MARGAY_DATA names another folder",
            file.display()
        );
        return None;
    }
    let batch = std::env::temp_dir().join(format!("mir-{}-{test}", std::process::id()));
    sh(&format!(
        "zcat {} | head -n {most} | awk '{{ g = index($1, \":\") ? \"2001:db8:a::2\" : \"10.0.\" NR % 2 \".2\"; print \"route add \" $1 \" via \" g }}' > {}",
        file.display(),
        batch.display()
    ));
    Some(batch)
}

/// A table is loaded while the mirror follows with a buffer that holds a few messages: it loses some all the time, reads the kernel's
/// tables anew again and again, never forgets what it had, and equals the kernel in the end.
#[test]
fn a_table_through_a_small_buffer() {
    let most = match std::env::var_os("MARGAY_SOAK") {
        Some(_) => usize::MAX >> 1,
        None => 100_000,
    };
    inside("size::a_table_through_a_small_buffer", |_| async move {
        let Some(batch) = table("a_table_through_a_small_buffer", most) else {
            return;
        };
        let mut lab = Lab::start(MirrorConfig {
            rcvbuf: 32 << 10,
            ..MirrorConfig::default()
        })
        .await;
        sh("ip route add 240.0.0.0/8 via 10.0.1.2");
        lab.until("the first route is there", |lab| {
            found(lab, "240.1.1.1") != "nothing"
        })
        .await;
        let mut loading = Command::new("ip")
            .args(["-force", "-batch"])
            .arg(&batch)
            .stderr(Stdio::null())
            .spawn()
            .expect("ip");
        while loading.try_wait().expect("ip").is_none() {
            lab.pump(Duration::from_millis(50)).await;
            assert_eq!(found(&lab, "240.1.1.1"), "240.0.0.0/8: 10.0.1.2 x1");
        }
        std::fs::remove_file(&batch).expect("batch file");
        let quiet = Instant::now();
        loop {
            let differences = lab.mirror.diff_kernel(&mut lab.plane, None).await.expect("diff");
            if differences.is_empty() {
                break;
            }
            assert!(
                quiet.elapsed() < Duration::from_secs(120),
                "{} differences stay",
                differences.len()
            );
            lab.pump(Duration::from_millis(100)).await;
        }
        let stats = lab.mirror.stats();
        assert!(stats.overruns > 0, "{stats:?}");
        eprintln!(
            "{} routes through a small buffer: equal {:.2} s after the last one, {} overruns, {} dumps",
            lab.plane.fib.len(254),
            quiet.elapsed().as_secs_f64(),
            stats.overruns,
            stats.resyncs
        );
    });
}

/// Kilobytes of this process that are in memory.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or("VmRSS unknown")
        .to_owned()
}

#[test]
fn overruns_are_survived() {
    inside("size::overruns_are_survived", |_| async {
        let file = std::env::temp_dir().join(format!("mir-{}.batch", std::process::id()));
        let line = |verb: &str| -> String {
            (0..20_000u32)
                .map(|i| {
                    format!(
                        "route {verb} 20.{}.{}.0/24 via 10.0.0.2\n",
                        i / 256 % 256,
                        i % 256
                    )
                })
                .collect()
        };
        let mut lab = Lab::start(MirrorConfig {
            rcvbuf: 32 << 10,
            ..MirrorConfig::default()
        })
        .await;
        sh("ip route add 30.0.0.0/8 via 10.0.1.2");
        lab.until("the first route is there", |lab| {
            found(lab, "30.1.1.1") != "nothing"
        })
        .await;
        for verb in ["add", "del", "add"] {
            let half = if verb == "add" {
                line("add")
            } else {
                line("del").lines().step_by(2).map(|l| format!("{l}\n")).collect()
            };
            std::fs::write(&file, half).expect("batch file");
            // Everything is there at once: the mirror has not read a message meanwhile.
            sh(&format!(
                "ip -batch {} 2>/dev/null || ip -force -batch {} 2>/dev/null || true",
                file.display(),
                file.display()
            ));
            for _ in 0..20 {
                lab.pump(Duration::from_millis(5)).await;
                assert_eq!(
                    found(&lab, "30.1.1.1"),
                    "30.0.0.0/8: 10.0.1.2 x1",
                    "never without routes"
                );
            }
            lab.pump(Duration::from_millis(200)).await;
            lab.agree(verb).await;
        }
        assert!(lab.mirror.stats().resyncs > 0, "{:?}", lab.mirror.stats());
        assert_eq!(lab.mirror.stats().bad_messages, 0);
        std::fs::remove_file(&file).expect("batch file");
    });
}

#[test]
fn a_full_table() {
    inside("size::a_full_table", |_| async move {
        let Some(batch) = table("a_full_table", usize::MAX >> 1) else {
            return;
        };
        let loading = std::time::Instant::now();
        sh(&format!(
            "ip -force -batch {} 2>/dev/null || true",
            batch.display()
        ));
        std::fs::remove_file(&batch).expect("batch file");
        eprintln!(
            "ip -batch: {:.1} s; before: {}",
            loading.elapsed().as_secs_f64(),
            resident()
        );
        let listing = std::time::Instant::now();
        let listed = sh("ip route show table main | wc -l; ip -6 route show table main | wc -l");
        eprintln!(
            "ip route show | wc -l, both families: {:.2} s: {}",
            listing.elapsed().as_secs_f64(),
            listed.replace('\n', " ")
        );
        let starting = std::time::Instant::now();
        let mut lab = Lab::start(MirrorConfig::default()).await;
        eprintln!(
            "mirrored and programmed: {:.2} s, {:?}; {}",
            starting.elapsed().as_secs_f64(),
            lab.mirror.stats(),
            resident()
        );
        eprintln!("FIB: {:?} bytes", lab.plane.fib.bytes());
        assert!(lab.plane.fib.len(254) > 1_000_000, "{}", lab.plane.fib.len(254));
        let comparing = std::time::Instant::now();
        lab.agree("loading a full table").await;
        eprintln!(
            "compared with a fresh dump: {:.2} s; {}",
            comparing.elapsed().as_secs_f64(),
            resident()
        );
        // A gateway's device goes: half of the IPv4 routes with it, silently.
        let before = lab.plane.fib.len(254);
        let cutting = std::time::Instant::now();
        sh("ip link set v1 down");
        lab.until("half of the routes are gone", |lab| {
            lab.plane.fib.len(254) < before - 400_000
        })
        .await;
        eprintln!(
            "half of the routes went with their link: {:.2} s",
            cutting.elapsed().as_secs_f64()
        );
        lab.agree("a link with half a million routes went down").await;
        assert_eq!(lab.mirror.stats().corrected, 0);
        // From a change to the table that workers read.
        let mut times: Vec<u64> = Vec::new();
        for i in 0..200u32 {
            let verb = if i % 2 == 0 { "add" } else { "del" };
            sh(&format!("ip route {verb} 203.0.113.77/32 via 10.0.0.2"));
            let before = lab.mirror.stats().generation;
            lab.until("it is followed", |lab| lab.mirror.stats().generation != before)
                .await;
            times.push(lab.mirror.stats().last_batch_ns);
        }
        times.sort_unstable();
        eprintln!(
            "message to table: median {} us, p99 {} us",
            times[100] / 1000,
            times[197] / 1000
        );
    });
}
