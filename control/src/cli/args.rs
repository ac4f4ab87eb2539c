//! The arguments, as clap reads them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::config::DEFAULT_SOCKET;
use crate::socket::{FamilyArg, PointArg};

pub use super::subcommands::{
    AclCommand, BenchCommand, ConfigCommand, Expect, Flow, KindArg, PortCommand, RouteCommand, ShowOnly,
};

/// Looks into a running margayd and steers it.
#[derive(Debug, Parser)]
#[command(
    name = "margay",
    version,
    infer_subcommands = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 daemon not reachable, 5 not permitted,\n\
                  6 bad configuration or access list, 7 expectation not met.\n\n\
                  Examples:\n  \
                  margay status\n  \
                  margay -s port show\n  \
                  margay -6 route show\n  \
                  margay -j route get 10.1.2.3 | jq .nexthop\n  \
                  margay route show --diff-kernel"
)]
pub struct Cli {
    /// Path of the daemon's control socket
    #[arg(long, global = true, env = "MARGAY_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// Print JSON: the answer to standard output, errors with a stable code to standard error
    #[arg(short, long, global = true)]
    pub json: bool,
    /// Show statistics as well
    #[arg(short, long, global = true)]
    pub statistics: bool,
    /// IPv4 only
    #[arg(short = '4', global = true, conflicts_with = "ipv6", action = ArgAction::SetTrue)]
    pub ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', global = true, action = ArgAction::SetTrue)]
    pub ipv6: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The family that `-4` or `-6` chose.
    pub fn family(&self) -> Option<FamilyArg> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(FamilyArg::V4),
            (_, true) => Some(FamilyArg::V6),
            _ => None,
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Whether the daemon forwards, and how busy it is
    Status {
        /// Exit with 7 unless the daemon is ready: tables mirrored, lists compiled, ports open
        #[arg(long)]
        ready: bool,
    },
    /// Look for what is wrong or slow on this node; reads only
    Doctor {
        /// One port only
        port: Option<String>,
    },
    /// Ports, workers, drops and rules, live; q quits. With -j a sample a line
    #[command(after_help = "Examples:\n  margay top\n  margay top -d 5\n  margay -j top -n 2")]
    Top {
        /// Seconds between two samples, 0.1 to 3600
        #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
        delay: Duration,
        /// End after so many samples
        #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Let the kernel forward again between closed ports: takes the nftables guard away, with or without a daemon
    #[command(
        after_help = "Examples:\n  margay release eth1\n  margay release 'cali*'\n  margay release --all"
    )]
    Release {
        /// Port or pattern as the guard has it (`nft list table inet margay`)
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        port: Option<String>,
        /// The whole guard
        #[arg(long)]
        all: bool,
    },
    /// Ports: state, counters, access lists
    Port {
        /// `show` when left out
        #[command(subcommand)]
        command: Option<PortCommand>,
    },
    /// Routes as the data plane has them
    Route {
        /// `show` when left out
        #[command(subcommand)]
        command: Option<RouteCommand>,
    },
    /// Neighbours as the kernel knows them
    Neigh {
        /// `show` when left out
        #[command(subcommand)]
        command: Option<ShowOnly>,
    },
    /// Next-hop groups of the data plane
    Nexthop {
        /// `show` when left out
        #[command(subcommand)]
        command: Option<ShowOnly>,
    },
    /// Access lists: counters, check of files, reload
    Acl {
        /// `show` when left out
        #[command(subcommand)]
        command: Option<AclCommand>,
    },
    /// Dropped packets by reason; the last of them, kept with their first bytes
    #[command(args_conflicts_with_subcommands = true)]
    #[command(after_help = "Examples:\n  margay drops\n  margay drops last 20\n  \
        margay drops last 5 -x host 10.0.0.7 and port 443\n  margay drops watch")]
    Drops {
        /// Count from zero again after showing
        #[arg(long)]
        reset: bool,
        /// The reasons when left out
        #[command(subcommand)]
        command: Option<DropsCommand>,
    },
    /// The next packets on their way through the data path, stage by stage
    #[command(after_help = FILTER_HELP)]
    Trace {
        /// End after so many packets; 0 for no end
        #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
        count: u64,
        /// Only packets that match
        #[arg(value_name = "FILTER")]
        filter: Vec<String>,
    },
    /// Packets from inside the data path as pcapng, with verdict, reason and rule as comments
    Capture(CaptureCommand),
    /// What would become of a packet, and why, by the tables that the workers use
    #[command(after_help = "Examples:\n  \
        margay explain --from 10.0.0.7 --to 10.1.0.1 --proto tcp --dport 443 --in eth1\n  \
        margay explain --from 2001:db8::7 --to 2001:db8:1::1 --icmp echo-request --in cali1 --expect allow\n  \
        margay explain --cases policy.cases\n\n\
        A file of cases has one case a line, written as these options, with --expect; # begins a comment.")]
    Explain {
        /// The packet
        #[command(flatten)]
        flow: Flow,
        /// A file of cases; exit with 7 unless all of them are as expected
        #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "port"])]
        cases: Option<PathBuf>,
    },
    /// What happens, as it happens, until interrupted
    #[command(
        after_help = "Examples:\n  margay monitor\n  margay monitor route,neigh\n  margay -j monitor drop | jq .reason"
    )]
    Monitor {
        /// Only these kinds of events
        #[arg(value_delimiter = ',', value_name = "KIND")]
        kinds: Vec<KindArg>,
    },
    /// Measure the look-up engines on files of your own; needs no daemon
    Bench {
        /// What to measure
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Configuration files
    Config {
        /// What to do with them
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// The filter language, for people.
const FILTER_HELP: &str = "\
FILTER is a subset of pcap's language, for both families:\n  \
  host ADDRESS, net PREFIX, port N, portrange N-M, each also behind src or dst;\n  \
  tcp, udp, sctp (also tcp port N), icmp, icmp6, ip, ip6, proto NAME-OR-NUMBER;\n  \
  and, or, not, parentheses. As in pcap, `and` and `or` bind alike, from left to right.\n\n\
Examples:\n  \
  margay trace -n 3 host 10.0.0.7 and tcp port 443\n  \
  margay trace 'src net 2001:db8::/32 and not (icmp6 or port 53)'\n  \
  margay capture --port eth1 --at rx,drop -c 100 -w out.pcapng udp\n  \
  margay capture --port eth1 --at drop -w - | tshark -r -";

/// `margay drops`.
#[derive(Debug, Subcommand)]
pub enum DropsCommand {
    /// The last dropped packets, newest first: each worker keeps 4,096
    Last {
        /// How many
        #[arg(default_value_t = 10, value_name = "N")]
        count: usize,
        /// Show the first 128 bytes of each
        #[arg(short = 'x', long)]
        hex: bool,
        /// Only packets that match; see `margay trace --help`
        #[arg(value_name = "FILTER")]
        filter: Vec<String>,
    },
    /// What is dropped, every second in which something is, until interrupted
    Watch,
}

/// `margay capture`.
#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub struct CaptureCommand {
    /// Packets that come in by these ports (at rx and drop) or leave by them (at tx); all ports when left out
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    pub port: Vec<String>,
    /// Where on their way: as they come in, as they leave, where they are dropped
    #[arg(long, value_delimiter = ',', required = true, value_name = "POINT")]
    pub at: Vec<AtArg>,
    /// End after so many packets; 0 for no end
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    pub count: u64,
    /// Keep so many bytes of each packet; 0 for all
    #[arg(short = 'S', long, default_value_t = 0, value_name = "BYTES")]
    pub snap: usize,
    /// The pcapng file to write; - for the standard output. With -j, JSON lines instead
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Only packets that match
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
}

/// Points of a packet's way on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AtArg {
    /// As it came in
    Rx,
    /// Rewritten, on its way to the TX ring
    Tx,
    /// Where it is dropped
    Drop,
}

impl From<AtArg> for PointArg {
    fn from(at: AtArg) -> Self {
        match at {
            AtArg::Rx => PointArg::Rx,
            AtArg::Tx => PointArg::Tx,
            AtArg::Drop => PointArg::Drop,
        }
    }
}

/// The time between two samples of `top`.
fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0.1 to 3600".to_owned()),
    }
}
