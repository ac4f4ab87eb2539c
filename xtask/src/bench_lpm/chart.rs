//! The chart of `cargo xtask bench lpm`.

use std::fmt::Write as _;

use super::MODELS;

/// A bar chart: for each family and model, Margay beside the best peer.
pub(super) fn svg(families: &[(&str, [(f64, f64); 4])]) -> String {
    const WIDTH: usize = 760;
    const ROW: usize = 44;
    const LEFT: usize = 130;
    let greatest = families
        .iter()
        .flat_map(|(_, bars)| bars)
        .flat_map(|(a, b)| [*a, *b])
        .fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - 90) as f64 / greatest;
    let height = 60 + families.len() * MODELS.len() * ROW;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"15\">Route look-ups, M a second on one core (full table)</text>\n\
         <rect x=\"{LEFT}\" y=\"34\" width=\"12\" height=\"12\" fill=\"#b5651d\"/><text x=\"{}\" y=\"45\">Margay</text>\n\
         <rect x=\"{}\" y=\"34\" width=\"12\" height=\"12\" fill=\"#9aa5b1\"/><text x=\"{}\" y=\"45\">best DPDK method</text>\n",
        LEFT + 18,
        LEFT + 90,
        LEFT + 108,
    );
    let mut y = 58;
    for (family, bars) in families {
        for (model, (ours, theirs)) in MODELS.iter().zip(bars) {
            let _ = writeln!(out, "<text x=\"10\" y=\"{}\">IPv{family} {model}</text>", y + 22);
            for (line, (rate, colour)) in [(ours, "#b5651d"), (theirs, "#9aa5b1")].into_iter().enumerate() {
                let (top, width) = (y + line * 17, rate * scale);
                let _ = writeln!(
                    out,
                    "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"15\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"{}\">{rate:.0}</text>",
                    LEFT as f64 + width + 6.0,
                    top + 12,
                );
            }
            y += ROW;
        }
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_has_two_bars_a_model() {
        let chart = svg(&[("4", [(1.0, 2.0); 4]), ("6", [(3.0, 4.0); 4])]);
        // The background, the legend's two, and two for each of eight rows.
        assert_eq!(chart.matches("<rect").count(), 1 + 2 + 16);
    }
}
