//! A plan as text.

use std::collections::BTreeSet;
use std::time::Duration;

use dflow_scheduler::planner::{Plan, Profile};
use dflow_workflow::{Amount, Expect, Function, FunctionId};

use super::question::Question;
use super::{Rival, chart, reason};
use crate::terminal::{Look, Style};
use crate::timeline::{self, Chart};
use crate::units::{count, size};

/// Maximum number of lines of a section. The JSON document has all of them.
const MAX_LINES: usize = 100;

/// The plan, with a line feed after each line.
pub fn render(question: &Question<'_>, plan: &Plan, rivals: &[Rival], profile: bool, look: &Look) -> String {
    let workflow = question.problem.workflow;
    let mut text = format!(
        "{} by the policy {}: ends after {}, {} over the network\n\n",
        look.paint(Style::Bold, &format!("plan of {}", workflow.name)),
        plan.policy,
        look.duration(chart::nanos(plan.timeline.end)),
        size(plan.timeline.bytes_moved()),
    );
    let nodes = question.problem.nodes.iter();
    text += &section(
        "nodes",
        look,
        nodes.map(|node| {
            vec![node.name.clone(), count(node.slots as usize, "slot"), format!("{} for streams", size(node.memory))]
        }),
    );
    let attempts = chart::attempts(question, &plan.timeline);
    let drawn = timeline::draw(
        &Chart {
            attempts: &attempts,
            several_nodes: question.problem.nodes.len() > 1,
            end_ns: chart::nanos(plan.timeline.end),
            complete: "--format json has them all",
        },
        look,
    );
    if !drawn.is_empty() {
        text += &format!("{drawn}\n");
    }
    text += &section(
        "bytes over the network",
        look,
        plan.timeline
            .links
            .iter()
            .map(|link| vec![format!("{} to {}", question.node(link.from), question.node(link.to)), size(link.bytes)]),
    );
    let functions = (0..).map(FunctionId).zip(&workflow.functions).zip(&plan.reasons);
    text += &section(
        "why",
        look,
        functions.map(|((id, function), why)| {
            vec![function.name.clone(), places(question, plan, id), reason::words(question, *why, look)]
        }),
    );
    if profile {
        text += &section("profiles", look, profiles(question, look));
    }
    text += &section(
        "policies",
        look,
        rivals.iter().map(|rival| {
            let end = look.duration(chart::nanos(rival.end));
            vec![
                rival.policy.to_string(),
                format!("ends after {end}"),
                format!("{} over the network", size(rival.bytes_moved)),
            ]
        }),
    );
    // Sections end with an empty line.
    text.trim_end().to_owned() + "\n"
}

/// The node of a function, or how many there are.
fn places(question: &Question<'_>, plan: &Plan, function: FunctionId) -> String {
    let places: BTreeSet<_> = plan.placement.places_of(function).iter().collect();
    match (places.first(), places.len()) {
        (Some(place), 1) => question.node(**place).to_owned(),
        (None, _) => "-".into(),
        (Some(_), several) => format!("{several} nodes"),
    }
}

fn profiles<'q>(question: &'q Question<'_>, look: &'q Look) -> impl Iterator<Item = Vec<String>> + 'q {
    let heads = ["function", "time", "first output", "tail", "output", "parts", "from"].map(str::to_owned).to_vec();
    let functions = question.problem.workflow.functions.iter();
    let rows =
        functions.zip(&question.problem.profiles).zip(&question.learned).map(|((function, profile), learned)| {
            let time = |time: Duration| look.duration(chart::nanos(time));
            vec![
                function.name.clone(),
                profile.time.map_or_else(|| "-".into(), time),
                time(profile.first_output),
                time(profile.tail),
                output(profile),
                profile.parts.map_or_else(|| "-".into(), |parts| parts.to_string()),
                origin(function, learned.as_ref().map(|learned| learned.runs)),
            ]
        });
    std::iter::once(heads).chain(rows)
}

fn output(profile: &Profile) -> String {
    let amount = |amount: &Amount| match amount {
        Amount::Bytes(bytes) => size(*bytes),
        Amount::OfInput(share) => {
            let percent = format!("{:.3}", share * 100.0);
            format!("{} % of its input", percent.trim_end_matches('0').trim_end_matches('.'))
        }
    };
    let known: Vec<String> = profile.outputs.iter().flatten().chain(&profile.rest).map(amount).collect();
    if known.is_empty() { "-".into() } else { known.join(" + ") }
}

/// Where a profile is from.
pub fn origin(function: &Function, runs: Option<u32>) -> String {
    let declared = function.expect.as_deref().is_some_and(|expect| *expect != Expect::default());
    match (declared, runs) {
        (false, None) => "assumed".into(),
        (true, None) => "declared".into(),
        (false, Some(runs)) => format!("learned from {}", count(runs as usize, "run")),
        (true, Some(runs)) => format!("partly declared, otherwise learned from {}", count(runs as usize, "run")),
    }
}

/// A heading, its rows in columns, and an empty line; nothing if there are no rows.
fn section(head: &str, look: &Look, rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut rows: Vec<Vec<String>> = rows.collect();
    let hidden = rows.len().saturating_sub(MAX_LINES);
    rows.truncate(MAX_LINES);
    let Some(columns) = rows.first().map(Vec::len) else { return String::new() };
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = look.paint(Style::Bold, head) + "\n";
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("  {cell:width$}"));
        text += cells.collect::<String>().trim_end();
        text.push('\n');
    }
    if hidden > 0 {
        text += &look.paint(Style::Dim, &format!("  {} {hidden} more; --format json has them all\n", look.more()));
    }
    text + "\n"
}
