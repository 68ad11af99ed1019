//! The text below the timeline: the totals, the outputs, and if the run failed, why and what to do.

use std::env;
use std::path::Path;

use dflow_worker::OutputTarget;
use dflow_worker::logs::log_path;
use dflow_worker::report::{AttemptReport, AttemptState, OutputReport, RunEnd, RunError, RunReport};
use dflow_workflow::Workflow;

use crate::error;
use crate::record;
use crate::terminal::{Look, Style};
use crate::units::{count, size};

/// Maximum number of outputs that are listed one by one.
const MAX_OUTPUTS: usize = 50;

/// Maximum number of failed attempts that are listed one by one.
const MAX_RETRIED: usize = 10;

/// The totals and the outputs, for standard output.
pub fn totals(report: &RunReport, look: &Look) -> String {
    let state = match report.state {
        RunEnd::Succeeded => look.paint(Style::Green, "succeeded"),
        RunEnd::Failed => look.paint(Style::Red, "failed"),
        RunEnd::Cancelled => look.paint(Style::Yellow, "cancelled"),
    };
    let preposition = if report.state == RunEnd::Succeeded { "in" } else { "after" };
    let written = report.instances.iter().filter(|life| life.function.is_some());
    let written = written.map(|life| life.bytes_written).fold(0, u64::saturating_add);
    let mut text = format!(
        "{} {state} {preposition} {}: {} through streams, peak memory {} of {}, {} spilled{}\n",
        look.paint(Style::Bold, &report.workflow),
        look.duration(report.duration_ns),
        size(written),
        size(report.memory.peak_bytes),
        size(report.memory.budget_bytes),
        match report.memory.spilled_bytes {
            0 => "nothing".into(),
            bytes => size(bytes),
        },
        // The report does not include the memory of other nodes.
        if report.links.is_empty() { "" } else { " on this node" },
    );
    let here = env::current_dir().ok();
    let entries: Vec<OutputEntry> = entries(&report.outputs, here.as_deref());
    let shown = &entries[..entries.len().min(MAX_OUTPUTS)];
    let name_width = shown.iter().map(|entry| entry.name.chars().count()).max().unwrap_or(0);
    let size_width = shown.iter().map(|entry| entry.size.chars().count()).max().unwrap_or(0);
    for OutputEntry { name, size, path } in shown {
        text.push_str(&format!("  {name:name_width$}  {size:>size_width$}  {path}\n"));
    }
    if entries.len() > shown.len() {
        text.push_str(&format!("  and {} more\n", count(entries.len() - shown.len(), "output")));
    }
    text
}

/// Why a run did not succeed, for standard error; empty if it did.
pub fn failure(report: &RunReport, workflow: &Workflow, output: &OutputTarget, look: &Look) -> String {
    let untouched = match output {
        OutputTarget::Folder { path, .. } => format!("nothing was changed in {}", path.display()),
        OutputTarget::Stdout => "nothing was written to standard output".into(),
    };
    match (report.state, &report.error) {
        (RunEnd::Succeeded, _) => String::new(),
        (RunEnd::Cancelled, _) => {
            format!("{}: {untouched}\n", look.paint(Style::Yellow, "cancelled"))
        }
        (RunEnd::Failed, Some(error)) => failed(report, error, workflow, &untouched, look),
        (RunEnd::Failed, None) => {
            let log = "DFLOW_LOG=info dflow run … logs the details".into();
            error::render(look, "the run failed", &[untouched, log])
        }
    }
}

