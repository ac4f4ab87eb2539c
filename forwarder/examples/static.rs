//! A router with static routes and no control plane: the data plane as simply as it can be used.
//!
//! ```text
//! static [--poll] [--workers 0,1] --port DEV... --local PREFIX... --route PREFIX=DEV@MAC...
//! ```
//!
//! Each route sends to the neighbour with that Ethernet address on that device; nothing is resolved. Counters are
//! printed at the end of standard input, or on each line of it.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr};

use forwarder::fib::{AdjState, Adjacency, Group, Member, VrfId};
use forwarder::{AntiSpoof, Dataplane, MacAddr, Mode, PortAttrs, PortId, PortSpec, Profile, Role, Settings};

const MAIN: u32 = 254;

fn read(device: &str, file: &str) -> Result<String, Box<dyn Error>> {
    let path = format!("/sys/class/net/{device}/{file}");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(text.trim().to_owned())
}

fn mac(text: &str) -> Result<MacAddr, Box<dyn Error>> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    MacAddr::try_from(bytes?).map_err(|_| format!("{text}: not an Ethernet address").into())
}

fn open(dataplane: &mut Dataplane, device: &str) -> Result<(PortId, u32, MacAddr), Box<dyn Error>> {
    let ifindex = read(device, "ifindex")?.parse()?;
    let mac = mac(&read(device, "address")?)?;
    let attrs = PortAttrs {
        mac,
        mtu: read(device, "mtu")?.parse()?,
        up: true,
        vrf: VrfId::DEFAULT,
        icmp4_source: Some(Ipv4Addr::new(192, 0, 0, 8)),
        icmp6_sources: Vec::new(),
    };
    let id = dataplane.open_port(PortSpec {
        name: device.to_owned(),
        ifindex,
        role: Role::Uplink,
        mode: Mode::Auto,
        on_exit_drop: false,
        fix_checksums: true,
        anti_spoof: AntiSpoof::Off,
        attrs,
        acl_ingress: None,
        acl_egress: None,
    })?;
    Ok((id, ifindex, mac))
}

fn show(dataplane: &Dataplane) {
    let now = dataplane.counters();
    for port in &now.ports {
        println!("{port:?}");
    }
    for drop in &now.drops {
        println!("{drop:?}");
    }
    println!("{:?}\n{:?}", now.workers, now.frames);
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let values = |name: &str| -> Vec<String> {
        args.windows(2)
            .filter(|pair| pair[0] == name)
            .map(|pair| pair[1].clone())
            .collect()
    };
    let mut settings = Settings::default();
    if args.iter().any(|arg| arg == "--poll") {
        settings.profile = Profile::Poll;
    }
    for cores in values("--workers") {
        settings.cores = cores.split(',').map(str::parse).collect::<Result<_, _>>()?;
    }
    let mut dataplane = Dataplane::start(settings)?;
    for warning in dataplane.warnings() {
        eprintln!("warning: {warning}");
    }

    let local: Result<Vec<_>, Box<dyn Error>> = values("--local")
        .iter()
        .map(|prefix| Ok((VrfId::DEFAULT, prefix.parse()?)))
        .collect();
    dataplane.set_local(&local?, &[])?;
    let mut ports = BTreeMap::new();
    for device in values("--port") {
        let port = open(&mut dataplane, &device)?;
        ports.insert(device, port);
    }
    let fib = dataplane.fib();
    fib.set_tables(&[MAIN])?;
    for route in values("--route") {
        let (prefix, to) = route.split_once('=').ok_or("a route is PREFIX=DEV@MAC")?;
        let (device, neighbour) = to.split_once('@').ok_or("a route is PREFIX=DEV@MAC")?;
        let (port, ifindex, src) = *ports.get(device).ok_or("a route needs a port")?;
        let adj = fib.add_adjacency(Adjacency {
            port: Some(port),
            ifindex,
            neighbour: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            mtu: 1500,
            state: AdjState::Resolved {
                dst: mac(neighbour)?,
                src,
            },
        });
        let group = fib.add_group(Group::Forward {
            members: vec![Member { adj, weight: 1 }],
            prefsrc: None,
        });
        fib.insert(MAIN, prefix.parse()?, group)?;
    }

    for line in std::io::stdin().lock().lines() {
        dataplane.maintain();
        match line?.strip_prefix("close ") {
            Some(device) => {
                let (port, ..) = ports.remove(device).ok_or("no such port")?;
                dataplane.close_port(port)?;
            }
            None => show(&dataplane),
        }
    }
    show(&dataplane);
    dataplane.shutdown()?;
    Ok(())
}
