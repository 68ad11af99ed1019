//! A random workflow.

use super::Choices;
use crate::build::{Flow, Fun, flow, fun, out_of};
use dflow_scheduler::Invocation;
use dflow_workflow::{Gate, Partition, Source, SwitchOn};
use std::fmt;
use std::time::Duration;

pub struct Case {
    pub flow: Flow,
    pub invocation: Invocation,
    pub input_parts: Vec<u32>,
    /// For each function, how it handles its inputs and outputs.
    pub styles: Vec<Style>,
}

/// A workflow in few lines, for the message of a failed check.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workflow = &self.flow.0;
        let name = |source: &Source| match source {
            Source::WorkflowInput(input) => format!("in{input}"),
            Source::Output { function, output } => format!("f{function}.{output}", function = function.0),
        };
        let names = |sources: &[Source]| sources.iter().map(name).collect::<Vec<_>>().join("+");
        writeln!(f, "{:?}, inputs {:?}", self.invocation, self.input_parts)?;
        for (function, style) in workflow.functions.iter().zip(&self.styles) {
            write!(f, "{} {style:?}", function.name)?;
            for i in &function.inputs {
                let kind = if i.each {
                    "each "
                } else if i.many {
                    "many "
                } else {
                    ""
                };
                write!(f, " <- {kind}{} {:?}", names(&i.sources), i.gate)?;
                i.need.map_or(Ok(()), |need| write!(f, " need {need}"))?;
            }
            let outputs: Vec<Partition> = function.outputs.iter().map(|output| output.partition).collect();
            write!(f, " -> {outputs:?} retries {} slots {}", function.retries.count, function.resources.slots)?;
            let marks = (function.deterministic, function.conditional, &function.program);
            writeln!(f, " (deterministic, conditional, program) {marks:?}")?;
        }
        for switch in &workflow.switches {
            writeln!(f, "{} on {:?} {:?} {:?}", switch.name, switch.on, switch.cases, switch.default)?;
        }
        for output in &workflow.outputs {
            writeln!(f, "{} <- {}", output.name, names(&output.sources))?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Reads all its inputs to their end.
    Full,
    /// May end at any time.
    Early,
    /// Writes until it has no reader left.
    Endless,
}

/// A source, and whether it is exactly one stream.
type Port = (Source, bool);

pub fn workflow(choices: &mut Choices, invocation: Invocation) -> Case {
    let mut flow = flow();
    let mut input_parts = Vec::new();
    let mut ports: Vec<Port> = Vec::new();
    for index in 0..choices.below(3) {
        let partitioned = choices.once_in(2);
        flow = flow.input(&format!("input{index}"), partitioned);
        input_parts.push(if partitioned { choices.below(4) as u32 } else { 1 });
        ports.push((Source::WorkflowInput(index as u32), !partitioned));
    }
    for index in 0..2 + choices.below(12) {
        let (function, outputs) = function(choices, index as u32, &ports);
        ports.extend(outputs);
        flow = flow.add(function);
    }
    for _ in 0..[0, 1, 0, 2][choices.below(4)] {
        flow = add_switch(choices, flow, &ports);
    }
    for index in 0..choices.below(3) {
        let sources = some(choices, &ports);
        if !sources.is_empty() {
            flow = flow.output(&format!("output{index}"), &sources, true);
        }
    }
    let styles = styles(choices, &flow, invocation);
    Case { flow, invocation, input_parts, styles }
}

fn function(choices: &mut Choices, index: u32, ports: &[Port]) -> (Fun, Vec<Port>) {
    let mut function = fun(&format!("f{index}"));
    let mut single = true;
    if !ports.is_empty() && choices.below(3) == 0 {
        function = function.foreach(late(choices, ports).0);
        single = false;
    }
    for _ in 0..choices.below(3) {
        let gate = [Gate::Stream, Gate::Stream, Gate::Whole, Gate::Start][choices.below(4)];
        let sources = some(choices, ports);
        let alone: Vec<Source> = ports.iter().filter(|(_, single)| *single).map(|(source, _)| *source).collect();
        function = match choices.below(4) {
            0 | 1 if !alone.is_empty() => function.reads_with(&[alone[choices.below(alone.len())]], gate, |_| {}),
            3 if !sources.is_empty() => {
                let need = if choices.once_in(3) { 2.min(sources.len() as u32) } else { 1 };
                function.needs(&sources, need, gate)
            }
            _ if !sources.is_empty() => function.gathers(&sources, gate),
            _ => function,
        };
    }
    let mut outputs = Vec::new();
    for port in 0..[1, 2, 0][choices.below(3)] {
        let partition = match choices.below(4) {
            0 | 1 => Partition::Single,
            2 => Partition::Fixed([2, 3, 1, 0][choices.below(4)]),
            _ => Partition::Discovered,
        };
        outputs.push((out_of(index, port as u32), single && partition == Partition::Single));
        function = function.writes_parts(partition);
    }
    function = function.retries([9, 0, 1, 9][choices.below(4)]).slots(1 + choices.below(3) as u32);
    if choices.once_in(3) {
        function = function.backoff(Duration::from_secs(1));
    }
    if choices.once_in(4) {
        function = function.deterministic();
    }
    if choices.once_in(5) {
        function = function.command();
    }
    (function, outputs)
}