fn failed(report: &RunReport, error: &RunError, workflow: &Workflow, untouched: &str, look: &Look) -> String {
    if let Some(kept) = &report.unpublished {
        let help = format!("move {} to where you want it; {untouched}", kept.display());
        return error::render(look, &error.reason, &[help]);
    }
    let Some(instance) = &error.instance else {
        if let Some(node) = &error.node {
            let help = format!(
                "see whether `dflow worker` runs on {node} and the network reaches it, then run again; {untouched}"
            );
            let more = format!(
                "`dflow doctor --peer {node}=ADDRESS:PORT` examines the connection; --silence says how long a node may be silent"
            );
            return error::render(look, &error.reason, &[help, more]);
        }
        return error::render(look, &error.reason, &[untouched.into()]);
    };
    let attempt = failed_attempt(report, instance);
    let number = match attempt.map(|attempt| attempt.attempt) {
        Some(number) if number > 1 => format!(" in attempt {number}"),
        _ => String::new(),
    };
    let mut help = Vec::new();
    let function = attempt.and_then(|attempt| attempt.function.as_deref());
    match function.and_then(|name| workflow.functions.iter().find(|function| function.name == name)) {
        Some(function) if function.retries.count == 0 => {
            help.push(format!("fix the function `{}` or its inputs, then run again; {untouched}", function.name));
            if attempt.is_some_and(|attempt| attempt.transient) {
                help.push(format!(
                    "if it fails only occasionally, add `retries: 3` to `{}` in the workflow file",
                    function.name
                ));
            }
        }
        Some(function) => {
            let retries = match function.retries.count {
                1 => "1 retry".into(),
                retries => format!("{retries} retries"),
            };
            help.push(format!(
                "fix the function `{}` or its inputs, then run again; {untouched} ({retries} did not help)",
                function.name
            ));
        }
        None => help.push(untouched.to_owned()),
    }
    if let (Some(record), Some(attempt)) = (&report.record, attempt)
        && log_path(record, instance, attempt.attempt).exists()
    {
        help.push(format!("its whole standard error: {}", record::command(record, instance)));
    }
    let node = error.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
    let named = named(instance, error.part_name.as_deref());
    error::render(look, &format!("{named} failed{node}{number}: {}", error.reason), &help)
}

/// An instance, with the name of its part if it has one.
fn named(instance: &str, part_name: Option<&str>) -> String {
    part_name.map_or_else(|| instance.to_owned(), |part| format!("{instance} ({part})"))
}

/// The failed attempts that were retried, one line each, for standard error.
pub fn retried(report: &RunReport, look: &Look) -> String {
    let is_last = |attempt: &AttemptReport| {
        let later = |other: &&AttemptReport| other.name == attempt.name && other.attempt > attempt.attempt;
        report.instances.iter().find(later).is_none()
    };
    let failed: Vec<&AttemptReport> =
        report.instances.iter().filter(|attempt| attempt.end == AttemptState::Failed && !is_last(attempt)).collect();
    let mut text = String::new();
    for attempt in failed.iter().take(MAX_RETRIED) {
        let reason = attempt.reason.as_deref().and_then(|reason| reason.lines().next()).unwrap_or_default();
        let named = named(&attempt.name, attempt.part_name.as_deref());
        text += &error::render_note(look, &format!("attempt {} of {named} failed: {reason}", attempt.attempt));
    }
    if failed.len() > MAX_RETRIED {
        let more = failed.len() - MAX_RETRIED;
        text += &error::render_note(look, &format!("{more} more failed attempts were retried"));
    }
    text
}

/// The attempt that made the run fail: the last one of the instance that failed.
fn failed_attempt<'a>(report: &'a RunReport, instance: &str) -> Option<&'a AttemptReport> {
    report.instances.iter().rev().find(|attempt| attempt.name == instance && attempt.end == AttemptState::Failed)
}

/// An output in the list.
struct OutputEntry {
    name: String,
    size: String,
    path: String,
}

