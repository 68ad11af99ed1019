//! Tests on mutated files: good files with random changes, and random bytes.
//!
//! Any file gives either a workflow that satisfies every guarantee of the model, or a report that can be displayed.

use std::ops::Range;

use proptest::prelude::*;

use crate::model::{ArgPiece, Partition, Program, Source, Streams, SwitchOn, Workflow};
use crate::{Diagnostics, Retention, graph};

/// The good files.
pub(crate) const GOOD: [&str; 4] = [
    include_str!("../tests/good/wordcount.yaml"),
    include_str!("../tests/good/commands.yaml"),
    include_str!("../tests/good/everything.yaml"),
    include_str!("../tests/good/aliases.yaml"),
];

/// Pieces that mean something somewhere in a workflow file.
const PIECES: [&str; 44] = [
    "{",
    "}",
    "[",
    "]",
    ": ",
    "- ",
    ", ",
    "\n",
    "\n  ",
    "    ",
    "\t",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "|\n",
    ">",
    "!!str ",
    "? ",
    "<<: ",
    "%",
    "@",
    "---\n",
    "null",
    "true",
    "0",
    "-1",
    "99999999999",
    "1.5",
    "30s",
    "1GiB",
    "{in.part}",
    "{out.x}",
    "${params.top}",
    "inputs.text",
    "params.top",
    "foreach: ",
    "switch: ",
    "ä",
    "\u{feff}",
    "\u{0}",
    "\u{2028}",
    "𝄞",
];

#[derive(Clone, Debug)]
enum Change {
    Insert(&'static str),
    Remove(usize),
    /// Repeat this many bytes from another place.
    Copy(usize, usize),
    /// Replace a word by another word.
    Word(usize),
}

/// A good file with a few changes: of any kind, or, which leaves more of them valid YAML, only of words.
pub(crate) fn changed_file() -> impl Strategy<Value = String> {
    let word = || any::<usize>().prop_map(Change::Word);
    let change = prop_oneof![
        prop::sample::select(&PIECES[..]).prop_map(Change::Insert),
        (1_usize..30).prop_map(Change::Remove),
        (any::<usize>(), 1_usize..60).prop_map(|(from, length)| Change::Copy(from, length)),
        word(),
    ];
    let changes = prop_oneof![
        prop::collection::vec((any::<usize>(), change), 1..6),
        prop::collection::vec((any::<usize>(), word()), 1..4),
    ];
    (prop::sample::select(&GOOD[..]), changes).prop_map(|(text, changes)| {
        changes.into_iter().fold(text.to_owned(), |text, (place, change)| apply(&text, place, &change))
    })
}

fn apply(text: &str, place: usize, change: &Change) -> String {
    let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let at = boundary(place % (text.len() + 1));
    match change {
        Change::Insert(piece) => format!("{}{piece}{}", &text[..at], &text[at..]),
        Change::Remove(length) => format!("{}{}", &text[..at], &text[boundary(at + length)..]),
        Change::Copy(from, length) => {
            let from = boundary(from % (text.len() + 1));
            format!("{}{}{}", &text[..at], &text[from..boundary(from + length)], &text[at..])
        }
        Change::Word(other) => {
            let words = words(text);
            if words.is_empty() {
                return text.to_owned();
            }
            let (here, other) = (words[place % words.len()].clone(), words[other % words.len()].clone());
            format!("{}{}{}", &text[..here.start], &text[other], &text[here.end..])
        }
    }
}

/// The words of a text that are not in comments.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let mut at = start;
        for word in line.split('#').next().unwrap_or("").split(|c: char| !c.is_alphanumeric() && !"_.-".contains(c)) {
            if !word.is_empty() {
                words.push(at..at + word.len());
            }
            // The separator, if the line continues.
            at += word.len();
            at += text[at..].chars().next().map_or(0, char::len_utf8);
        }
        start += line.len();
    }
    words
}

/// Checks a result of either kind.
pub(crate) fn check_result(text: &str, result: Result<Workflow, Diagnostics>) {
    match result {
        Ok(workflow) => check_promises(&workflow),
        Err(diagnostics) => {
            assert!(diagnostics.iter().next().is_some());
            let lines = text.lines().count();
            for error in &diagnostics {
                assert!(!error.message().is_empty());
                let location = error.location().expect("a text has places");
                assert!(
                    location.line >= 1 && location.line <= lines + 1 && location.column >= 1,
                    "{location} in {text}"
                );
            }
            assert!(!diagnostics.render(true).is_empty() && diagnostics.to_string().contains("error"));
        }
    }
}

