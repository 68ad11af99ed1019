//! A function: its program, its ports, its settings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::order::Edge;
use super::scope::{Declaration, Scope};
use super::text::template;
use super::{command, inputs};
use crate::diagnostics::{Diagnostic, Span};
use crate::file::{Entries, EnvText, Field, FunctionFile, ParamText, PartitionFile, Spanned, Text, Time, Words};
use crate::limits::{DEFAULT_START_TIMEOUT, MAX_GRACE};
use crate::model::{Function, FunctionId, Output, Program, Resources, Retries, Template};
use crate::report::Report;

/// The pause before the first retry, if the file does not say.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause between retries, if the file does not say.
const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Checks the function with this index in the file and adds its dependencies to `edges`.
pub(super) fn check(scope: &Scope, index: usize, edges: &mut Vec<Edge>, report: &mut Report) -> Function {
    let id = FunctionId(u32::try_from(index).unwrap_or(u32::MAX));
    let declaration = scope.function(id);
    let file = declaration.file;
    let mut inputs = inputs::check(scope, id, edges, report);
    let mut outputs = declaration.outputs.clone();
    check_partitions(declaration, report);
    let mut params = params(scope, file, report);
    let program = match (&file.program, &file.command) {
        (Field::Given(program), Field::Absent) => {
            only_for_commands(declaration, &inputs, report);
            if program.text.trim().is_empty() {
                report.push(
                    Diagnostic::at(program.span, "the name of the program is empty")
                        .with_help("write a name or a path"),
                );
            }
            Program::Sdk(program.text.clone())
        }
        (Field::Absent, Field::Given(command)) => Program::Command(command::check(
            scope,
            declaration,
            command,
            &mut inputs,
            &mut outputs,
            &mut params,
            report,
        )),
        (program, command) => {
            let misspelled = file.misspelled.iter().any(|key| matches!(*key, "program" | "command"));
            wrong_program(declaration, program.is_absent() && command.is_absent() && !misspelled, report);
            Program::Sdk(String::new())
        }
    };
    Function {
        name: declaration.name.text.clone(),
        program,
        foreach: declaration.foreach,
        instances: declaration.instances.streams,
        inputs: inputs.into_iter().map(|checked| checked.input).collect(),
        outputs,
        params,
        env: env(scope, &file.env, report),
        dir: dir(scope, file.dir.get().or(scope.dir), report),
        timeout: limit(&file.timeout, "a time-out", report),
        deadline: limit(&file.deadline, "a deadline", report),
        start_timeout: limit(&file.start_timeout, "a time-out", report).unwrap_or(DEFAULT_START_TIMEOUT),
        grace: grace(&file.grace, report).unwrap_or(scope.grace),
        retries: retries(file, report),
        deterministic: file.deterministic.get().is_some_and(|it| it.0),
        success: success(file, report),
        resources: resources(file, report),
        conditional: None,
    }
}

fn wrong_program(declaration: &Declaration, neither: bool, report: &mut Report) {
    let (name, file) = (declaration.name, declaration.file);
    if neither {
        report.push(
            Diagnostic::at(name.span, format!("the function `{}` has no program", name.text))
                .with_label("neither `program` nor `command`")
                .with_help("add `program: NAME` for a program that links the SDK, or `command: [\"sort\", \"-u\"]` for any other"),
        );
    } else if let (Some(program), Some(command)) = (file.program.get(), file.command.get()) {
        report.push(
            Diagnostic::at(command.span, format!("the function `{}` has both `program` and `command`", name.text))
                .with_label("a second program")
                .with_related(program.span, "the first")
                .with_help("`program` is for programs that link the SDK, `command` for any other: remove one of them"),
        );
    }
}

/// `stdin` and `stdout` mean nothing to a program that links the SDK.
fn only_for_commands(declaration: &Declaration, inputs: &[inputs::Checked], report: &mut Report) {
    let stdin = inputs.iter().filter_map(|checked| checked.stdin).map(|(_, span)| (span, "stdin"));
    let outputs = declaration.file.outputs.get().map_or(&[][..], |outputs| &outputs.0);
    let stdout =
        outputs.iter().filter_map(|entry| entry.value.as_ref()?.stdout.get()).map(|stdout| (stdout.span, "stdout"));
    for (span, key) in stdin.chain(stdout) {
        report.push(
            Diagnostic::at(span, format!("`{key}` is only for a `command`"))
                .with_help("a program that links the SDK opens its inputs and outputs by name: remove this key"),
        );
    }
}

fn check_partitions(declaration: &Declaration, report: &mut Report) {
    let file = declaration.file;
    let entries = file.outputs.get().map_or(&[][..], |outputs| &outputs.0);
    for partition in entries.iter().filter_map(|entry| entry.value.as_ref()?.partition.get()) {
        let parts = match partition.value {
            PartitionFile::Fixed(parts) => parts.to_string(),
            PartitionFile::Discovered => "discovered".into(),
        };
        if !file.foreach.is_absent() {
            report.push(
                Diagnostic::at(partition.span, "an output of a `foreach` cannot be partitioned again")
                    .with_label(format!("partition: {parts}"))
                    .with_help("each instance writes one stream, and together they are the parts of the output: remove `partition`")
                    .with_help("to split further, read all parts in one function and let that write a partitioned output"),
            );
        } else if !file.command.is_absent() {
            report.push(
                Diagnostic::at(partition.span, "an output of a `command` cannot be partitioned")
                    .with_label(format!("partition: {parts}"))
                    .with_help(
                        "a command writes one stream to each output; a `program` that links the SDK can write parts",
                    ),
            );
        }
    }
}

