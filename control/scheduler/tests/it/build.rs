//! Workflows written by hand, without a file.

use dflow_workflow::{
    ExpectInput, Function, FunctionId, Gate, Input, Output, Partition, Program, Resources, Retries, Source, Streams,
    Switch, SwitchOn, Workflow, WorkflowInput, WorkflowOutput,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A workflow in the making. Functions are added producers first.
#[derive(Clone, Debug)]
pub struct Flow(pub Workflow);

/// A function in the making.
#[derive(Clone, Debug)]
pub struct Fun(pub Function);

pub fn flow() -> Flow {
    Flow(Workflow {
        text: "".into(),
        name: "test".to_owned(),
        inputs: Vec::new(),
        params: BTreeMap::new(),
        env: BTreeMap::new(),
        functions: Vec::new(),
        switches: Vec::new(),
        outputs: Vec::new(),
    })
}

pub fn fun(name: &str) -> Fun {
    Fun(Function {
        name: name.to_owned(),
        program: Program::Sdk(name.to_owned()),
        foreach: None,
        instances: Streams::One,
        inputs: Vec::new(),
        outputs: Vec::new(),
        params: BTreeMap::new(),
        env: BTreeMap::new(),
        dir: None,
        timeout: None,
        deadline: None,
        start_timeout: Duration::from_secs(60),
        grace: Duration::ZERO,
        retries: Retries { count: 0, backoff: Duration::ZERO, max_backoff: Duration::ZERO },
        deterministic: false,
        success: BTreeSet::from([0]),
        resources: Resources { slots: 1, memory: None },
        conditional: None,
        expect: None,
    })
}

/// Output 0 of the function with this index.
pub fn out(function: u32) -> Source {
    out_of(function, 0)
}

pub fn out_of(function: u32, output: u32) -> Source {
    Source::Output { function: FunctionId(function), output }
}

impl Flow {
    pub fn input(mut self, name: &str, partitioned: bool) -> Self {
        self.0.inputs.push(WorkflowInput { name: name.to_owned(), partitioned, expect: ExpectInput::default() });
        self
    }

    pub fn param(mut self, name: &str, default: Option<&str>) -> Self {
        self.0.params.insert(name.to_owned(), default.map(str::to_owned));
        self
    }

    pub fn add(mut self, Fun(mut function): Fun) -> Self {
        function.instances = function.foreach.map_or(Streams::One, |source| self.0.streams(source));
        self.0.functions.push(function);
        self
    }

    pub fn switch(mut self, on: SwitchOn, cases: &[(&str, &[u32])], default: Option<&[u32]>) -> Self {
        let ids = |functions: &[u32]| functions.iter().map(|function| FunctionId(*function)).collect::<Vec<_>>();
        let index = self.0.switches.len() as u32;
        let cases: Vec<_> = cases.iter().map(|(value, functions)| ((*value).to_owned(), ids(functions))).collect();
        let default = default.map(ids);
        for function in cases.iter().flat_map(|(_, functions)| functions).chain(default.iter().flatten()) {
            self.0.functions[function.0 as usize].conditional = Some(index);
        }
        self.0.switches.push(Switch { name: format!("switch{index}"), on, cases, default });
        self
    }

    pub fn output(mut self, name: &str, sources: &[Source], many: bool) -> Self {
        self.0.outputs.push(WorkflowOutput { name: name.to_owned(), sources: sources.to_vec(), many });
        self
    }
}

impl Fun {
    pub fn foreach(mut self, source: Source) -> Self {
        self.0.foreach = Some(source);
        self.reads_with(&[source], Gate::Stream, |input| input.each = true)
    }

    pub fn reads(self, source: Source) -> Self {
        self.reads_with(&[source], Gate::Stream, |_| {})
    }

    pub fn reads_whole(self, source: Source) -> Self {
        self.reads_with(&[source], Gate::Whole, |_| {})
    }

    pub fn reads_at_once(self, source: Source) -> Self {
        self.reads_with(&[source], Gate::Start, |_| {})
    }

    pub fn gathers(self, sources: &[Source], gate: Gate) -> Self {
        self.reads_with(sources, gate, |input| input.many = true)
    }

    pub fn needs(self, sources: &[Source], need: u32, gate: Gate) -> Self {
        self.reads_with(sources, gate, |input| {
            input.many = true;
            input.need = Some(need);
        })
    }

    pub fn reads_with(mut self, sources: &[Source], gate: Gate, change: impl FnOnce(&mut Input)) -> Self {
        let mut input = Input {
            name: format!("in{}", self.0.inputs.len()),
            sources: sources.to_vec(),
            each: false,
            many: false,
            need: None,
            gate,
            keep: false,
            stdin: false,
        };
        change(&mut input);
        self.0.inputs.push(input);
        self
    }

    pub fn writes(self) -> Self {
        self.writes_parts(Partition::Single)
    }

    pub fn writes_parts(mut self, partition: Partition) -> Self {
        let name = format!("out{}", self.0.outputs.len());
        self.0.outputs.push(Output { name, partition, stdout: false });
        self
    }

    pub fn retries(mut self, count: u32) -> Self {
        self.0.retries.count = count;
        self
    }

    pub fn backoff(mut self, first: Duration) -> Self {
        (self.0.retries.backoff, self.0.retries.max_backoff) = (first, first * 8);
        self
    }

    pub fn deterministic(mut self) -> Self {
        self.0.deterministic = true;
        self
    }

    pub fn slots(mut self, slots: u32) -> Self {
        self.0.resources.slots = slots;
        self
    }

    pub fn command(mut self) -> Self {
        self.0.program = Program::Command(Vec::new());
        self
    }
}
