//! The table and the chart of `cargo xtask bench acl`.

use std::fmt::Write as _;

use crate::report;

/// What was measured of a set.
pub struct Row {
    /// Name of the set; that of an IPv6 set ends with `-v6`.
    pub name: String,
    /// Rules in it.
    pub rules: usize,
    /// Classifications a second, ours and the peer's.
    pub ours: f64,
    /// See `ours`.
    pub peer: Option<f64>,
    /// Seconds to build, ours and the peer's.
    pub build: f64,
    /// See `build`.
    pub peer_build: Option<f64>,
    /// Bytes that look-ups read; of the peer all that it holds.
    pub bytes: usize,
    /// See `bytes`.
    pub peer_bytes: Option<f64>,
    /// Keys for which another rule was found than a scan finds.
    pub wrong: usize,
    /// Speed over the slowest traffic, as a share of the speed over the average traffic.
    pub worst: f64,
    /// Which traffic that is.
    pub worst_name: &'static str,
}

const HEAD: [&str; 11] = [
    "set",
    "rules",
    "Margay M/s",
    "rte_acl M/s",
    "ratio",
    "build s",
    "rte_acl",
    "MiB",
    "rte_acl",
    "mismatches",
    "worst / average",
];

impl Row {
    fn cells(&self) -> Vec<String> {
        let number = |value: Option<f64>, scale: f64, digits: usize| {
            value.map_or("–".into(), |value| format!("{:.digits$}", value / scale))
        };
        vec![
            self.name.clone(),
            report::thousands(self.rules as f64),
            format!("{:.1}", self.ours / 1e6),
            number(self.peer, 1e6, 1),
            number(self.ratio(), 1.0, 2),
            format!("{:.3}", self.build),
            number(self.peer_build, 1.0, 2),
            format!("{:.1}", self.bytes as f64 / 1048576.0),
            number(self.peer_bytes, 1048576.0, 1),
            self.wrong.to_string(),
            format!("{:.2} ({})", self.worst, self.worst_name),
        ]
    }

    /// Our speed as a multiple of the peer's.
    pub fn ratio(&self) -> Option<f64> {
        self.peer.map(|peer| self.ours / peer)
    }

    /// The row alone, for those who wait for the table.
    pub fn line(&self) -> String {
        self.cells().join(" | ")
    }

    fn is_of(&self, ipv6: bool, sizes: &[&str]) -> bool {
        let name = self.name.trim_end_matches("-v6");
        self.name.ends_with("-v6") == ipv6 && sizes.iter().any(|size| name.ends_with(size))
    }
}

/// The table in Markdown, then the means.
pub fn table(rows: &[Row]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    let mut text = report::table(&HEAD, &cells);
    for (what, ipv6) in [("IPv4", false), ("IPv6", true)] {
        for sizes in [&["_1k", "_10k"][..], &["_100k"][..]] {
            let ratios: Vec<f64> = rows
                .iter()
                .filter(|row| row.is_of(ipv6, sizes))
                .filter_map(Row::ratio)
                .collect();
            if ratios.is_empty() {
                continue;
            }
            let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
            let least = ratios.iter().copied().fold(f64::MAX, f64::min);
            let _ = writeln!(
                text,
                "\n{what}, {}: geometric mean {mean:.2} ×, least {least:.2} ×",
                sizes.join(" ").replace('_', "")
            );
        }
    }
    text
}

/// A bar chart, in SVG, of the sets that the peer was measured with.
pub fn chart(rows: &[Row]) -> String {
    let rows: Vec<(&Row, f64)> = rows
        .iter()
        .filter_map(|row| row.peer.map(|peer| (row, peer)))
        .collect();
    let most = rows
        .iter()
        .map(|(row, peer)| row.ours.max(*peer))
        .fold(1.0, f64::max);
    let height = 46 + rows.len() * 34;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Classifications a second, one core, bursts of 64: Margay (brown) and DPDK's rte_acl (best method, grey)</text>\n"
    );
    for (i, (row, peer)) in rows.iter().enumerate() {
        let y = 36 + i * 34;
        let _ = writeln!(
            out,
            "<text x=\"120\" y=\"{}\" text-anchor=\"end\">{}</text>",
            y + 18,
            row.name
        );
        for (rate, y, height, fill) in [(row.ours, y, 13, "#b5651d"), (*peer, y + 14, 13, "#9aa5b1")] {
            let width = rate / most * 520.0;
            let _ = writeln!(
                out,
                "<rect x=\"128\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{fill}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{:.0} M/s</text>",
                134.0 + width,
                y + 11,
                rate / 1e6
            );
        }
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ours: f64, peer: Option<f64>) -> Row {
        Row {
            name: name.into(),
            rules: 1000,
            ours,
            peer,
            build: 0.001,
            peer_build: peer.map(|_| 1.0),
            bytes: 1 << 20,
            peer_bytes: peer.map(|_| 1e6),
            wrong: 0,
            worst: 0.8,
            worst_name: "misses",
        }
    }

    #[test]
    fn means_are_of_the_sets_that_the_peer_was_measured_with() {
        let rows = [
            row("a_1k", 8e6, Some(2e6)),
            row("b_10k", 9e6, Some(9e6)),
            row("c_10k", 1.0, None),
            row("a_1k-v6", 3e6, Some(2e6)),
        ];
        let text = table(&rows);
        assert!(text.contains("| a_1k | 1,000 | 8.0 | 2.0 | 4.00 |"), "{text}");
        assert!(
            text.contains("IPv4, 1k 10k: geometric mean 2.00 ×, least 1.00 ×"),
            "{text}"
        );
        assert!(text.contains("IPv6, 1k 10k: geometric mean 1.50 ×"), "{text}");
        assert!(!text.contains("100k"), "{text}");
        assert_eq!(chart(&rows).matches("<rect").count(), 1 + 2 * 3);
    }
}
