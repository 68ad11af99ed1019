//! How long the bytes of a stream must be kept.
//!
//! This is a pure function of the workflow, so that every node independently arrives at the same answer.

use std::collections::HashSet;
use std::hash::Hash;

use crate::model::{Function, FunctionId, Source, Streams, SwitchOn, Workflow};

/// Which streams of a workflow must be kept, computed in one pass over all inputs.
#[derive(Clone, Debug)]
pub struct Retention {
    /// For each function whether it may restart.
    restarting: Vec<bool>,
    kept: HashSet<Source>,
}

impl Retention {
    /// Visits every reader of every stream.
    #[must_use]
    pub fn of(workflow: &Workflow) -> Self {
        let restarting = restarting(workflow);
        let mut kept = HashSet::new();
        for function in &workflow.functions {
            let all = function.retries.count > 0 || matches!(decider(workflow, function), Some(SwitchOn::Value(_)));
            let late = discovers_instances(workflow, function);
            let producers = function.inputs.iter().flat_map(|input| {
                let producers = input.sources.iter().filter_map(producer).filter(|id| restarting[id.0 as usize]);
                producers.map(|id| (id, !input.each && workflow.function(id).foreach.is_some()))
            });
            let causes = Causes::of(producers);
            for input in &function.inputs {
                let all = all || input.is_kept() || input.need.is_some() || (late && !input.each);
                let sources = input.sources.iter();
                kept.extend(sources.filter(|source| all || causes.beside(producer(source))));
            }
        }
        Self { restarting, kept }
    }

    /// Whether an instance of a function can restart after it has read something: because it may be retried, or because
    /// a function that it reads from, or that decides whether it runs, may restart.
    ///
    /// A `deterministic` producer makes no difference: if its new attempt differs after all, its readers restart.
    #[must_use]
    pub fn may_restart(&self, function: FunctionId) -> bool {
        self.restarting[function.0 as usize]
    }

    /// Whether the bytes of a stream must be kept from offset 0, even when all present readers have consumed them.
    ///
    /// They must if one of its readers
    /// - has retries of its own,
    /// - may restart because of another stream that it reads, while this stream continues (another instance of the same
    ///   `foreach` counts as another producer),
    /// - has asked to `keep` it, or starts only when it is finished
    ///   ([`Gate::needs_whole_stream`](crate::Gate::needs_whole_stream)),
    /// - appears only later: it belongs to a switch that a stream decides, its fan-in is k-of-n, or it is a `foreach`
    ///   over parts that are still being discovered and all its instances read this input.
    ///
    /// An input of the workflow is treated as if it could be read only once, which is true of standard input; the
    /// caller need not keep bytes that are in files.
    #[must_use]
    pub fn keeps(&self, source: Source) -> bool {
        self.kept.contains(&source)
    }
}

/// The producers that may cause a reader to restart.
#[derive(Clone, Debug)]
pub struct Causes<P> {
    /// One of them, and whether there are others.
    one: Option<P>,
    several: bool,
    /// Producers of which the reader reads several instances: one may restart while another continues.
    collections: HashSet<P>,
}

impl<P: Copy + Eq + Hash> Causes<P> {
    /// Collects producers that may restart, each with whether the reader reads several of its instances.
    pub fn of(producers: impl Iterator<Item = (P, bool)>) -> Self {
        let mut causes = Self { one: None, several: false, collections: HashSet::new() };
        for (producer, is_collection) in producers {
            causes.several |= *causes.one.get_or_insert(producer) != producer;
            if is_collection {
                causes.collections.insert(producer);
            }
        }
        causes
    }

    /// Whether the reader may restart while a stream of this producer continues.
    #[must_use]
    pub fn beside(&self, producer: Option<P>) -> bool {
        self.several
            || (self.one.is_some() && self.one != producer)
            || producer.is_some_and(|producer| self.collections.contains(&producer))
    }
}

/// For each function, whether it may restart; a single pass, because producers come first.
fn restarting(workflow: &Workflow) -> Vec<bool> {
    let mut restarting: Vec<bool> = Vec::with_capacity(workflow.functions.len());
    for function in &workflow.functions {
        let needed = function.inputs.iter().flat_map(|input| &input.sources).filter_map(producer);
        let mut needed = needed.chain(deciding_function(workflow, function));
        restarting.push(function.retries.count > 0 || needed.any(|id| restarting[id.0 as usize]));
    }
    restarting
}

/// Whether the number of a function's instances is known only during the run.
fn discovers_instances(workflow: &Workflow, function: &Function) -> bool {
    function.foreach.is_some_and(|source| workflow.streams(source) == Streams::Discovered)
}

/// The function whose output decides whether this one runs.
fn deciding_function(workflow: &Workflow, function: &Function) -> Option<FunctionId> {
    match decider(workflow, function)? {
        SwitchOn::Value(source) => producer(source),
        SwitchOn::Param(_) => None,
    }
}

