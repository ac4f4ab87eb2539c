//! Captured packets as pcapng (draft-ietf-opsawg-pcapng): an interface for each port, verdict, reason and rule as the
//! comment of each packet.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::PcapError;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness};
use serde_json::Value;

/// Times are in nanoseconds: ten to the minus ninth.
const NANOSECONDS: u8 = 9;
/// Direction of a packet in the flags option: inbound, outbound.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writes packets as they come.
pub(super) struct Writer<W: Write> {
    inner: PcapNgWriter<W>,
    snap: u32,
    /// The number of each port's interface, and the time of its last packet.
    interfaces: BTreeMap<String, (u32, u64)>,
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

impl<W: Write> Writer<W> {
    /// Begins a file of packets of which at most `snap` bytes were kept.
    pub(super) fn new(out: W, snap: u32) -> io::Result<Self> {
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            major_version: 1,
            minor_version: 0,
            section_length: -1,
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
                "margay ",
                env!("CARGO_PKG_VERSION")
            )))],
        };
        Ok(Self {
            inner: PcapNgWriter::with_section_header(out, section).map_err(io_error)?,
            snap,
            interfaces: BTreeMap::new(),
        })
    }

    /// Writes one packet, an event of the daemon's stream.
    pub(super) fn packet(&mut self, event: &Value) -> io::Result<()> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no {what} in {event}"));
        let port = event["port"].as_str().ok_or_else(|| bad("port"))?;
        let time = event["time_ns"].as_u64().ok_or_else(|| bad("time"))?;
        let data = event["data"]
            .as_str()
            .and_then(bytes)
            .ok_or_else(|| bad("data"))?;
        let interface = self.interface(port)?;
        self.interfaces.insert(port.to_owned(), (interface, time));
        let direction = if event["at"] == "tx" { OUTBOUND } else { INBOUND };
        let block = EnhancedPacketBlock {
            interface_id: interface,
            timestamp: Duration::from_nanos(time),
            original_len: event["length"].as_u64().unwrap_or(data.len() as u64) as u32,
            data: Cow::Owned(data),
            options: vec![
                EnhancedPacketOption::Comment(Cow::Owned(comment(event))),
                EnhancedPacketOption::Flags(direction),
            ],
        };
        self.inner.write_pcapng_block(block).map_err(io_error)?;
        Ok(())
    }

    /// The number of a port's interface, which is described when it is met first.
    fn interface(&mut self, port: &str) -> io::Result<u32> {
        if let Some((number, _)) = self.interfaces.get(port) {
            return Ok(*number);
        }
        let number = self.interfaces.len() as u32;
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snap,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(port.to_owned())),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.inner.write_pcapng_block(block).map_err(io_error)?;
        Ok(number)
    }

    /// Ends the file: each interface's statistics say how many packets were lost. The rings lose packets of all ports
    /// together, so all of them stand at the first interface.
    pub(super) fn finish(mut self, lost: u64) -> io::Result<()> {
        let mut interfaces: Vec<(u32, u64)> = self.interfaces.values().copied().collect();
        interfaces.sort_unstable();
        for (interface, time) in interfaces {
            let lost = if interface == 0 { lost } else { 0 };
            let block = InterfaceStatisticsBlock {
                interface_id: interface,
                // The two halves of a time stand high half first, whatever the order of bytes.
                timestamp: time.rotate_left(32),
                options: vec![InterfaceStatisticsOption::IsbIfDrop(lost)],
            };
            self.inner.write_pcapng_block(block).map_err(io_error)?;
        }
        self.flush()
    }

    /// Gives what is written to whoever reads it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.inner.get_mut().flush()
    }
}