fn params(scope: &Scope, file: &FunctionFile, report: &mut Report) -> BTreeMap<String, Template> {
    let entries = file.params.get().map_or(&[][..], |params| &params.0);
    let values = entries.iter().filter_map(|entry| {
        let ParamText(text) = entry.value.as_ref()?;
        Some((entry.name.text.clone(), template(scope, text, report)?))
    });
    values.collect()
}

/// The environment variables of a function or of the file.
pub(super) fn env(scope: &Scope, env: &Field<Entries<EnvText>>, report: &mut Report) -> BTreeMap<String, Template> {
    let values = env.get().map_or(&[][..], |env| &env.0).iter().filter_map(|entry| {
        let EnvText(text) = entry.value.as_ref()?;
        Some((entry.name.text.clone(), template(scope, text, report)?))
    });
    values.collect()
}

fn dir(scope: &Scope, dir: Option<&Words>, report: &mut Report) -> Option<Template> {
    let Words { text, span } = dir?;
    if text.trim().is_empty() {
        report.push(Diagnostic::at(*span, "the name of the working directory is empty").with_help(
            "leave the key out for the directory of the workflow file, or write a path, such as `/srv/data`",
        ));
        return None;
    }
    template(scope, &Text { text: text.clone(), span: *span }, report)
}

fn success(file: &FunctionFile, report: &mut Report) -> BTreeSet<u8> {
    let Some(statuses) = file.success.get() else { return BTreeSet::from([0]) };
    if !file.program.is_absent() && file.command.is_absent() {
        report.push(
            Diagnostic::at(statuses.span, "`success` is only for a `command`")
                .with_help("a program that links the SDK reports success or failure itself: remove this key"),
        );
    }
    statuses.value.0.clone()
}

fn limit(field: &Field<Spanned<Time>>, what: &str, report: &mut Report) -> Option<Duration> {
    let limit = field.get()?;
    if limit.value.0.is_zero() {
        report.push(
            Diagnostic::at(limit.span, format!("{what} of zero ends every attempt at once"))
                .with_help("leave the key out, or write a duration such as `30s`"),
        );
    }
    Some(limit.value.0)
}

/// The grace; zero means that functions are killed at once.
pub(super) fn grace(field: &Field<Spanned<Time>>, report: &mut Report) -> Option<Duration> {
    let grace = field.get()?;
    if grace.value.0 > MAX_GRACE {
        report.push(
            Diagnostic::at(grace.span, "a grace of more than a day")
                .with_help("a run that is cancelled or fails waits this long for its functions: write at most `1d`"),
        );
    }
    Some(grace.value.0)
}

fn retries(file: &FunctionFile, report: &mut Report) -> Retries {
    let details = file.retries.get().map(|retries| &retries.0);
    let backoff = details.and_then(|it| it.backoff.get()).map_or(DEFAULT_BACKOFF, |it| it.0);
    let max_backoff = match details.and_then(|it| it.max_backoff.get()) {
        Some(max) if max.value.0 < backoff => {
            report.push(
                Diagnostic::at(max.span, "`max_backoff` is shorter than the first pause, `backoff`")
                    .with_help("make it at least as long, or leave it out"),
            );
            backoff
        }
        Some(max) => max.value.0,
        None => DEFAULT_MAX_BACKOFF.max(backoff),
    };
    Retries { count: details.and_then(|it| it.count.get()).map_or(0, |it| it.0), backoff, max_backoff }
}

fn resources(file: &FunctionFile, report: &mut Report) -> Resources {
    let file = file.resources.get();
    let memory = file.and_then(|it| it.memory.get());
    if let Some(memory) = memory.filter(|memory| memory.value.0 == 0) {
        report.push(
            Diagnostic::at(memory.span, "a function cannot run without memory")
                .with_help("leave the key out for no limit, or write a size such as `512MiB`"),
        );
    }
    Resources { slots: file.and_then(|it| it.cpu.get()).map_or(1, |it| it.0), memory: memory.map(|it| it.value.0) }
}

/// The outputs that the file marks as standard output.
pub(super) fn stdout_marks(declaration: &Declaration, outputs: &[Output]) -> Vec<Option<(bool, Span)>> {
    let entries = declaration.file.outputs.get().map_or(&[][..], |outputs| &outputs.0);
    let marks = entries.iter().map(|entry| {
        let stdout = entry.value.as_ref().and_then(|output| output.stdout.get());
        stdout.map(|stdout| (stdout.value.0, stdout.span))
    });
    marks.chain(std::iter::repeat(None)).take(outputs.len()).collect()
}
