//! Commands: the ports that arguments name, and the ports that are the standard input and output.

use std::collections::{BTreeMap, HashMap};

use super::inputs::Checked;
use super::scope::{Declaration, Scope};
use crate::diagnostics::{Diagnostic, Span};
use crate::file::{CommandFile, Text};
use crate::model::{ArgPiece, Output, Template, TemplatePiece};
use crate::report::{Report, listed, quoted};
use crate::seen::FEW;

/// Splits the arguments into pieces, and sets `stdin` and `stdout` of the ports that no argument names.
///
/// `{params.NAME}` or `${params.NAME}` of a parameter that only the workflow has makes it a parameter of the function,
/// too.
pub(super) fn check(
    scope: &Scope,
    declaration: &Declaration,
    command: &CommandFile,
    inputs: &mut [Checked],
    outputs: &mut [Output],
    params: &mut BTreeMap<String, Template>,
    report: &mut Report,
) -> Vec<Vec<ArgPiece>> {
    let names = (0..).zip(inputs.iter()).map(|(index, checked)| (checked.input.name.as_str(), index));
    // Most commands have few inputs, which are found faster than a table of them is made.
    let input_names = (inputs.len() > FEW).then(|| names.collect());
    let mut reader = Arguments { scope, declaration, inputs, input_names, outputs, params, report };
    let arguments: Vec<Vec<ArgPiece>> = command.arguments.iter().map(|argument| reader.read(argument)).collect();
    reader.check_single_reads(command, &arguments);
    let is_port = |piece: &ArgPiece| matches!(piece, ArgPiece::Input(_) | ArgPiece::Output(_));
    if let (Some(first), Some(text)) = (arguments.first(), command.arguments.first())
        && (text.text.is_empty() || first.iter().any(is_port))
    {
        report.push(
            Diagnostic::at(text.span, "the first entry of a command is the program to run")
                .with_help("name a program, such as `sort`, or a path")
                .with_help("a script that is an input is run by its interpreter: `[\"sh\", \"{in.script}\"]`"),
        );
    }
    let (mut named_inputs, mut named_outputs) = (vec![false; inputs.len()], vec![false; outputs.len()]);
    for piece in arguments.iter().flatten() {
        match *piece {
            ArgPiece::Input(index) => named_inputs[index as usize] = true,
            ArgPiece::Output(index) => named_outputs[index as usize] = true,
            ArgPiece::Text(_) | ArgPiece::Param(_) => {}
        }
    }
    let ports = inputs.iter().zip(named_inputs).map(|(checked, named)| Port {
        name: &checked.input.name,
        span: checked.span,
        mark: checked.stdin,
        named,
    });
    if let Some(index) = standard(&INPUT, &ports.collect::<Vec<_>>(), report) {
        inputs[index].input.stdin = true;
    }

    let spans =
        declaration.file.outputs.get().map_or(&[][..], |outputs| &outputs.0).iter().map(|entry| entry.name.span);
    let spans = spans.chain(std::iter::repeat(command.span));
    let marks = stdout_marks(declaration);
    let ports = outputs.iter().zip(named_outputs).zip(spans).zip(marks).map(|(((output, named), span), mark)| Port {
        name: &output.name,
        span,
        mark,
        named,
    });
    if let Some(index) = standard(&OUTPUT, &ports.collect::<Vec<_>>(), report) {
        outputs[index].stdout = true;
    }
    arguments
}

/// For each output, its mark as standard output in the file.
fn stdout_marks(declaration: &Declaration) -> impl Iterator<Item = Option<(bool, Span)>> {
    let entries = declaration.file.outputs.get().map_or(&[][..], |outputs| &outputs.0);
    let marks = entries.iter().map(|entry| {
        let stdout = entry.value.as_ref().and_then(|output| output.stdout.get());
        stdout.map(|stdout| (stdout.value.0, stdout.span))
    });
    marks.chain(std::iter::repeat(None))
}

/// A port of a command, with everything that determines whether it is a standard stream.
struct Port<'a> {
    name: &'a str,
    span: Span,
    /// The value of `stdin` or `stdout` in the file.
    mark: Option<(bool, Span)>,
    /// Whether an argument names it.
    named: bool,
}

/// The words for one direction.
struct Direction {
    noun: &'static str,
    standard: &'static str,
    key: &'static str,
    placeholder: &'static str,
}

const INPUT: Direction = Direction { noun: "input", standard: "standard input", key: "stdin", placeholder: "in" };
const OUTPUT: Direction = Direction { noun: "output", standard: "standard output", key: "stdout", placeholder: "out" };

