//! The rows of a timeline.

use std::collections::{BTreeSet, HashMap};

use dflow_worker::report::{AttemptReport, AttemptState};

/// Maximum number of rows of a function. Of a function with more attempts, the rest is collapsed into one row.
const MAX_PER_FUNCTION: usize = 4;

/// Maximum number of failed or repeated attempts of a function that have their own row although others are collapsed.
const MAX_NOTABLE: usize = 6;

/// Maximum number of rows for functions.
const MAX_ROWS: usize = 100;

/// The rows, in the order of their starts.
pub struct Table<'a> {
    /// The rows; the outputs of the workflow, if it has any, are the last.
    pub rows: Vec<Row<'a>>,
    /// The number of attempts without a row, because of [`MAX_ROWS`].
    pub hidden: usize,
}

/// A row: one attempt, or several collapsed ones.
pub struct Row<'a> {
    /// Its label.
    pub label: String,
    /// The attempts that it shows; never empty.
    pub lives: Vec<&'a AttemptReport>,
}

/// The rows for these attempts; `more` marks omissions in labels.
pub fn rows<'a>(instances: &'a [AttemptReport], more: &str) -> Table<'a> {
    let mut lives: Vec<&AttemptReport> = instances.iter().filter(|life| life.function.is_some()).collect();
    // The sort is stable: attempts that started at the same time, or never, stay in the order of their preparation.
    lives.sort_by_key(|life| life.started_ns.unwrap_or(u64::MAX));

    let mut functions: HashMap<&str, Function<'_>> = HashMap::new();
    for life in &lives {
        functions.entry(function_of(life)).or_default().total += 1;
    }
    let mut table = Table { rows: Vec::new(), hidden: 0 };
    let mut collapsed: Vec<(usize, &str)> = Vec::new();
    for life in lives {
        let Some(function) = functions.get_mut(function_of(life)) else { continue };
        if function.shows(life) {
            table.rows.push(Row { label: label(life), lives: vec![life] });
            continue;
        }
        if function.rest.is_empty() {
            collapsed.push((table.rows.len(), function_of(life)));
        }
        function.rest.push(life);
    }
    // In reverse, so that an insertion does not shift the positions of the others.
    for (at, name) in collapsed.into_iter().rev() {
        if let Some(Function { rest, .. }) = functions.remove(name) {
            table.rows.insert(at, Row { label: collapsed_label(name, &rest, more), lives: rest });
        }
    }
    let hidden = table.rows.drain(MAX_ROWS.min(table.rows.len())..);
    table.hidden = hidden.map(|row| row.lives.len()).sum();

    let sinks: Vec<&AttemptReport> = instances.iter().filter(|life| life.function.is_none()).collect();
    if !sinks.is_empty() {
        let label = match sinks.as_slice() {
            [only] => label(only),
            several => format!("outputs ({})", several.len()),
        };
        table.rows.push(Row { label, lives: sinks });
    }
    table
}

impl Row<'_> {
    /// Whether it shows the outputs of the workflow instead of a function.
    pub fn is_outputs(&self) -> bool {
        self.lives.iter().all(|life| life.function.is_none())
    }

    /// The node that it ran on, or how many there were.
    pub fn nodes(&self) -> String {
        let nodes: BTreeSet<&str> = self.lives.iter().map(|life| life.node.as_str()).collect();
        match nodes.first() {
            Some(node) if nodes.len() == 1 => (*node).into(),
            _ => format!("{} nodes", nodes.len()),
        }
    }

    /// When its first attempt started.
    pub fn started(&self) -> Option<u64> {
        self.lives.iter().filter_map(|life| life.started_ns).min()
    }

    /// When its last attempt ended; `None` if one has not ended.
    pub fn ended(&self) -> Option<u64> {
        self.lives.iter().map(|life| life.ended_ns).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// Bytes that it read.
    pub fn bytes_read(&self) -> u64 {
        self.lives.iter().map(|life| life.bytes_read).fold(0, u64::saturating_add)
    }

    /// Bytes that it wrote.
    pub fn bytes_written(&self) -> u64 {
        self.lives.iter().map(|life| life.bytes_written).fold(0, u64::saturating_add)
    }

    /// How it ended, unless it simply succeeded.
    pub fn state(&self) -> String {
        if let [life] = self.lives.as_slice() {
            return match (life.end, life.started_ns) {
                (AttemptState::Succeeded, _) => String::new(),
                (AttemptState::Running, None) => "not started".into(),
                (AttemptState::Running, Some(_)) => "unfinished".into(),
                (end, _) => end.to_string(),
            };
        }
        use AttemptState::{Failed, Running, Superseded, Unread};
        let states = [Failed, Superseded, Unread, Running].map(|end| {
            let number = self.lives.iter().filter(|life| life.end == end).count();
            (number, if end == Running { "unfinished".into() } else { end.to_string() })
        });
        let states = states.iter().filter(|(number, _)| *number > 0);
        states.map(|(number, end)| format!("{number} {end}")).collect::<Vec<_>>().join(", ")
    }
}

/// The attempts of a function.
#[derive(Default)]
struct Function<'a> {
    total: usize,
    shown: usize,
    notable: usize,
    rest: Vec<&'a AttemptReport>,
}

impl Function<'_> {
    /// Whether the next attempt gets its own row.
    fn shows(&mut self, life: &AttemptReport) -> bool {
        if self.total <= MAX_PER_FUNCTION {
            return true;
        }
        if self.shown < MAX_PER_FUNCTION - 1 {
            self.shown += 1;
            return true;
        }
        if (life.attempt > 1 || matches!(life.end, AttemptState::Failed | AttemptState::Superseded))
            && self.notable < MAX_NOTABLE
        {
            self.notable += 1;
            return true;
        }
        false
    }
}

fn function_of(life: &AttemptReport) -> &str {
    life.function.as_deref().unwrap_or_default()
}

fn label(life: &AttemptReport) -> String {
    if life.attempt > 1 { format!("{} attempt {}", life.name, life.attempt) } else { life.name.clone() }
}

/// `count[3…7] (5 more)`, or without the range if there are gaps in it.
fn collapsed_label(function: &str, rest: &[&AttemptReport], more: &str) -> String {
    if let [only] = rest {
        return label(only);
    }
    let parts: Option<Vec<u32>> = rest.iter().map(|life| life.part.as_deref()?.parse().ok()).collect();
    let range = parts.and_then(|mut parts| {
        parts.sort_unstable();
        let (first, last) = (*parts.first()?, *parts.last()?);
        parts.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1])).then_some((first, last))
    });
    match range {
        Some((first, last)) => format!("{function}[{first}{more}{last}] ({} more)", rest.len()),
        None => format!("{function}[{more}] ({} more)", rest.len()),
    }
}
