//! Offers UDP packets out of a device in a network namespace, bounded in number and time.
//!
//! ```text
//! cargo run -p benches --release --bin gen -- --netns GEN --dev g0 --dst-mac 02:… --src 198.18.0.2 --dst 198.19.128.1 --seconds 10
//! ```

use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use benches::generator::{Generator, Limits, Traffic};
use benches::{Error, Result, report, sys};
use clap::Parser;

/// Offers UDP packets (destination port 9) out of a device in a network namespace. Prints what was sent.
#[derive(Parser)]
struct Arguments {
    /// Namespace of `ip netns` that the device is in.
    #[arg(long)]
    netns: String,
    /// Device to send from. The other end of a veth needs an XDP program or GRO.
    #[arg(long)]
    dev: String,
    /// MAC of the router's port.
    #[arg(long, value_parser = mac)]
    dst_mac: [u8; 6],
    /// MAC to send from.
    #[arg(long, value_parser = mac, default_value = "02:18:00:00:00:02")]
    src_mac: [u8; 6],
    /// Source address.
    #[arg(long)]
    src: IpAddr,
    /// Destination address.
    #[arg(long)]
    dst: IpAddr,
    /// Flows (UDP source ports).
    #[arg(long, default_value_t = 1024)]
    flows: u16,
    /// Bytes of a frame without FCS.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Packets a second; as many as possible without it.
    #[arg(long)]
    rate: Option<u64>,
    /// Packets at most.
    #[arg(long, default_value_t = u64::MAX)]
    count: u64,
    /// Seconds at most.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes
        .try_into()
        .map_err(|_| Error::new("a MAC address is six bytes: 02:00:00:00:00:01"))
}

fn work(a: Arguments) -> Result<()> {
    let traffic = Traffic {
        dst_mac: a.dst_mac,
        src_mac: a.src_mac,
        src: a.src,
        dst: a.dst,
        flows: a.flows,
        size: a.size,
    };
    let seconds =
        Duration::try_from_secs_f64(a.seconds).map_err(|error| Error::new(format!("--seconds: {error}")))?;
    let limits = Limits {
        packets: a.count,
        time: seconds,
        rate: a.rate,
    };
    let generator = Generator::start(&a.netns, &a.dev, &traffic, a.core, limits)?;
    while !generator.finished() {
        thread::sleep(Duration::from_millis(1));
    }
    let (sent, rate) = generator.stop()?;
    println!("{sent} packets, {} a second", report::thousands(rate));
    Ok(())
}

fn main() -> ExitCode {
    sys::catch_interrupts();
    match work(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gen: {error}");
            ExitCode::FAILURE
        }
    }
}