/// A switch on the only stream of an earlier function, or on a parameter, over later functions that have none yet.
fn add_switch(choices: &mut Choices, flow: Flow, ports: &[Port]) -> Flow {
    let alone: Vec<Source> = ports.iter().filter(|(_, single)| *single).map(|(source, _)| *source).collect();
    let on = match alone.is_empty() || choices.once_in(4) {
        true => SwitchOn::Param("mode".to_owned()),
        false => SwitchOn::Value(alone[choices.below(alone.len())]),
    };
    let first = match &on {
        SwitchOn::Value(Source::Output { function, .. }) => function.0 + 1,
        SwitchOn::Value(Source::WorkflowInput(_)) | SwitchOn::Param(_) => 0,
    };
    let (mut a, mut b, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for function in first..flow.0.functions.len() as u32 {
        if flow.0.functions[function as usize].conditional.is_none() {
            match choices.below(5) {
                0 => a.push(function),
                1 => b.push(function),
                2 => other.push(function),
                _ => {}
            }
        }
    }
    let default = (!choices.once_in(12)).then_some(&other[..]);
    flow.param("mode", Some("a")).switch(on, &[("a", &a), ("b", &b)], default)
}

fn some(choices: &mut Choices, ports: &[Port]) -> Vec<Source> {
    let mut sources = Vec::new();
    for _ in 0..[1, 2, 3, 0][choices.below(4)] {
        if !ports.is_empty() {
            let (source, _) = late(choices, ports);
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
    }
    sources
}

/// Any port, and the later ones more often, so that the graph becomes deep.
fn late(choices: &mut Choices, ports: &[Port]) -> Port {
    let (a, b) = (choices.below(ports.len()), choices.below(ports.len()));
    ports[a.max(b)]
}

fn styles(choices: &mut Choices, flow: &Flow, invocation: Invocation) -> Vec<Style> {
    let workflow = &flow.0;
    let mut styles: Vec<Style> =
        workflow.functions.iter().map(|_| if choices.once_in(3) { Style::Early } else { Style::Full }).collect();
    for (index, function) in workflow.functions.iter().enumerate() {
        // An endless function needs readers that all end early, and no other function may wait for its end.
        let from = |source: &Source| matches!(source, Source::Output { function, .. } if function.0 as usize == index);
        let patient = workflow.outputs.iter().flat_map(|output| &output.sources).any(from)
            || workflow.switches.iter().any(|switch| matches!(&switch.on, SwitchOn::Value(on) if from(on)));
        let readers = workflow.functions.iter().enumerate();
        let mut read = 0;
        let mut early = true;
        for (reader, input) in readers.flat_map(|(reader, f)| f.inputs.iter().map(move |input| (reader, input))) {
            if input.sources.iter().any(from) {
                read += 1;
                early &= styles[reader] == Style::Early && input.gate != Gate::Whole && input.need.is_none();
            }
        }
        let read_everywhere = (0..function.outputs.len()).all(|output| {
            let source = out_of(index as u32, output as u32);
            workflow.functions.iter().any(|f| f.inputs.iter().any(|input| input.sources.contains(&source)))
        });
        let one = function.outputs.iter().all(|output| output.partition == Partition::Single);
        let plain = invocation == Invocation::Dataflow && function.conditional.is_none();
        if one && plain && !patient && early && read > 0 && read_everywhere && choices.once_in(2) {
            styles[index] = Style::Endless;
        }
    }
    styles
}
