//! References: finds the stream, parameter or function that a reference names.

use super::scope::{Scope, Step};
use crate::diagnostics::{Diagnostic, Span};
use crate::file::{INPUTS, Name, Reference, Referent, Wired, Wires, given_twice};
use crate::model::{FunctionId, Source};
use crate::report::{Report, quoted};
use crate::seen::Seen;

/// Maximum number of ways to split a misspelled reference when searching for similar names.
const MAX_GUESSES: usize = 3;

/// A way to split a reference into a function and an output that both exist.
struct Reading<'r> {
    function: FunctionId,
    output: u32,
    /// The name of the output, if the reference has one.
    port: Option<&'r str>,
}

impl Scope<'_> {
    /// The stream or streams that a reference names; reports an invalid one.
    pub(super) fn source(&self, reference: &Reference, report: &mut Report) -> Option<Source> {
        match reference.referent() {
            Referent::Input(Some(name)) => self.input(name, reference, report),
            Referent::Input(None) => {
                let diagnostic = Diagnostic::at(reference.span, "`inputs` alone is not a source");
                let known = self.inputs.iter().map(|input| input.name.as_str());
                report.push_unknown(diagnostic.with_help("write `inputs.NAME`"), "", "workflow inputs", known);
                None
            }
            Referent::Param(_) => {
                report.push(
                    Diagnostic::at(reference.span, "a parameter is not a stream")
                        .with_help("pass it to the function: `params: { NAME: \"${params.NAME}\" }`"),
                );
                None
            }
            Referent::Function(text) => self.output(text, reference.span, report),
        }
    }

    /// The names of the entries: the keys of a map, or the names that listed sources pass on. `None` for a duplicate,
    /// which is reported.
    pub(super) fn names<'w, T: Wired>(&self, wires: &'w Wires<T>, report: &mut Report) -> Vec<Option<(&'w str, Span)>> {
        if !wires.listed {
            return wires.entries.iter().map(|entry| Some((entry.name.text.as_str(), entry.name.span))).collect();
        }
        let mut seen = Seen::new(wires.entries.len());
        let mut different: Vec<(&str, Span)> = Vec::with_capacity(wires.entries.len());
        let mut name = |wired: &'w T| {
            let reference = wired.reference()?;
            let name = (self.port_name(reference), reference.span);
            if let Some(first) = seen.add(name.0, |index| different[index].0) {
                let twice = Name { text: name.0.into(), span: name.1 };
                report.push(given_twice::<T>(&twice, different[first].1));
                return None;
            }
            different.push(name);
            Some(name)
        };
        wires.entries.iter().map(|entry| entry.value.as_ref().and_then(&mut name)).collect()
    }

    /// The entry of `functions` with this name; reports an unknown name.
    pub(super) fn step(&self, name: &str, span: Span, report: &mut Report) -> Option<Step> {
        let step = self.steps.get(name).copied();
        if step.is_none() {
            self.no_function(name, span, report);
        }
        step
    }

    /// The name of an input or output that is listed without a name: the name of the output that it reads, or the name
    /// of the function if the reference names no output.
    fn port_name<'r>(&self, reference: &'r Reference) -> &'r str {
        match reference.referent() {
            Referent::Input(name) | Referent::Param(name) => name.unwrap_or(reference.text()),
            Referent::Function(text) => match self.readings(text).next() {
                Some(reading) => reading.port.unwrap_or(text),
                None => text.split_once('.').map_or(text, |(_, port)| port),
            },
        }
    }

    /// All ways to read a reference as an existing output, the longest function name first.
    fn readings<'r>(&self, text: &'r str) -> impl Iterator<Item = Reading<'r>> {
        let single = match self.steps.get(text) {
            Some(&Step::Function(function)) if self.function(function).outputs.len() == 1 => {
                Some(Reading { function, output: 0, port: None })
            }
            _ => None,
        };
        let divided = text.rmatch_indices('.').filter_map(move |(dot, _)| {
            let Some(&Step::Function(function)) = self.steps.get(&text[..dot]) else { return None };
            let port = &text[dot + 1..];
            Some(Reading { function, output: self.output_of(function, port)?, port: Some(port) })
        });
        single.into_iter().chain(divided)
    }

    fn output(&self, text: &str, span: Span, report: &mut Report) -> Option<Source> {
        // Names may contain dots, so `a.b.c` may be the output `c` of `a.b` or the output `b.c` of `a`. If both exist, neither
        // is preferred: a silent choice would change when somebody adds a function.
        let mut readings = self.readings(text);
        match (readings.next(), readings.next()) {
            (Some(Reading { function, output, .. }), None) => Some(Source::Output { function, output }),
            (Some(one), Some(other)) => {
                let describe = |Reading { function, output, .. }: Reading| {
                    let function = self.function(function);
                    format!("the output `{}` of `{}`", function.outputs[output as usize].name, function.name.text)
                };
                report.push(
                    Diagnostic::at(span, format!("{} has two meanings", quoted(text)))
                        .with_label(format!("{} or {}", describe(one), describe(other)))
                        .with_help("rename one of the two functions or outputs"),
                );
                None
            }
            (None, _) => {
                self.no_output(text, span, report);
                None
            }
        }
    }

    /// Reports a reference that does not name a function and an output.
    fn no_output(&self, text: &str, span: Span, report: &mut Report) {
        let divisions = || text.rmatch_indices('.').map(|(dot, _)| (&text[..dot], Some(&text[dot + 1..])));
        let declared = std::iter::once((text, None))
            .chain(divisions())
            .find_map(|(owner, port)| Some((*self.steps.get(owner)?, owner, port)));
        match declared {
            Some((Step::Function(function), owner, port)) => self.no_such_output(function, owner, port, span, report),
            Some((Step::Switch, owner, _)) => report
                .push(Diagnostic::at(span, format!("`{owner}` is a switch, which writes nothing")).with_help(
                    "read from the functions that it chooses; list several of them as sources of one input",
                )),
            Some((Step::Broken, ..)) => {}
            None => {
                if let Some(name) = self.misspelled_input(text, report) {
                    let first = &text[..text.len() - name.len() - 1];
                    let message = format!("there is no function {}", quoted(first));
                    let diagnostic = Diagnostic::at(span, message).with_label("unknown function");
                    report.push(diagnostic.with_help(format!("did you mean `{INPUTS}.{name}`?")));
                    return;
                }
                // Any of the dots may be the one that ends the function's name. Each guess is compared with all names.
                let known = || self.steps.keys().copied();
                let mut guesses = divisions().map(|(owner, _)| owner).take(MAX_GUESSES);
                let misspelled = guesses.find(|owner| report.nearest(owner, known()).is_some());
                let first = text.split_once('.').map_or(text, |(owner, _)| owner);
                self.no_function(misspelled.unwrap_or(first), span, report);
            }
        }
    }

    /// The workflow input that a reference names if its first word is a misspelled `inputs`, as in `input.log`.
    fn misspelled_input<'r>(&self, text: &'r str, report: &mut Report) -> Option<&'r str> {
        let (first, name) = text.split_once('.')?;
        report.nearest(first, std::iter::once(INPUTS))?;
        self.input_of(name).map(|_| name)
    }

    fn no_such_output(&self, id: FunctionId, owner: &str, port: Option<&str>, span: Span, report: &mut Report) {
        let declaration = self.function(id);
        if !declaration.outputs_known {
            return;
        }
        let (message, label) = match port {
            Some(port) => (format!("function `{owner}` has no output {}", quoted(port)), "unknown output"),
            None if declaration.outputs.is_empty() => (format!("function `{owner}` has no output"), "nothing to read"),
            None => (format!("function `{owner}` has several outputs"), "name one of them"),
        };
        let known = declaration.outputs.iter().map(|output| output.name.as_str());
        let diagnostic = Diagnostic::at(span, message).with_label(label);
        report.push_unknown(diagnostic, port.unwrap_or(""), &format!("outputs of `{owner}`"), known);
    }

    fn no_function(&self, name: &str, span: Span, report: &mut Report) {
        if !self.functions_known {
            return;
        }
        let mut diagnostic = Diagnostic::at(span, format!("there is no function {}", quoted(name)));
        if self.input_of(name).is_some() {
            diagnostic = diagnostic.with_help(format!("the input of the workflow is called `inputs.{name}`"));
        }
        if self.params.contains_key(name) {
            diagnostic = diagnostic.with_help(format!("the parameter of the workflow is called `params.{name}`"));
        }
        let names = self.functions.iter().map(|function| function.name.text.as_str());
        report.push_unknown(diagnostic.with_label("unknown function"), name, "functions", names);
    }

    fn input(&self, name: &str, reference: &Reference, report: &mut Report) -> Option<Source> {
        let found = self.input_of(name);
        if found.is_none() && self.inputs_known {
            let message = format!("the workflow has no input {}", quoted(name));
            let known = self.inputs.iter().map(|input| input.name.as_str());
            let diagnostic = Diagnostic::at(reference.span, message).with_label("unknown input");
            report.push_unknown(diagnostic, name, "workflow inputs", known);
        }
        found.map(Source::WorkflowInput)
    }
}
