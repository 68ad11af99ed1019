//! A function: its program, its ports, its parameters, environment and directory.

use std::collections::BTreeMap;

use super::order::Edge;
use super::scope::{Declaration, Scope};
use super::text::template;
use super::{command, expect, inputs, settings};
use crate::diagnostics::Diagnostic;
use crate::file::{Entries, EnvText, Field, FunctionFile, ParamText, PartitionFile, Text, Words};
use crate::limits::DEFAULT_START_TIMEOUT;
use crate::model::{Function, FunctionId, Program, Template};
use crate::report::Report;

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
    // Collecting in place would keep the memory of what only the checks need.
    let mut ports = Vec::with_capacity(inputs.len());
    ports.extend(inputs.into_iter().map(|checked| checked.input));
    Function {
        name: declaration.name.text.clone(),
        program,
        foreach: declaration.foreach,
        instances: declaration.instances.streams,
        inputs: ports,
        outputs,
        params,
        env: env(scope, file.env.rare(), report),
        dir: dir(scope, file.dir.rare().or(scope.dir), report),
        timeout: settings::limit(file.timeout.rare(), "a time-out", report),
        deadline: settings::limit(file.deadline.rare(), "a deadline", report),
        start_timeout: settings::limit(file.start_timeout.rare(), "a time-out", report)
            .unwrap_or(DEFAULT_START_TIMEOUT),
        grace: settings::grace(file.grace.rare(), report).unwrap_or(scope.grace),
        retries: settings::retries(file, report),
        deterministic: file.deterministic.get().is_some_and(|it| it.0),
        success: settings::success(file, report),
        resources: settings::resources(file, report),
        conditional: None,
        expect: expect::function(scope, id, report),
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
pub(super) fn env(scope: &Scope, env: Option<&Entries<EnvText>>, report: &mut Report) -> BTreeMap<String, Template> {
    let values = env.map_or(&[][..], |env| &env.0).iter().filter_map(|entry| {
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
