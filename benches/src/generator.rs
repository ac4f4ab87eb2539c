//! Offers UDP packets to a router: a BPF program that the kernel runs in a loop and whose frames it sends.
//!
//! One core offers about 1.5 million packets a second on veth, three times what an AF_XDP sender manages. The far end of
//! the sending veth must have an XDP program or GRO on, or nothing arrives.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use classifier::{checksum, packet};
use libbpf_rs::{MapCore, MapFlags, ObjectBuilder, ProgramInput};

use crate::{Context, Error, Result, sys};

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/generate.o"));
/// `BPF_F_TEST_XDP_LIVE_FRAMES` of `linux/bpf.h`.
const LIVE_FRAMES: u32 = 1 << 1;
/// The discard service (RFC 863): what the sink counts.
pub const DISCARD_PORT: u16 = 9;
/// Source port of flow 0.
const FIRST_PORT: u16 = 1024;
/// Packets of one unpaced call. Setting up a call takes the kernel milliseconds, in which nothing is sent and after which packets
/// come at once: long calls make an even stream. A signal ends a call early.
const CALL: u64 = 1 << 18;
/// Packets of one paced call. The kernel allocates pages for 64 frames a call whatever it sends.
const PACED_CALL: u64 = 64;

/// What the packets are.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// MAC of the router's port.
    pub dst_mac: [u8; 6],
    /// MAC of the sending port.
    pub src_mac: [u8; 6],
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Flows: UDP source ports that take turns.
    pub flows: u16,
    /// Bytes of a frame from the destination MAC to the end of the payload (no FCS), 64 to 1514.
    pub size: usize,
}

/// How much and how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Packets at most.
    pub packets: u64,
    /// Time at most.
    pub time: Duration,
    /// Packets a second, `None` for as many as the core can.
    pub rate: Option<u64>,
}

impl Traffic {
    /// The frame of flow 0, TTL 64, with all checksums right.
    pub fn frame(&self) -> Result<Vec<u8>> {
        if !(64..=1514).contains(&self.size) {
            return Err(Error::new(format!(
                "frame size {} is not in 64..=1514",
                self.size
            )));
        }
        let mut frame = [&self.dst_mac[..], &self.src_mac].concat();
        let l4 = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let len = (self.size as u16 - 14).to_be_bytes();
                frame.extend([
                    0x08,
                    0x00,
                    0x45,
                    0,
                    len[0],
                    len[1],
                    0,
                    0,
                    0x40,
                    0,
                    64,
                    packet::protocol::UDP,
                    0,
                    0,
                ]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                let check = !checksum::fold(checksum::sum(&frame[14..34], 0));
                frame[24..26].copy_from_slice(&check.to_be_bytes());
                34
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let len = (self.size as u16 - 54).to_be_bytes();
                frame.extend([
                    0x86,
                    0xdd,
                    0x60,
                    0,
                    0,
                    0,
                    len[0],
                    len[1],
                    packet::protocol::UDP,
                    64,
                ]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                54
            }
            _ => return Err(Error::new("source and destination are of different families")),
        };
        frame.extend(FIRST_PORT.to_be_bytes());
        frame.extend(DISCARD_PORT.to_be_bytes());
        frame.extend(((self.size - l4) as u16).to_be_bytes());
        frame.resize(self.size, 0);
        let headers = packet::parse(&frame).map_err(|reason| Error::new(format!("own frame: {reason:?}")))?;
        let check = checksum::transport(&headers, &frame[l4..]);
        frame[l4 + 6..l4 + 8].copy_from_slice(&check.to_be_bytes());
        Ok(frame)
    }

    /// `struct config` of the BPF program.
    fn config(&self, frame: &[u8], ifindex: u32) -> Vec<u8> {
        let port_at: u32 = if self.src.is_ipv4() { 34 } else { 54 };
        let mut config = frame[..64].to_vec();
        for number in [ifindex, self.flows.max(1) as u32, port_at, 0] {
            config.extend(number.to_ne_bytes());
        }
        config
    }
}

/// A running generator: a thread in the sender's namespace. Dropping it stops it.
pub struct Generator {
    thread: Option<JoinHandle<Result<()>>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    start: Instant,
}