/// The port that is the standard input or output.
fn standard(direction: &Direction, ports: &[Port<'_>], report: &mut Report) -> Option<usize> {
    let Direction { noun, standard, key, placeholder } = direction;
    let mut chosen: Option<usize> = None;
    for (index, port) in ports.iter().enumerate() {
        let Some((true, span)) = port.mark else { continue };
        if port.named {
            report.push(
                Diagnostic::at(
                    span,
                    format!("the {noun} `{}` is the {standard}, and an argument names it as well", port.name),
                )
                .with_help(format!(
                    "remove `{key}: true`, or the `{{{placeholder}.{}}}` from the arguments",
                    port.name
                )),
            );
        } else if let Some(other) = chosen {
            report.push(
                Diagnostic::at(span, format!("a second {standard}: `{}` already is the first", ports[other].name))
                    .with_help(format!(
                        "name `{}` in an argument instead: `{{{placeholder}.{}}}`",
                        port.name, port.name
                    )),
            );
        } else {
            chosen = Some(index);
        }
    }
    if chosen.is_none() {
        let mut candidates = (0..ports.len()).filter(|&index| !ports[index].named && ports[index].mark.is_none());
        chosen = candidates.next();
        if let Some((first, last)) = chosen.zip(candidates.next_back()) {
            let candidates = ports.iter().filter(|port| !port.named && port.mark.is_none());
            let names: Vec<String> = candidates.map(|port| format!("`{}`", port.name)).collect();
            let names = listed(names.iter().map(String::as_str)).unwrap_or_default();
            report.push(
                Diagnostic::at(ports[last].span, format!("which {noun} is the {standard}? No argument names {names}"))
                    .with_label("or this one?")
                    .with_related(ports[first].span, "this one?")
                    .with_help(format!(
                        "name all but one of them in arguments, for example `{{{placeholder}.{}}}`",
                        ports[last].name
                    ))
                    .with_help(format!("or set `{key}: true` for one of them, and name the others")),
            );
            return None;
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let marked = matches!(port.mark, Some((true, _)));
        if port.named || marked || chosen == Some(index) {
            continue;
        }
        report.push(
            Diagnostic::at(port.span, format!("the {noun} `{}` does not reach the command", port.name))
                .with_label(format!("not the {standard}, and no argument names it"))
                .with_help(format!("name it in an argument: `{{{placeholder}.{}}}`", port.name)),
        );
    }
    chosen
}

struct Arguments<'a, 'f, 's> {
    scope: &'a Scope<'f>,
    declaration: &'a Declaration<'f>,
    inputs: &'a [Checked],
    /// The indices of the inputs, if there are many.
    input_names: Option<HashMap<&'a str, usize>>,
    outputs: &'a [Output],
    params: &'a mut BTreeMap<String, Template>,
    report: &'a mut Report<'s>,
}

impl Arguments<'_, '_, '_> {
    /// The pieces of an argument. Braces without a port or parameter in them are text, as in `awk '{print $1}'`.
    /// `${in.NAME}` and the like are the same as `{in.NAME}`: no shell has variables with dots in their names.
    fn read(&mut self, argument: &Text) -> Vec<ArgPiece> {
        // Most arguments are one piece, and a large file has a million of them.
        let mut pieces = Vec::with_capacity(1);
        let mut literal = String::new();
        let mut rest = argument.text.as_str();
        while let Some(start) = rest.find('{') {
            literal.push_str(&rest[..start]);
            rest = &rest[start..];
            let has_dollar = literal.ends_with('$');
            let found = placeholder(rest).filter(|((_, name), _)| !(has_dollar && name.is_empty()));
            let Some((placeholder, after)) = found else {
                literal.push('{');
                rest = &rest[1..];
                continue;
            };
            let whole = &rest[..rest.len() - after.len()];
            let alone = whole.len() + usize::from(has_dollar) == argument.text.len();
            if has_dollar {
                literal.pop();
            }
            if let Some(piece) = self.resolve(placeholder, whole, alone, argument.span) {
                if !literal.is_empty() {
                    pieces.push(ArgPiece::Text(std::mem::take(&mut literal)));
                }
                pieces.push(piece);
            }
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() || pieces.is_empty() {
            pieces.push(ArgPiece::Text(literal));
        }
        pieces
    }

    /// An input that is not kept is a pipe. Opening it twice splits its bytes between the two readers.
    fn check_single_reads(&mut self, command: &CommandFile, arguments: &[Vec<ArgPiece>]) {
        let mut uses: Vec<(u32, Span)> = Vec::new();
        for (argument, pieces) in command.arguments.iter().zip(arguments) {
            for piece in pieces {
                if let ArgPiece::Input(input) = piece {
                    uses.push((*input, argument.span));
                }
            }
        }
        // Stable: the uses of an input stay in the order of the arguments.
        uses.sort_by_key(|(input, _)| *input);
        for uses in uses.chunk_by(|(one, _), (other, _)| one == other) {
            let [(index, first), .., (_, last)] = uses else { continue };
            let input = &self.inputs[*index as usize].input;
            if input.is_kept() {
                continue;
            }
            let diagnostic =
                Diagnostic::at(*last, format!("the command reads the input `{}` twice, but it is a pipe", input.name))
                    .with_label("a pipe can be read only once")
                    .with_help(format!(
                        "add `keep: true` to the input `{}`: the command then gets a file, when the stream is finished",
                        input.name
                    ))
                    .with_help("or name it once");
            self.report.push(if first == last {
                diagnostic
            } else {
                diagnostic.with_related(*first, "first read here")
            });
        }
    }

    fn input_of(&self, name: &str) -> Option<usize> {
        match &self.input_names {
            Some(names) => names.get(name).copied(),
            None => self.inputs.iter().position(|checked| checked.input.name == name),
        }
    }

    fn resolve(&mut self, (kind, name): (Kind, &str), whole: &str, alone: bool, argument: Span) -> Option<ArgPiece> {
        let span = self.report.within(argument, whole);
        let owner = &self.declaration.name.text;
        match kind {
            Kind::Input => {
                let Some(index) = self.input_of(name) else {
                    let diagnostic = Diagnostic::at(span, format!("function `{owner}` has no input {}", quoted(name)));
                    let known = self.inputs.iter().map(|checked| checked.input.name.as_str());
                    if !self.declaration.file.inputs.is_broken() && !self.declaration.file.foreach.is_broken() {
                        self.report.push_unknown(
                            diagnostic.with_label("unknown input"),
                            name,
                            &format!("inputs of `{owner}`"),
                            known,
                        );
                    }
                    return None;
                };
                if self.inputs[index].input.many && !alone {
                    self.report.push(
                        Diagnostic::at(
                            span,
                            format!("the input `{name}` has many streams, so it must be a separate argument"),
                        )
                        .with_label("becomes one argument for each stream")
                        .with_help(format!("split the argument: `\"…\", \"{whole}\"`")),
                    );
                }
                Some(ArgPiece::Input(u32::try_from(index).ok()?))
            }
            Kind::Output => {
                let found = self.scope.output_of(self.declaration.id, name);
                if found.is_none() && !self.declaration.file.outputs.is_broken() {
                    let diagnostic = Diagnostic::at(span, format!("function `{owner}` has no output {}", quoted(name)));
                    let known = self.outputs.iter().map(|output| output.name.as_str());
                    self.report.push_unknown(
                        diagnostic.with_label("unknown output"),
                        name,
                        &format!("outputs of `{owner}`"),
                        known,
                    );
                }
                found.map(ArgPiece::Output)
            }
            Kind::Param => {
                if !self.params.contains_key(name) && self.scope.params.contains_key(name) {
                    self.params.insert(name.into(), Template(vec![TemplatePiece::Param(name.into())]));
                }
                if self.params.contains_key(name) {
                    return Some(ArgPiece::Param(name.into()));
                }
                let declared = self
                    .declaration
                    .file
                    .params
                    .get()
                    .is_some_and(|params| params.0.iter().any(|it| it.name.text == name));
                if !declared && !self.declaration.file.params.is_broken() {
                    let diagnostic = Diagnostic::at(span, format!("there is no parameter {}", quoted(name)));
                    let known = self.params.keys().chain(self.scope.params.keys()).map(String::as_str);
                    self.report.push_unknown(diagnostic.with_label("unknown parameter"), name, "parameters", known);
                }
                None
            }
            Kind::Misspelled(meant) => {
                let right = if name.is_empty() { format!("{{{meant}.NAME}}") } else { format!("{{{meant}.{name}}}") };
                self.report.push(
                    Diagnostic::at(span, format!("{} names nothing", quoted(whole)))
                        .with_help(format!("did you mean `{right}`?")),
                );
                None
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Input,
    Output,
    Param,
    /// A misspelt name, with the name that was probably meant.
    Misspelled(&'static str),
}

/// Splits `{in.NAME}` and similar placeholders off a text that starts with a brace.
fn placeholder(text: &str) -> Option<((Kind, &str), &str)> {
    let inside = text.strip_prefix('{')?;
    let end = inside.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')))?;
    let (inside, after) = (&inside[..end], inside[end..].strip_prefix('}')?);
    let (word, name) = inside.split_once('.').unwrap_or((inside, ""));
    let kind = match word {
        "in" if name.is_empty() => Kind::Misspelled("in"),
        "out" if name.is_empty() => Kind::Misspelled("out"),
        "in" => Kind::Input,
        "out" => Kind::Output,
        "params" if !name.is_empty() => Kind::Param,
        "input" | "inputs" if !name.is_empty() => Kind::Misspelled("in"),
        "output" | "outputs" if !name.is_empty() => Kind::Misspelled("out"),
        "param" if !name.is_empty() => Kind::Misspelled("params"),
        _ => return None,
    };
    Some(((kind, name), after))
}