/// The value that decides whether a function runs.
fn decider<'w>(workflow: &'w Workflow, function: &Function) -> Option<&'w SwitchOn> {
    Some(&workflow.switches[function.conditional? as usize].on)
}

fn producer(source: &Source) -> Option<FunctionId> {
    match source {
        Source::WorkflowInput(_) => None,
        Source::Output { function, .. } => Some(*function),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(functions: &str) -> Workflow {
        let text = format!("workflow: w\ninputs: {{ a: {{}}, files: {{ parts: files }} }}\nfunctions:\n{functions}");
        Workflow::parse("w.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn output(workflow: &Workflow, name: &str) -> Source {
        let function = workflow.functions.iter().position(|function| function.name == name).unwrap();
        Source::Output { function: FunctionId(u32::try_from(function).unwrap()), output: 0 }
    }

    fn kept(functions: &str, of: &str) -> bool {
        let workflow = parse(functions);
        Retention::of(&workflow).keeps(output(&workflow, of))
    }

    const CHAIN: &str = "
  a: { program: a, inputs: { x: inputs.a }, outputs: [y] }
  b: { program: b, inputs: { x: a.y }, outputs: [y] }
  c: { program: c, inputs: { x: b.y }, outputs: [y] }
";

    #[test]
    fn restarts_spread_downstream_only() {
        let workflow = parse(&CHAIN.replace("program: b,", "program: b, retries: 1,"));
        let restarting: Vec<bool> = (0..3).map(|id| Retention::of(&workflow).may_restart(FunctionId(id))).collect();
        assert_eq!(restarting, [false, true, true]);
    }

    #[test]
    fn a_reader_with_retries_needs_everything() {
        assert!(!kept(CHAIN, "a"));
        assert!(kept(&CHAIN.replace("program: b,", "program: b, retries: 1,"), "a"));
        // The new attempt of `b` writes its output anew.
        assert!(!kept(&CHAIN.replace("program: b,", "program: b, retries: 1,"), "b"));
        assert!(kept(&CHAIN.replace("{ x: b.y }", "{ x: { from: b.y, keep: true } }"), "b"));
        // It comes after the last byte.
        assert!(kept(&CHAIN.replace("{ x: b.y }", "{ x: { from: b.y, gate: whole } }"), "b"));
    }

    #[test]
    fn a_reader_that_restarts_because_of_another_stream() {
        let join = "
  a: { program: a, inputs: [inputs.a], outputs: [y] }
  b: { program: b, inputs: [inputs.a], outputs: [z], retries: 2 }
  c: { program: c, inputs: [a.y, b.z] }
";
        assert!(kept(join, "a"));
        assert!(!kept(join, "b"));
    }

    #[test]
    fn instances_of_a_foreach_restart_independently() {
        let fan_in = "
  split: { program: s, inputs: [inputs.a], outputs: { parts: { partition: 4 } } }
  count: { program: c, foreach: split.parts, outputs: [counts], retries: 1 }
  merge: { program: m, inputs: [count.counts] }
  each: { program: e, foreach: count.counts }
";
        assert!(kept(fan_in, "count"));
        assert!(!kept(&fan_in.replace("  merge: { program: m, inputs: [count.counts] }\n", ""), "count"));
    }

    #[test]
    fn readers_that_appear_later() {
        let broadcast = "
  split: { program: s, inputs: [inputs.a], outputs: { parts: { partition: discovered } } }
  table: { program: t, inputs: [inputs.a], outputs: [rows] }
  count: { program: c, foreach: split.parts, inputs: [table.rows], outputs: [counts] }
";
        assert!(kept(broadcast, "table"));
        assert!(!kept(broadcast, "split"));
        assert!(!kept(&broadcast.replace("discovered", "8"), "table"));
        assert!(!kept(&broadcast.replace("foreach: split.parts", "foreach: inputs.files"), "table"));

        let switch = "
  probe: { program: p, inputs: [inputs.a], outputs: [kind, copy] }
  a: { program: a, inputs: [inputs.a], outputs: [y] }
  b: { program: b, inputs: [a.y] }
  route: { switch: probe.kind, cases: { x: b } }
";
        assert!(kept(switch, "a"));
        assert!(kept(&switch.replace("switch: probe.kind", "switch: inputs.a"), "a"));

        let race = "
  a: { program: a, inputs: [inputs.a], outputs: [y] }
  b: { program: b, inputs: [inputs.a], outputs: [y] }
  c: { program: c, inputs: { x: { from: [a.y, b.y], need: 1 } } }
";
        assert!(kept(race, "a"));
        assert!(!kept(&race.replace(", need: 1", ""), "a"));
    }

    #[test]
    fn workflow_inputs_count_as_read_once() {
        let workflow = parse(CHAIN);
        assert!(!Retention::of(&workflow).keeps(Source::WorkflowInput(0)));
        let workflow = parse(&CHAIN.replace("program: a,", "program: a, retries: 1,"));
        assert!(Retention::of(&workflow).keeps(Source::WorkflowInput(0)));
    }
}
