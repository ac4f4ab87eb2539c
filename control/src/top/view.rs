//! What is drawn, readable from 80 by 24 on. What does not fit is counted in the title of its block.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};

use super::rates::Rates;

/// What stands above the blocks besides the rates.
#[derive(Debug, Clone, Copy, Default)]
pub struct Header {
    /// Seconds since the daemon's last answer, once that is late.
    pub silent: Option<u64>,
}

/// A number with at most four digits and a letter: `987`, `12.3k`, `4.56M`.
pub(super) fn short(number: f64) -> String {
    let mut number = number;
    for unit in ["", "k", "M", "G", "T"] {
        if number < 999.5 || unit == "T" {
            return match () {
                () if unit.is_empty() && (number.fract() == 0.0 || number >= 99.95) => format!("{number:.0}"),
                () if number < 9.995 => format!("{number:.2}{unit}"),
                () if number < 99.95 => format!("{number:.1}{unit}"),
                () => format!("{number:.0}{unit}"),
            };
        }
        number /= 1000.0;
    }
    String::new()
}

fn uptime(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    format!("{days}d {hours:02}:{minutes:02}:{seconds:02}")
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, rates: Option<&Rates>, header: Header) {
    let [head, body] = Layout::vertical([Constraint::Length(2), Constraint::Min(0)]).areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines(rates, header)), head);
    let Some(rates) = rates else { return };
    let workers = rates.workers.len().clamp(1, 6) as u16 + 2;
    let [ports, worker_rows, rest] = Layout::vertical([
        Constraint::Fill(1),
        Constraint::Length(workers),
        Constraint::Fill(1),
    ])
    .areas(body);
    draw_ports(frame, ports, rates);
    draw_workers(frame, worker_rows, rates);
    let [drops, rules] = Layout::horizontal([Constraint::Length(35), Constraint::Min(0)])
        .spacing(1)
        .areas(rest);
    draw_drops(frame, drops, rates);
    draw_rules(frame, rules, rates);
}

fn head_lines(rates: Option<&Rates>, header: Header) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let Some(rates) = rates else {
        return vec![Line::from("margay top: waiting for two samples; q quits")];
    };
    let state = match (header.silent, rates.ready) {
        (Some(seconds), _) => Span::styled(format!("no answer for {seconds} s"), bold.fg(Color::Red)),
        (None, true) => Span::styled("ready", bold.fg(Color::Green)),
        (None, false) => Span::styled("not ready", bold.fg(Color::Red)),
    };
    let t = rates.tables;
    vec![
        Line::from(vec![
            Span::styled("margay ", bold),
            state,
            Span::raw(format!(
                "  up {}  generation {}  q quits",
                uptime(rates.uptime),
                rates.generation
            )),
        ]),
        Line::from(format!(
            "routes {}  fib {}B  neigh {}  groups {}  adj {}  frames {}/{} free",
            t.routes,
            short(t.fib_bytes as f64),
            t.neighbours,
            t.groups,
            t.adjacencies,
            t.frames_free,
            t.frames
        )),
    ]
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).alignment(Alignment::Right))
}

/// A block with a title that says how many rows there are when not all fit, and the rows that fit under a line of titles.
fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    name: &str,
    titles: &[&'static str],
    widths: &[Constraint],
    rows: Vec<Row<'static>>,
) {
    let fits = usize::from(area.height.saturating_sub(2));
    let title = if rows.len() > fits {
        format!(" {name} ({fits} of {}) ", rows.len())
    } else {
        format!(" {name} ")
    };
    let head = titles.iter().enumerate().map(|(at, title)| {
        let align = if at == 0 {
            Alignment::Left
        } else {
            Alignment::Right
        };
        Cell::from(Line::from(*title).alignment(align))
    });
    let head = Row::new(head).style(Style::new().add_modifier(Modifier::DIM));
    let block = Block::new().borders(Borders::TOP).title(title);
    frame.render_widget(
        Table::new(rows, widths.to_vec())
            .header(head)
            .block(block)
            .column_spacing(1),
        area,
    );
}

fn draw_ports(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let mut ports: Vec<_> = rates.ports.iter().collect();
    // Those with traffic first, so that a node with hundreds of ports shows what matters.
    ports.sort_by(|a, b| {
        (b.rx.0 + b.tx.0 + b.dropped)
            .total_cmp(&(a.rx.0 + a.tx.0 + a.dropped))
            .then(a.name.cmp(&b.name))
    });
    let rows = ports.into_iter().map(|port| {
        let name = if port.up {
            port.name.clone()
        } else {
            format!("{} (down)", port.name)
        };
        let style = if port.up {
            Style::new()
        } else {
            Style::new().fg(Color::Red)
        };
        Row::new(vec![
            Cell::from(name),
            right(short(port.rx.0)),
            right(short(port.rx.1)),
            right(short(port.tx.0)),
            right(short(port.tx.1)),
            right(short(port.dropped)),
        ])
        .style(style)
    });
    table(
        frame,
        area,
        "ports",
        &["port", "rx pkt/s", "rx bit/s", "tx pkt/s", "tx bit/s", "drop/s"],
        &[
            Constraint::Min(22),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(8),
        ],
        rows.collect(),
    );
}

/// Cells of the bar that shows a worker's busy share.
const BAR: usize = 16;

fn draw_workers(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let rows = rates.workers.iter().map(|worker| {
        let filled = (worker.busy * BAR as f64).round().clamp(0.0, BAR as f64) as usize;
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR - filled));
        let color = if worker.busy > 0.9 {
            Color::Red
        } else {
            Color::Green
        };
        let shares: Vec<String> = worker
            .sizes
            .iter()
            .map(|share| format!("{:>3.0}", share * 100.0))
            .collect();
        Row::new(vec![
            Cell::from(format!("{}", worker.core)),
            Cell::from(Line::from(vec![
                Span::styled(bar, Style::new().fg(color)),
                Span::raw(format!(" {:>5.1}%", worker.busy * 100.0)),
            ])),
            right(short(worker.bursts)),
            right(format!("{:.1}", worker.mean)),
            right(shares.join(" ")),
        ])
    });
    table(
        frame,
        area,
        "workers",
        &[
            "core",
            "busy",
            "bursts/s",
            "mean",
            "% of 1   2   4   8  16  32  64",
        ],
        &[
            Constraint::Length(4),
            Constraint::Length(BAR as u16 + 7),
            Constraint::Length(8),
            Constraint::Length(5),
            Constraint::Min(32),
        ],
        rows.collect(),
    );
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let rows = rates.drops.iter().map(|drop| {
        let style = if drop.rate > 0.0 {
            Style::new().fg(Color::Yellow)
        } else {
            Style::new()
        };
        Row::new(vec![
            Cell::from(drop.reason.clone()),
            right(short(drop.rate)),
            right(short(drop.packets as f64)),
        ])
        .style(style)
    });
    table(
        frame,
        area,
        "drops",
        &["reason", "pkt/s", "all"],
        &[Constraint::Min(18), Constraint::Length(6), Constraint::Length(6)],
        rows.collect(),
    );
}

fn draw_rules(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let rows = rates.rules.iter().map(|rule| {
        Row::new(vec![
            Cell::from(format!("{} {}", rule.name, rule.place)),
            right(rule.action.clone()),
            right(short(rule.rate)),
            right(short(rule.packets as f64)),
        ])
    });
    table(
        frame,
        area,
        "top rules",
        &["rule", "action", "pkt/s", "all"],
        &[
            Constraint::Min(18),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(6),
        ],
        rows.collect(),
    );
}