/// `at=drop verdict=drop reason=acl_ingress rule=from-a/3 deny (a.toml:17)`; with both lists asked, both rules.
fn comment(event: &Value) -> String {
    let mut words = vec![
        format!("at={}", event["at"].as_str().unwrap_or("?")),
        format!("verdict={}", event["verdict"].as_str().unwrap_or("?")),
    ];
    if let Some(reason) = event["reason"].as_str() {
        words.push(format!("reason={reason}"));
    }
    for key in ["ingress_rule", "egress_rule"] {
        if event[key].is_object() {
            words.push(format!("{key}={}", super::print::rule(&event[key])));
        }
    }
    if event["originated"] == true {
        words.push("originated".to_owned());
    }
    words.join(" ")
}

/// Hexadecimal digits as bytes.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let events = [
            json!({"port": "eth1", "time_ns": 1_795_185_296_123_456_789_u64, "at": "rx", "length": 1500, "data": "00ff10",
                   "verdict": "drop", "reason": "acl_ingress", "originated": false,
                   "ingress_rule": {"acl": "edge", "index": 3, "action": "deny", "file": "a.toml", "line": 17}, "egress_rule": null}),
            json!({"port": "cali-a", "time_ns": 1_795_185_297_000_000_000_u64, "at": "tx", "length": 4, "data": "01020304",
                   "verdict": "reply", "reason": "ttl_exceeded", "originated": true, "ingress_rule": null, "egress_rule": null}),
            json!({"port": "eth1", "time_ns": 1_795_185_298_000_000_000_u64, "at": "drop", "length": 0, "data": "",
                   "verdict": "forward", "reason": null, "originated": false, "ingress_rule": null, "egress_rule": null}),
        ];
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, 128).expect("memory");
        for event in &events {
            writer.packet(event).expect("a good event");
        }
        writer.finish(7).expect("memory");
        let mut reader = PcapNgReader::new(&file[..]).expect("a section");
        let (mut names, mut packets, mut drops) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.expect("a good block").into_owned() {
                Block::InterfaceDescription(block) => {
                    assert_eq!((block.linktype, block.snaplen), (DataLink::ETHERNET, 128));
                    names.push(block.options[0].clone());
                }
                Block::EnhancedPacket(block) => packets.push(block),
                Block::InterfaceStatistics(block) => {
                    drops.push((block.interface_id, block.options));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            names,
            ["eth1", "cali-a"].map(|name| InterfaceDescriptionOption::IfName(name.into()))
        );
        let seen: Vec<_> = packets
            .iter()
            .map(|packet| {
                (
                    packet.interface_id,
                    packet.timestamp.as_nanos() as u64,
                    packet.original_len,
                    packet.data.len(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (0, 1_795_185_296_123_456_789, 1500, 3),
                (1, 1_795_185_297_000_000_000, 4, 4),
                (0, 1_795_185_298_000_000_000, 0, 0)
            ]
        );
        assert_eq!(*packets[0].data, [0, 0xff, 0x10]);
        let comments = [
            (
                "at=rx verdict=drop reason=acl_ingress ingress_rule=edge rule 3 deny (a.toml:17)",
                INBOUND,
            ),
            ("at=tx verdict=reply reason=ttl_exceeded originated", OUTBOUND),
            ("at=drop verdict=forward", INBOUND),
        ];
        for (packet, (comment, flags)) in packets.iter().zip(comments) {
            let options = [
                EnhancedPacketOption::Comment(comment.into()),
                EnhancedPacketOption::Flags(flags),
            ];
            assert_eq!(packet.options, options);
        }
        assert_eq!(
            drops,
            [
                (0, vec![InterfaceStatisticsOption::IsbIfDrop(7)]),
                (1, vec![InterfaceStatisticsOption::IsbIfDrop(0)])
            ]
        );
    }

    #[test]
    fn an_event_that_is_not_whole_is_an_error() {
        let mut writer = Writer::new(Vec::new(), 128).expect("memory");
        for event in [
            json!({}),
            json!({"port": "a", "time_ns": 1, "data": "0"}),
            json!({"port": "a", "time_ns": 1, "data": "zz"}),
        ] {
            assert!(writer.packet(&event).is_err(), "{event}");
        }
    }
}