/// The guarantees in the documentation of the model.
fn check_promises(workflow: &Workflow) {
    let exists = |source: &Source, before: usize| match source {
        Source::WorkflowInput(input) => (*input as usize) < workflow.inputs.len(),
        Source::Output { function, output } => {
            (function.0 as usize) < before && (*output as usize) < workflow.function(*function).outputs.len()
        }
    };
    let count = workflow.functions.len();
    let retention = Retention::of(workflow);
    for (index, function) in workflow.functions.iter().enumerate() {
        for input in &function.inputs {
            assert!(!input.sources.is_empty() && input.sources.iter().all(|source| exists(source, index)), "{input:?}");
            let many = input.sources.len() > 1 || input.sources.iter().any(|it| workflow.streams(*it) != Streams::One);
            assert_eq!(input.many, many && !input.each, "{input:?}");
            assert!(input.need.is_none_or(|need| need >= 1 && input.many));
        }
        assert_eq!(function.foreach.is_some(), function.inputs.first().is_some_and(|input| input.each));
        if let Some(source) = function.foreach {
            assert_ne!(workflow.streams(source), Streams::One);
            assert!(function.outputs.iter().all(|output| output.partition == Partition::Single));
        }
        let (stdin, stdout) = (
            function.inputs.iter().filter(|input| input.stdin).count(),
            function.outputs.iter().filter(|output| output.stdout).count(),
        );
        match &function.program {
            Program::Sdk(name) => assert!(!name.is_empty() && stdin + stdout == 0),
            Program::Command(arguments) => {
                assert!(!arguments.is_empty() && stdin <= 1 && stdout <= 1);
                for (number, argument) in arguments.iter().enumerate() {
                    assert!(!argument.is_empty());
                    for piece in argument {
                        match piece {
                            ArgPiece::Text(_) => {}
                            ArgPiece::Input(input) => {
                                assert!(number > 0 && (argument.len() == 1 || !function.inputs[*input as usize].many));
                            }
                            ArgPiece::Output(output) => {
                                assert!(number > 0 && (*output as usize) < function.outputs.len())
                            }
                            ArgPiece::Param(name) => assert!(function.params.contains_key(name)),
                        }
                    }
                }
            }
        }
        if let Some(switch) = function.conditional {
            let switch = &workflow.switches[switch as usize];
            let mut targets =
                switch.cases.iter().flat_map(|(_, targets)| targets).chain(switch.default.iter().flatten());
            assert!(targets.any(|id| id.0 as usize == index));
            if let SwitchOn::Value(source) = switch.on {
                assert!(exists(&source, index) && workflow.streams(source) == Streams::One);
            }
        }
        assert!(function.resources.slots >= 1 && function.retries.backoff <= function.retries.max_backoff);
        let id = crate::FunctionId(u32::try_from(index).unwrap());
        let _ = retention.may_restart(id);
        for output in 0..function.outputs.len() {
            let _ = retention.keeps(Source::Output { function: id, output: u32::try_from(output).unwrap() });
        }
    }
    for output in &workflow.outputs {
        assert!(!output.sources.is_empty() && output.sources.iter().all(|source| exists(source, count)));
    }
    assert!(graph::mermaid(workflow).starts_with("flowchart"));
    assert!(graph::dot(workflow).ends_with("}\n"));
}

#[test]
fn mutated_files_satisfy_the_model_or_are_refused() {
    for text in GOOD {
        check_promises(&Workflow::parse("w.yaml", text).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn changed_files_give_a_workflow_or_errors(text in changed_file()) {
        check_result(&text, Workflow::parse("w.yaml", &text));
    }

    #[test]
    fn pieces_of_files_give_a_workflow_or_errors(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        let text = pieces.concat();
        check_result(&text, Workflow::parse("w.yaml", &text));
    }

    #[test]
    fn random_bytes_give_errors(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Workflow::from_bytes("w.yaml", &bytes).is_err());
    }

    #[test]
    fn broken_utf8_gives_errors(text in changed_file(), place in any::<prop::sample::Index>(), byte in 128_u8..) {
        let mut bytes = text.into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        check_result(&text, Workflow::from_bytes("w.yaml", &bytes));
    }
}
