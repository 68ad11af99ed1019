//! The results, as tables or as one JSON document.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Trying};
use crate::latency::Summary;
use crate::settings::{Format, Settings};
use crate::subject::{Role, Subject, Waiting};
use crate::topology::Topology;

/// The results of one run of the program.
pub struct Report {
    topology: Topology,
    format: Format,
    quick: bool,
    repeats: u32,
    tables: Vec<Table>,
    /// The subjects that have been described in an earlier table.
    told: Vec<&'static str>,
}

/// One table: a comparison of subjects.
pub struct Table {
    /// The compared quantity.
    pub title: String,
    /// The topic's name on the command line.
    pub topic: &'static str,
    /// How it was measured, for the interpretation of the figures.
    pub notes: Vec<String>,
    /// The figures reported for each subject.
    pub columns: &'static [Column],
    /// A row for each case and subject.
    pub rows: Vec<Row>,
}

/// A figure reported for each subject.
#[derive(Clone, Copy)]
pub struct Column {
    /// Its key in JSON, with the unit.
    pub key: &'static str,
    /// Its heading in a table.
    pub head: &'static str,
    /// Its unit in a table.
    pub unit: Unit,
}

/// The unit of a figure.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Nanoseconds, displayed in a suitable unit.
    Time,
    /// Bytes per second, displayed in GB/s or MB/s.
    Bandwidth,
    /// Events per second.
    Rate,
    /// Bytes.
    Size,
    /// A ratio to the limit.
    Ratio,
}

/// The result of a subject in a case.
pub struct Row {
    /// The case, such as "64 B, spinning".
    pub case: String,
    /// The subject's name.
    pub subject: &'static str,
    /// A description of the subject.
    pub about: &'static str,
    /// Its role in the comparison.
    pub role: Role,
    /// How its readers wait.
    pub waiting: Waiting,
    /// A figure for each column, or why the subject was not measured.
    pub figures: Result<Vec<Option<f64>>, Failure>,
}

impl Row {
    /// A row for a subject.
    pub fn new<S: Subject + ?Sized>(case: &str, subject: &S, figures: Result<Vec<Option<f64>>, Failure>) -> Row {
        Row {
            case: case.to_owned(),
            subject: subject.card().name,
            about: subject.card().about,
            role: subject.card().role,
            waiting: subject.card().waiting,
            figures,
        }
    }
}

impl Column {
    /// The median and other percentiles of latencies.
    pub const P50: Column = Column { key: "p50_ns", head: "p50", unit: Unit::Time };
    pub const P90: Column = Column { key: "p90_ns", head: "p90", unit: Unit::Time };
    pub const P99: Column = Column { key: "p99_ns", head: "p99", unit: Unit::Time };
    pub const MAX: Column = Column { key: "max_ns", head: "max", unit: Unit::Time };
    pub const P50_OVER_LIMIT: Column = Column { key: "p50_over_limit", head: "p50/limit", unit: Unit::Ratio };
    pub const P99_OVER_LIMIT: Column = Column { key: "p99_over_limit", head: "p99/limit", unit: Unit::Ratio };
}

/// The columns of a table of latencies; the figures come from [`latency_figures`].
pub const LATENCY_COLUMNS: &[Column] = &[
    Column::P50,
    Column::P90,
    Column::P99,
    Column { key: "p99_9_ns", head: "p99.9", unit: Unit::Time },
    Column { key: "p99_99_ns", head: "p99.99", unit: Unit::Time },
    Column::MAX,
    Column::P50_OVER_LIMIT,
    Column::P99_OVER_LIMIT,
];

/// The figures of [`LATENCY_COLUMNS`].
pub fn latency_figures(summary: Summary, limit: Option<Summary>) -> Vec<Option<f64>> {
    figures_of(
        &summary,
        limit.as_ref(),
        &[|all| all.p50, |all| all.p90, |all| all.p99, |all| all.p999, |all| all.p9999, |all| all.max],
        &[|all| all.p50, |all| all.p99],
    )
}

/// These figures of a summary, followed by those reported as a ratio to the limit.
pub fn figures_of(
    summary: &Summary,
    limit: Option<&Summary>,
    own: &[fn(&Summary) -> f64],
    over_limit: &[fn(&Summary) -> f64],
) -> Vec<Option<f64>> {
    let own = own.iter().map(|of| Some(of(summary)));
    own.chain(over_limit.iter().map(|of| limit.map(|limit| of(summary) / of(limit)))).collect()
}

impl Report {
    /// An empty report.
    pub fn new(topology: Topology, settings: &Settings) -> Result<Report, Failure> {
        let Settings { format, quick, repeats, .. } = *settings;
        let report = Report { topology, format, quick, repeats, tables: Vec::new(), told: Vec::new() };
        if format == Format::Human {
            let mut lines = report.topology.lines();
            let quick = if quick { "; quick runs, not representative" } else { "" };
            lines.push(format!("medians of {repeats} repeats, interleaved between subjects{quick}\n"));
            write(&lines.join("\n"))?;
        }
        Ok(report)
    }

    /// Adds a table. In the human format it is printed at once.
    pub fn add(&mut self, table: Table) -> Result<(), Failure> {
        if self.format == Format::Human {
            let text = table.text() + &table.explanations(&mut self.told);
            write(&text)?;
        }
        self.tables.push(table);
        Ok(())
    }

