//! The timeline of a run as text: a row for each function instance in the order of their starts, which shows the
//! instances that worked at the same time.

mod bar;
mod rows;

use dflow_worker::report::{AttemptReport, RunReport};

use crate::terminal::{Look, Style};
use crate::units::{Clock, size};
use bar::{Glyphs, Phase};
use rows::Row;

/// Maximum width of the column of names.
const MAX_LABEL: usize = 32;

/// Maximum width of the column of nodes.
const MAX_NODE: usize = 16;

/// Minimum width of a bar. On a terminal that is too narrow for it, lines wrap.
const MIN_BAR: usize = 10;

/// The space between two columns.
const GAP: &str = "  ";

/// The space between two entries of the legend.
const LEGEND_GAP: &str = "   ";

/// The contents of a timeline.
pub struct Chart<'a> {
    /// The instances, and the outputs of the workflow.
    pub attempts: &'a [AttemptReport],
    /// Whether they run on several nodes.
    pub several_nodes: bool,
    /// The end of the run, in nanoseconds since its start.
    pub end_ns: u64,
    /// Where instances that are left out can be seen.
    pub complete: &'static str,
}

/// The timeline of a run, with a line feed after each line; empty if nothing was started.
pub fn render(report: &RunReport, look: &Look) -> String {
    let chart = Chart {
        attempts: &report.instances,
        several_nodes: report.nodes.len() > 1,
        end_ns: report.duration_ns,
        complete: "--format json and --trace have them all",
    };
    draw(&chart, look)
}

/// A timeline, with a line feed after each line; empty without attempts.
pub fn draw(chart: &Chart<'_>, look: &Look) -> String {
    let table = rows::rows(chart.attempts, look.more());
    if table.rows.is_empty() {
        return String::new();
    }
    let glyphs = Glyphs::of(look.unicode);
    let clock = Clock::up_to(chart.end_ns);
    // Where a run has one node, a column that repeats its name would only make the bars shorter.
    let several = chart.several_nodes;
    let cells: Vec<Cells> = table.rows.iter().map(|row| Cells::of(row, several, &clock, look)).collect();
    let heads = Cells::heads(several, &clock);

    let width_of = |column: fn(&Cells) -> &str| {
        cells.iter().chain([&heads]).map(|cells| column(cells).chars().count()).max().unwrap_or(0)
    };
    let widths = Widths {
        label: width_of(|cells| &cells.label),
        node: several.then(|| width_of(|cells| &cells.node)),
        start: width_of(|cells| &cells.start),
        end: width_of(|cells| &cells.end),
        read: width_of(|cells| &cells.read),
        written: width_of(|cells| &cells.written),
        state: width_of(|cells| &cells.state),
    };
    let bar = widths.bar(look.width);

    let total = look.duration(chart.end_ns);
    let scale = format!("0{total:>rest$}", rest = bar.saturating_sub(1));
    let mut text = look.paint(Style::Dim, widths.line(&heads, &scale).trim_end()) + "\n";
    for (row, cells) in table.rows.iter().zip(&cells) {
        // The row of the outputs is dimmed as a whole.
        let colors = Look { color: look.color && !row.is_outputs(), ..*look };
        let line = widths.line(cells, &bar::draw(row, chart.end_ns, bar, glyphs, &colors));
        let line = line.trim_end();
        text.push_str(&if row.is_outputs() { look.paint(Style::Dim, line) } else { line.into() });
        text.push('\n');
    }
    if table.hidden > 0 {
        let more = look.more();
        let note = format!("{more} {} more instances; {}", table.hidden, chart.complete);
        text.push_str(&(look.paint(Style::Dim, &note) + "\n"));
    }
    for line in legend(glyphs, look.width) {
        text.push_str(&(look.paint(Style::Dim, &line) + "\n"));
    }
    text
}

/// The legend of the characters, in as many lines as necessary.
fn legend(glyphs: &Glyphs, width: usize) -> Vec<String> {
    let phases = [
        (Phase::Waiting, "ready, waits for its gate or slot"),
        (Phase::Started, "runs, no byte yet"),
        (Phase::Reading, "reads"),
        (Phase::Writing, "since its first output byte"),
    ];
    let mut lines: Vec<String> = Vec::new();
    for (phase, meaning) in phases {
        let text = format!("{} {meaning}", glyphs.of_phase(phase));
        match lines.last_mut() {
            Some(line) if line.chars().count() + LEGEND_GAP.len() + text.chars().count() <= width => {
                line.push_str(LEGEND_GAP);
                line.push_str(&text);
            }
            _ => lines.push(text),
        }
    }
    lines
}

/// The texts of a row.
struct Cells {
    label: String,
    /// Empty where no nodes are shown.
    node: String,
    start: String,
    end: String,
    read: String,
    written: String,
    state: String,
}

impl Cells {
    fn heads(nodes: bool, clock: &Clock) -> Self {
        Self {
            label: String::new(),
            node: if nodes { "node".into() } else { String::new() },
            start: format!("start {}", clock.unit),
            end: format!("end {}", clock.unit),
            read: "in".into(),
            written: "out".into(),
            state: String::new(),
        }
    }

    fn of(row: &Row<'_>, nodes: bool, clock: &Clock, look: &Look) -> Self {
        let time = |time: Option<u64>| time.map_or_else(|| "-".into(), |time| clock.show(time));
        let written = if row.is_outputs() { String::new() } else { size(row.bytes_written()) };
        Self {
            label: shorten(&row.label, MAX_LABEL, look.more()),
            node: if nodes { shorten(&row.nodes(), MAX_NODE, look.more()) } else { String::new() },
            start: time(row.started()),
            end: time(row.ended()),
            read: size(row.bytes_read()),
            written,
            state: row.state(),
        }
    }
}

/// The widths of the columns.
struct Widths {
    label: usize,
    /// `None` where no nodes are shown.
    node: Option<usize>,
    start: usize,
    end: usize,
    read: usize,
    written: usize,
    state: usize,
}

impl Widths {
    /// The width left for the bars.
    fn bar(&self, total: usize) -> usize {
        let columns = [self.label, self.start, self.end, self.read, self.written];
        let state = if self.state > 0 { GAP.len() + self.state } else { 0 };
        let node = self.node.map_or(0, |node| GAP.len() + node);
        let others = columns.iter().sum::<usize>() + columns.len() * GAP.len() + node + state;
        total.saturating_sub(others).max(MIN_BAR)
    }

    /// Formats a line. The bar already has its width and may contain colours.
    fn line(&self, cells: &Cells, bar: &str) -> String {
        let Self { label, node, start, end, read, written, .. } = *self;
        let name = match node {
            Some(node) => format!("{:label$}{GAP}{:node$}", cells.label, cells.node),
            None => format!("{:label$}", cells.label),
        };
        [
            name,
            format!("{:>start$}", cells.start),
            format!("{:>end$}", cells.end),
            bar.to_owned(),
            format!("{:>read$}", cells.read),
            format!("{:>written$}", cells.written),
            cells.state.clone(),
        ]
        .join(GAP)
    }
}

/// Shortens a long name in the middle, because names usually differ at their start or in the part at their end.
fn shorten(label: &str, width: usize, more: &str) -> String {
    let length = label.chars().count();
    if length <= width {
        return label.into();
    }
    let kept = width - more.chars().count();
    let (front, back) = (kept.div_ceil(2), kept / 2);
    label.chars().take(front).chain(more.chars()).chain(label.chars().skip(length - back)).collect()
}

#[cfg(test)]
mod tests;