/// One entry for each output of the workflow, in the order of the report.
fn entries(outputs: &[OutputReport], here: Option<&Path>) -> Vec<OutputEntry> {
    let show = |path: &Path| here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).display().to_string();
    outputs
        .chunk_by(|a, b| a.name == b.name)
        .map(|files| match files {
            [file] if file.part.is_none() => {
                OutputEntry { name: file.name.clone(), size: size(file.bytes), path: show(&file.path) }
            }
            _ => {
                let bytes = files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
                let directory = files[0].path.parent().unwrap_or(&files[0].path);
                let path = format!("{}/ ({})", show(directory), count(files.len(), "file"));
                OutputEntry { name: files[0].name.clone(), size: size(bytes), path }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{LOOK, attempt, wordcount};

    fn workflow(retries: &str) -> Workflow {
        let text = format!("workflow: w\nfunctions: {{ count: {{ program: p{retries} }} }}\n");
        Workflow::parse("w.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn directory() -> OutputTarget {
        OutputTarget::Folder { path: "out".into(), overwrite: false }
    }

    #[test]
    fn totals_and_outputs() {
        let mut report = wordcount();
        for part in 0..3 {
            let path = format!("/out/parts/{part:05}").into();
            report.outputs.push(OutputReport { name: "parts".into(), part: Some(part), path, bytes: 1 << 20 });
        }
        assert_eq!(
            totals(&report, &LOOK),
            "\
wordcount succeeded in 100 ms: 10.0 KiB through streams, peak memory 34.0 MiB of 1.00 GiB, nothing spilled
  total     300 B  /out/total
  parts  3.00 MiB  /out/parts/ (3 files)
"
        );
    }

    #[test]
    fn paths_below_the_current_directory_are_relative() {
        let output = OutputReport { name: "total".into(), part: None, path: "/here/out/total".into(), bytes: 0 };
        assert_eq!(entries(&[output], Some(Path::new("/here")))[0].path, "out/total");
    }

    #[test]
    fn a_failure_names_instance_attempt_reason_and_remedy() {
        let mut report = wordcount();
        report.state = RunEnd::Failed;
        report.error = Some(RunError {
            instance: Some("count[3]".into()),
            part_name: None,
            node: None,
            reason: "exit status 101\nthread main panicked at \x1b[31mcount.rs:7\nno such word\n".into(),
        });
        let mut failed = attempt("count[3]", [0; 6]);
        (failed.attempt, failed.end) = (2, AttemptState::Failed);
        report.instances.push(failed);
        assert_eq!(
            failure(&report, &workflow(", retries: 1"), &directory(), &LOOK),
            "\
error: count[3] failed in attempt 2: exit status 101
  thread main panicked at [31mcount.rs:7
  no such word
help: fix the function `count` or its inputs, then run again; nothing was changed in out (1 retry did not help)
"
        );
        let text = failure(&report, &workflow(""), &directory(), &LOOK);
        assert!(!text.contains("retries"), "a permanent failure: {text}");
        report.instances.last_mut().unwrap().transient = true;
        let text = failure(&report, &workflow(""), &directory(), &LOOK);
        assert!(text.contains("add `retries: 3` to `count`"), "{text}");
        let error = report.error.as_mut().unwrap();
        (error.node, error.part_name) = (Some("b".into()), Some("in/a.txt".into()));
        let text = failure(&report, &workflow(""), &directory(), &LOOK);
        assert!(
            text.starts_with("error: count[3] (in/a.txt) failed on node b in attempt 2: exit status 101"),
            "{text}"
        );
    }

    #[test]
    fn attempts_that_were_retried_say_why_they_failed() {
        let mut report = wordcount();
        for number in 1..=13 {
            let mut failed = attempt("count[3]", [0; 6]);
            (failed.attempt, failed.end) = (number, AttemptState::Failed);
            failed.reason = Some(format!("exit status {number}\nmore"));
            failed.part_name = Some("in/a.txt".into());
            report.instances.push(failed);
        }
        let text = retried(&report, &LOOK);
        assert!(
            text.starts_with("note: attempt 1 of count[3] (in/a.txt) failed: exit status 1\nnote: attempt 2"),
            "{text}"
        );
        assert!(text.ends_with("\nnote: 2 more failed attempts were retried\n"), "{text}");
        assert_eq!(text.lines().count(), MAX_RETRIED + 1);
    }

    #[test]
    fn a_failure_of_the_node_and_a_cancelled_run() {
        let mut report = wordcount();
        report.state = RunEnd::Failed;
        report.error =
            Some(RunError { instance: None, part_name: None, node: None, reason: "the disk is full".into() });
        let text = failure(&report, &workflow(""), &directory(), &LOOK);
        assert_eq!(text, "error: the disk is full\nhelp: nothing was changed in out\n");
        report.state = RunEnd::Cancelled;
        let text = failure(&report, &workflow(""), &directory(), &LOOK);
        assert_eq!(text, "cancelled: nothing was changed in out\n");
        assert!(totals(&report, &LOOK).starts_with("wordcount cancelled after 100 ms"));
    }
}