impl Generator {
    /// Starts to send out of `dev` in namespace `netns` from `core`.
    pub fn start(netns: &str, dev: &str, traffic: &Traffic, core: usize, limits: Limits) -> Result<Self> {
        let frame = traffic.frame()?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (netns, dev, traffic) = (netns.to_owned(), dev.to_owned(), traffic.clone());
        let (stop_seen, count) = (stop.clone(), sent.clone());
        let thread = thread::spawn(move || {
            sys::enter_netns(&netns)?;
            sys::pin(core)?;
            let config = traffic.config(&frame, ifindex(&dev)?);
            generate(&config, &frame, limits, &stop_seen, &count)
        });
        Ok(Generator {
            thread: Some(thread),
            stop,
            sent,
            start: Instant::now(),
        })
    }

    /// Packets offered so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether it has ended by itself.
    pub fn finished(&self) -> bool {
        self.thread.as_ref().is_none_or(|thread| thread.is_finished())
    }

    /// Stops it, which takes up to a call, and returns how many packets it offered, and how many a second.
    pub fn stop(mut self) -> Result<(u64, f64)> {
        self.join()?;
        let sent = self.sent();
        Ok((sent, sent as f64 / self.start.elapsed().as_secs_f64()))
    }

    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(|thread| thread.join()) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::new("the generator's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            eprintln!("generator: {error}");
        }
    }
}

/// Index of a device in the calling thread's namespace. `/sys` shows the namespace that mounted it, so `ip` is asked.
pub fn ifindex(dev: &str) -> Result<u32> {
    let line = crate::command::run(&format!("ip -o link show dev {dev}"))?;
    let number = line.split(':').next().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| Error::new(format!("no index of {dev} in {line:?}")))
}

fn generate(config: &[u8], frame: &[u8], limits: Limits, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let object = ObjectBuilder::default()
        .open_memory(OBJECT)
        .context("generator")?;
    let mut object = object.load().context("loading the generator (root needed)")?;
    let map = object
        .maps_mut()
        .find(|map| map.name() == "config")
        .ok_or_else(|| Error::new("no map config"))?;
    map.update(&0_u32.to_ne_bytes(), config, MapFlags::ANY)
        .context("configuring the generator")?;
    let program = object.progs_mut().find(|program| program.name() == "generate");
    let program = program.ok_or_else(|| Error::new("no program generate"))?;

    let start = Instant::now();
    let mut offered = 0;
    while offered < limits.packets && start.elapsed() < limits.time && !stop.load(Ordering::Relaxed) {
        sys::check_interrupt()?;
        let mut repeat = CALL;
        if let Some(rate) = limits.rate {
            let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
            if due <= offered {
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            // A sender that fell behind does not make up for more than one burst.
            repeat = (due - offered).min(PACED_CALL);
        }
        repeat = repeat.min(limits.packets - offered);
        let input = ProgramInput {
            data_in: Some(frame),
            flags: LIVE_FRAMES,
            repeat: repeat as u32,
            ..ProgramInput::default()
        };
        if let Err(error) = program.test_run(input) {
            sys::check_interrupt()?;
            return Err(error).context("BPF_PROG_TEST_RUN with live frames (Linux 5.18 or newer needed)");
        }
        offered += repeat;
        sent.store(offered, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_packets() {
        for (src, dst) in [
            ("198.18.0.2", "198.19.128.1"),
            ("2001:2:0:1::2", "2001:2:0:8000::1"),
        ] {
            for size in [64, 65, 1514] {
                let traffic = Traffic {
                    dst_mac: [2, 0, 0, 0, 0, 1],
                    src_mac: [2, 0, 0, 0, 0, 2],
                    src: src.parse().expect("address"),
                    dst: dst.parse().expect("address"),
                    flows: 4,
                    size,
                };
                let frame = traffic.frame().expect("a frame");
                let headers = packet::parse(&frame).expect("valid");
                assert_eq!((frame.len(), headers.len as usize), (size, size - 14));
                assert_eq!((headers.sport, headers.dport), (FIRST_PORT, DISCARD_PORT));
                let l4 = headers.l4 as usize;
                let pseudo = checksum::pseudo_header(&headers, (size - l4) as u32);
                assert_eq!(
                    checksum::fold(checksum::sum(&frame[l4..], pseudo)),
                    0xffff,
                    "UDP checksum"
                );
            }
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let any = "198.18.0.2".parse().expect("address");
        let traffic = |size| Traffic {
            dst_mac: [0; 6],
            src_mac: [0; 6],
            src: any,
            dst: any,
            flows: 1,
            size,
        };
        assert!(traffic(63).frame().is_err() && traffic(1515).frame().is_err());
    }
}
