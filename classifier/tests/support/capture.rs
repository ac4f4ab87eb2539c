//! The shared capture of real and malformed frames.

use std::io::Read;

/// The frames of the shared capture (classic pcap, Ethernet), or `None` where the data is not there.
pub fn frames() -> Option<Vec<Vec<u8>>> {
    let root = std::env::var("MARGAY_DATA")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data").to_owned());
    let path = std::path::Path::new(&root).join("pcap/tcpdump.pcap.gz");
    let Ok(file) = std::fs::File::open(&path) else {
        eprintln!(
            "SKIPPED: no capture at {} (set MARGAY_DATA to the folder that holds pcap/)",
            path.display()
        );
        return None;
    };
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file)
        .read_to_end(&mut bytes)
        .expect("the capture is gzip");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(
        (word(0), word(20)),
        (0xa1b2_c3d4, 1),
        "little-endian pcap of Ethernet frames"
    );
    let mut frames = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let len = word(at + 8) as usize;
        frames.push(bytes[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    Some(frames)
}
