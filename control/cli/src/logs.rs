//! `dflow logs`: the recorded runs, and the standard error of their functions.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dflow_worker::logs::{LogFile, RecordState, RunRecord, list};
use dflow_worker::report::{AttemptReport, RunReport};
use serde_json::json;

use crate::args::{Format, LogsArgs};
use crate::error::{self, CallError};
use crate::exit::Exit;
use crate::record;
use crate::terminal::{Look, Style, clean, print, print_error};
use crate::units::size;

/// Stands for the latest run.
const LAST: &str = "last";

/// The longest line that is waited for, in bytes.
const MAX_LINE: usize = 4 << 10;

/// How often `--follow` looks for more output.
const POLL: Duration = Duration::from_millis(200);

/// Lists the recorded runs, or prints the logs of one. The inner result is the result of printing.
///
/// # Errors
/// If there is no such run, function or attempt, or the records cannot be read.
pub fn logs(args: &LogsArgs) -> Result<io::Result<Exit>, CallError> {
    let directory = record::directory(args.logs.as_deref()).ok_or(CallError::NoRecordDirectory)?;
    let unreadable = |source| CallError::Records { path: directory.clone(), source };
    // Only a directory that is named must exist: without any run, there is no default one yet.
    if args.logs.is_some() && !directory.try_exists().map_err(unreadable)? {
        return Err(CallError::NoSuchDirectory { path: directory });
    }
    let records = list(&directory).map_err(unreadable)?;
    if args.list {
        return Ok(show_list(&records, args.format));
    }
    let (record, wanted) = choose(&records, &directory, args)?;
    let report = record.report().and_then(|text| serde_json::from_str::<RunReport>(&text).ok());
    let mut logs = record.logs().map_err(|source| CallError::Records { path: record.path.clone(), source })?;
    let matches = |instance: &str, attempt: u32| {
        wanted.is_none_or(|wanted| is_of(instance, wanted)) && args.attempt.is_none_or(|number| number == attempt)
    };
    logs.retain(|log| matches(&log.instance, log.attempt));
    if args.format == Format::Json {
        return Ok(print_json(record, report.as_ref(), &logs));
    }
    if logs.is_empty() && !(args.follow && record.state() == RecordState::Running) {
        let known = report.as_ref().map_or(&[][..], |report| &report.instances);
        if let Some(wanted) = wanted
            && !known.iter().any(|attempt| is_of(&attempt.name, wanted))
        {
            return Err(CallError::UnknownInstance { run: record.name.clone(), instance: wanted.to_owned() });
        }
        let made = known.iter().filter(|attempt| wanted.is_none_or(|wanted| is_of(&attempt.name, wanted)));
        let last = made.map(|attempt| attempt.attempt).max().unwrap_or_default();
        if let Some(attempt) = args.attempt.filter(|attempt| last > 0 && *attempt > last) {
            let of = wanted.unwrap_or("any function").to_owned();
            return Err(CallError::UnknownAttempt { run: record.name.clone(), of, attempt, last });
        }
        print_error(&error::render_note(&Look::of(&io::stderr()), "nothing was printed on standard error"));
        return Ok(Ok(Exit::Success));
    }
    let look = Look::of(&io::stdout());
    let mut printer = Printer {
        look,
        title: args.follow || logs.len() != 1,
        raw: !io::stdout().is_terminal(),
        whole_lines: false,
        last: None,
    };
    let printed = if args.follow {
        follow(record, &matches, &mut printer)
    } else {
        logs.iter().try_for_each(|log| printer.print(log, 0, attempt_of(report.as_ref(), log)).map(drop))
    };
    Ok(match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Success),
        printed => printed.map(|()| Exit::Success),
    })
}

/// The run and the function or instance that the arguments name. A single argument may be either.
fn choose<'a>(
    records: &'a [RunRecord],
    directory: &Path,
    args: &'a LogsArgs,
) -> Result<(&'a RunRecord, Option<&'a str>), CallError> {
    let last = || records.last().ok_or_else(|| CallError::NoRecords { path: directory.to_owned() });
    let Some(first) = args.run.as_deref() else { return Ok((last()?, None)) };
    if first == LAST {
        return Ok((last()?, args.instance.as_deref()));
    }
    let found: Vec<&RunRecord> = records.iter().filter(|record| record.name.starts_with(first)).collect();
    match (&found[..], args.instance.as_deref()) {
        ([record], instance) => Ok((record, instance)),
        ([], None) if !looks_like_run(first) => Ok((last()?, Some(first))),
        ([], _) => Err(CallError::UnknownRun { run: first.to_owned() }),
        (found, _) => Err(CallError::ManyRuns { run: first.to_owned(), count: found.len() }),
    }
}

/// Whether this can be the beginning of the name of a record, which is a date. For a function with such a name, the
/// user writes `dflow logs last NAME`.
fn looks_like_run(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || b"-.".contains(&byte))
}

/// Whether `wanted` names this instance or its function.
fn is_of(instance: &str, wanted: &str) -> bool {
    instance == wanted || instance.strip_prefix(wanted).is_some_and(|part| part.starts_with('['))
}

fn attempt_of<'a>(report: Option<&'a RunReport>, log: &LogFile) -> Option<&'a AttemptReport> {
    report?.instances.iter().find(|attempt| attempt.name == log.instance && attempt.attempt == log.attempt)
}

fn state_of(record: &RunRecord, report: Option<&RunReport>) -> String {
    match (record.state(), report) {
        (RecordState::Running, _) => "running".into(),
        (RecordState::Ended, Some(report)) => report.state.to_string(),
        (RecordState::Ended | RecordState::Interrupted, _) => "interrupted".into(),
    }
}

