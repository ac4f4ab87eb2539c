//! Commands below commands, and what they take.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::socket::MonitorKind;

/// A command with nothing but `show`.
#[derive(Debug, Subcommand)]
pub enum ShowOnly {
    /// Show all of them
    #[command(visible_alias = "list")]
    Show,
}

/// `margay port`.
#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// Show ports; with -s their counters
    #[command(visible_alias = "list")]
    Show {
        /// One port only
        name: Option<String>,
    },
    /// Give a port other access lists, kept across restarts
    #[command(after_help = "Examples:\n  \
        margay port set eth1 --acl-ingress edge-in\n  \
        margay port set eth1 --acl-egress ''      # no list\n  \
        margay port set eth1 --default            # as the configuration says")]
    Set {
        /// The port; it need not exist yet
        name: String,
        /// List for what comes in; an empty name takes the list away
        #[arg(long, value_name = "LIST")]
        acl_ingress: Option<String>,
        /// List for what goes out; an empty name takes the list away
        #[arg(long, value_name = "LIST")]
        acl_egress: Option<String>,
        /// Forget what was set
        #[arg(long, conflicts_with_all = ["acl_ingress", "acl_egress"])]
        default: bool,
    },
}

/// `margay route`.
#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// Show routes
    #[command(visible_alias = "list")]
    Show(RouteShow),
    /// The route that packets to an address take
    Get {
        /// The address
        address: IpAddr,
        /// The port that the packets come in by: the tables of its VRF are looked up
        #[arg(long = "in", value_name = "PORT")]
        port: Option<String>,
    },
}

/// `margay route show`.
#[derive(Debug, Default, Args)]
pub struct RouteShow {
    /// One table only, by number
    #[arg(long, value_name = "N")]
    pub table: Option<u32>,
    /// Read the kernel's tables anew and show what differs; exit with 7 if anything does
    #[arg(long)]
    pub diff_kernel: bool,
}

/// `margay acl`.
#[derive(Debug, Subcommand)]
pub enum AclCommand {
    /// Show lists; with a name or -s their rules and counters
    #[command(visible_alias = "list")]
    Show {
        /// One list only
        name: Option<String>,
    },
    /// Check files as a daemon would; needs no daemon
    Check {
        /// ACL files, or directories of them
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Read the lists anew; a bad file changes nothing
    Reload,
}

/// `margay bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Access lists
    Acl {
        /// Rules in ClassBench's format
        #[arg(long, value_name = "FILE")]
        rules: PathBuf,
        /// Packets: source, destination, ports, protocol and the expected rule
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
    },
    /// Route look-ups
    Lpm {
        /// Prefixes, one a line
        #[arg(long, value_name = "FILE")]
        prefixes: PathBuf,
        /// Destinations of one family, one a line
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
        /// Which image answers: the default one, or DIR-24-8 (IPv4 only)
        #[arg(long, value_enum, default_value_t)]
        engine: crate::bench::lpm::Engine,
    },
    /// The whole way of a packet, in memory
    Forward {
        /// Prefixes, one a line
        #[arg(long, value_name = "FILE")]
        prefixes: PathBuf,
        /// Rules in ClassBench's format
        #[arg(long, value_name = "FILE")]
        rules: PathBuf,
        /// Destinations, one a line
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
    },
}

/// One packet for `explain`.
#[derive(Debug, Clone, Args)]
pub struct Flow {
    /// Source address
    #[arg(long, value_name = "ADDR", required_unless_present = "cases")]
    pub from: Option<IpAddr>,
    /// Destination address
    #[arg(long, value_name = "ADDR", required_unless_present = "cases")]
    pub to: Option<IpAddr>,
    /// Port that the packet comes in by
    #[arg(long = "in", value_name = "PORT", required_unless_present = "cases")]
    pub port: Option<String>,
    /// Protocol, a name or a number; tcp when left out, icmp with --icmp
    #[arg(long, value_name = "PROTO")]
    pub proto: Option<String>,
    /// Source port
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub sport: u16,
    /// Destination port
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub dport: u16,
    /// TCP flags such as syn,ack; syn when left out
    #[arg(long, value_name = "FLAGS")]
    pub tcp_flags: Option<String>,
    /// ICMP type: a name, a number, or type/code
    #[arg(long, value_name = "TYPE")]
    pub icmp: Option<String>,
    /// TTL or hop limit that it comes in with
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub ttl: u8,
    /// Bytes of the IP packet, its headers included
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub length: u16,
    /// Exit with 7 unless it is forwarded (allow), or dropped or rejected by an access list (deny)
    #[arg(long, value_name = "WHAT")]
    pub expect: Option<Expect>,
}

/// What `explain` is expected to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Expect {
    /// The packet is forwarded
    Allow,
    /// An access list drops or rejects it
    Deny,
}

/// `margay config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file and the access lists that it names; needs no daemon
    Check {
        /// The file
        file: PathBuf,
    },
    /// Show where a file differs from what the daemon runs with; exit with 7 if it does
    Diff {
        /// The file
        file: PathBuf,
    },
    /// Show what the daemon runs with, defaults included
    Show,
}

/// Kinds of events on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// Routes added, replaced and removed
    Route,
    /// Neighbour entries
    Neigh,
    /// Links and ports
    Link,
    /// Drop counters that grew
    Drop,
}

impl From<KindArg> for MonitorKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Route => MonitorKind::Route,
            KindArg::Neigh => MonitorKind::Neigh,
            KindArg::Link => MonitorKind::Link,
            KindArg::Drop => MonitorKind::Drop,
        }
    }
}