    /// Writes the JSON document, if that is the format.
    pub fn finish(self) -> Result<(), Failure> {
        if self.format == Format::Json {
            let document = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "topology": self.topology,
                "quick": self.quick,
                "repeats": self.repeats,
                "tables": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
            });
            let text = serde_json::to_string_pretty(&document).trying("encode the report")?;
            write(&(text + "\n"))?;
        }
        Ok(())
    }
}

/// Writes to standard output and flushes it, so that each table appears as soon as it is complete.
fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).trying("write the report")
}

impl Table {
    fn text(&self) -> String {
        let mut text = format!("\n## {}: {}\n", self.topic, self.title);
        for note in &self.notes {
            let _ = writeln!(text, "   {note}");
        }
        let names = self.name_width();
        let mut case = "";
        for row in &self.rows {
            if row.case != case {
                case = &row.case;
                let _ = write!(text, "\n{case:<width$}", width = names + 9);
                for column in self.columns {
                    let _ = write!(text, " {:>9}", column.head);
                }
                text.push('\n');
            }
            let role = match row.role {
                Role::Limit => "limit",
                Role::Peer => "peer",
                Role::Ours => "ours",
            };
            let _ = write!(text, "  {:<width$} {role:<6}", row.subject, width = names);
            match &row.figures {
                Ok(figures) => {
                    for (column, figure) in self.columns.iter().zip(figures) {
                        let shown = figure.map_or_else(|| "–".to_owned(), |figure| column.unit.show(figure));
                        let _ = write!(text, " {shown:>9}");
                    }
                }
                Err(failure) => {
                    let _ = write!(text, " not measured: {failure}");
                }
            }
            text.push('\n');
        }
        text
    }

    /// The descriptions of the subjects that have not been described yet.
    fn explanations(&self, told: &mut Vec<&'static str>) -> String {
        let mut text = String::new();
        for row in &self.rows {
            if !told.contains(&row.subject) {
                told.push(row.subject);
                let _ = write!(text, "\n  {:<width$} {}", row.subject, row.about, width = self.name_width());
            }
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    /// The width of the column of names, wide enough for the case above names and roles.
    fn name_width(&self) -> usize {
        let names = self.rows.iter().map(|row| row.subject.len());
        let cases = self.rows.iter().map(|row| row.case.chars().count().saturating_sub(9));
        names.chain(cases).max().unwrap_or(0)
    }

    fn json(&self) -> Value {
        let rows: Vec<_> = self.rows.iter().map(|row| row.json(self.columns)).collect();
        json!({ "topic": self.topic, "title": self.title, "notes": self.notes, "rows": rows })
    }
}

impl Row {
    fn json(&self, columns: &[Column]) -> Value {
        #[derive(Serialize)]
        struct Head<'a> {
            case: &'a str,
            subject: &'a str,
            about: &'a str,
            role: Role,
            waiting: Waiting,
        }
        let Row { case, subject, about, role, waiting, .. } = self;
        let head = Head { case, subject, about, role: *role, waiting: *waiting };
        let mut row = json!(head);
        match &self.figures {
            Ok(figures) => {
                let figures: Map<_, _> = columns
                    .iter()
                    .zip(figures)
                    .filter_map(|(column, figure)| figure.map(|figure| (column.key.to_owned(), json!(figure))))
                    .collect();
                row["figures"] = Value::Object(figures);
            }
            Err(failure) => row["not_measured"] = json!(failure.to_string()),
        }
        row
    }
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Unit::Time if figure < 1e3 => format!("{figure:.0} ns"),
            Unit::Time if figure < 1e6 => format!("{} µs", three_digits(figure / 1e3)),
            Unit::Time if figure < 1e9 => format!("{} ms", three_digits(figure / 1e6)),
            Unit::Time => format!("{} s", three_digits(figure / 1e9)),
            Unit::Bandwidth if figure < 1e8 => format!("{} MB/s", three_digits(figure / 1e6)),
            Unit::Bandwidth => format!("{} GB/s", three_digits(figure / 1e9)),
            Unit::Rate if figure < 1e3 => format!("{figure:.0} /s"),
            Unit::Rate if figure < 1e6 => format!("{} k/s", three_digits(figure / 1e3)),
            Unit::Rate => format!("{} M/s", three_digits(figure / 1e6)),
            Unit::Size => size(figure as usize),
            Unit::Ratio => format!("{figure:.2}×"),
        }
    }
}

fn three_digits(figure: f64) -> String {
    let decimals = if figure < 10.0 { 2 } else { usize::from(figure < 100.0) };
    format!("{figure:.decimals$}")
}

/// A number of bytes for people.
pub fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_with_the_unit_that_fits() {
        let shown = [
            (Unit::Time, 41.4, "41 ns"),
            (Unit::Time, 26_000.0, "26.0 µs"),
            (Unit::Time, 1.5e9, "1.50 s"),
            (Unit::Bandwidth, 19.54e9, "19.5 GB/s"),
            (Unit::Bandwidth, 34.2e6, "34.2 MB/s"),
            (Unit::Rate, 4.8e6, "4.80 M/s"),
            (Unit::Size, 65_536.0, "64 KiB"),
            (Unit::Ratio, 1.149, "1.15×"),
        ];
        for (unit, figure, text) in shown {
            assert_eq!(unit.show(figure), text);
        }
    }
}