fn show_list(records: &[RunRecord], format: Format) -> io::Result<Exit> {
    let rows: Vec<(&RunRecord, Option<RunReport>)> = records
        .iter()
        .map(|record| (record, record.report().and_then(|text| serde_json::from_str(&text).ok())))
        .collect();
    if format == Format::Json {
        let runs: Vec<_> = rows
            .iter()
            .map(|(record, report)| {
                json!({
                    "name": record.name, "run": record.run, "workflow": record.workflow, "started": record.started,
                    "state": state_of(record, report.as_ref()), "path": record.path,
                    "duration_ns": report.as_ref().map(|report| report.duration_ns),
                })
            })
            .collect();
        return print(&format!("{:#}\n", json!({ "runs": runs }))).map(|()| Exit::Success);
    }
    let look = Look::of(&io::stdout());
    let width = rows.iter().map(|(record, _)| record.workflow.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (record, report) in &rows {
        let state = state_of(record, report.as_ref());
        let style = match state.as_str() {
            "succeeded" => Style::Green,
            "failed" | "interrupted" => Style::Red,
            _ => Style::Yellow,
        };
        let took = report.as_ref().map(|report| look.duration(report.duration_ns)).unwrap_or_default();
        let (name, workflow) = (&record.name, clean(&record.workflow));
        let state = look.paint(style, &format!("{state:11}"));
        text.push_str(format!("{name}  {workflow:width$}  {state}  {took}").trim_end());
        text.push('\n');
    }
    if rows.is_empty() {
        print_error(&error::render_note(&Look::of(&io::stderr()), "there is no record of a run"));
    }
    print(&text).map(|()| Exit::Success)
}

fn print_json(record: &RunRecord, report: Option<&RunReport>, logs: &[LogFile]) -> io::Result<Exit> {
    let logs: Vec<_> = logs
        .iter()
        .map(|log| {
            let attempt = attempt_of(report, log);
            json!({
                "instance": log.instance, "attempt": log.attempt, "path": log.path, "bytes": log.bytes,
                "part_name": attempt.and_then(|attempt| attempt.part_name.as_ref()),
                "node": attempt.map(|attempt| &attempt.node), "end": attempt.map(|attempt| attempt.end),
            })
        })
        .collect();
    let document = json!({
        "name": record.name, "run": record.run, "workflow": record.workflow, "started": record.started,
        "state": state_of(record, report), "path": record.path, "logs": logs,
    });
    print(&format!("{document:#}\n")).map(|()| Exit::Success)
}

/// Prints logs on standard output.
struct Printer {
    look: Look,
    /// Print a title before each log.
    title: bool,
    /// Print the bytes unchanged, because standard output is not a terminal.
    raw: bool,
    /// A line that has no end yet is printed later.
    whole_lines: bool,
    /// The log that was printed last.
    last: Option<PathBuf>,
}

impl Printer {
    /// Prints a log from this byte on, and returns the number of bytes.
    fn print(&mut self, log: &LogFile, from: u64, attempt: Option<&AttemptReport>) -> io::Result<u64> {
        let mut file = File::open(&log.path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if self.whole_lines && bytes.len() < MAX_LINE {
            bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        }
        let mut out = io::stdout().lock();
        if self.title && !bytes.is_empty() && self.last.as_ref() != Some(&log.path) {
            let gap = if self.last.is_some() { "\n" } else { "" };
            writeln!(out, "{gap}{}", self.look.paint(Style::Bold, &title(log, attempt)))?;
            self.last = Some(log.path.clone());
        }
        if self.raw {
            out.write_all(&bytes)?;
        } else {
            for line in String::from_utf8_lossy(&bytes).lines() {
                writeln!(out, "{}", clean(line))?;
            }
        }
        if self.title && self.raw && bytes.last().is_some_and(|last| *last != b'\n') {
            writeln!(out)?;
        }
        out.flush()?;
        Ok(bytes.len() as u64)
    }
}

/// `==> qc[1], attempt 2 (reads/b.fq; failed on node b; 1.2 KiB) <==`
fn title(log: &LogFile, attempt: Option<&AttemptReport>) -> String {
    let mut details: Vec<String> = Vec::new();
    if let Some(attempt) = attempt {
        details.extend(attempt.part_name.as_deref().map(clean));
        details.push(format!("{} on {}", attempt.end, clean(&attempt.node)));
    }
    details.push(size(log.bytes));
    format!("==> {}, attempt {} ({}) <==", clean(&log.instance), log.attempt, details.join("; "))
}

/// Prints logs as they grow, until the run has ended.
fn follow(record: &RunRecord, matches: &impl Fn(&str, u32) -> bool, printer: &mut Printer) -> io::Result<()> {
    let mut printed: HashMap<PathBuf, u64> = HashMap::new();
    loop {
        let running = record.state() == RecordState::Running;
        for log in record.logs()?.iter().filter(|log| matches(&log.instance, log.attempt)) {
            let from = printed.entry(log.path.clone()).or_default();
            if log.bytes < *from {
                let text = format!("the log of {} has reached its limit: lines are missing", log.instance);
                print_error(&error::render_note(&Look::of(&io::stderr()), &text));
                *from = log.bytes;
            }
            printer.whole_lines = running;
            *from += printer.print(log, *from, None)?;
        }
        if !running {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_names_all_its_instances() {
        assert!(is_of("qc", "qc") && is_of("qc[1]", "qc") && is_of("qc[1]", "qc[1]"));
        assert!(!is_of("qc[12]", "qc[1]") && !is_of("qc2", "qc") && !is_of("qc[1]", "q"));
    }
}
