//! The declarations of a file, and how references to them are resolved.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::diagnostics::{Diagnostic, Span};
use crate::file::{
    DEFAULT_OUTPUT, Field, FunctionFile, INPUTS, Name, PARAMS, PartitionFile, StepFile, SwitchFile, Words, WorkflowFile,
};
use crate::limits::{DEFAULT_GRACE, MAX_SWITCHES};
use crate::model::{FunctionId, Output, Partition, Source, Streams, WorkflowInput};
use crate::report::{Report, quoted};
use crate::seen::FEW;

/// The declarations of a file. Functions have their index in the file, which differs from their index in the workflow.
pub(super) struct Scope<'f> {
    pub(super) inputs: Vec<WorkflowInput>,
    /// `false` if `inputs` could not be parsed, so that a missing name is not an error.
    pub(super) inputs_known: bool,
    input_names: HashMap<&'f str, u32>,
    /// The default working directory.
    pub(super) dir: Option<&'f Words>,
    pub(super) params: BTreeMap<String, Option<String>>,
    params_known: bool,
    pub(super) functions: Vec<Declaration<'f>>,
    pub(super) switches: Vec<(&'f Name, &'f SwitchFile)>,
    /// `false` if `functions` could not be read.
    pub(super) functions_known: bool,
    pub(super) steps: HashMap<&'f str, Step, RandomState>,
    /// The outputs of the functions that have many.
    output_names: HashMap<(FunctionId, &'f str), u32, RandomState>,
    /// The default grace.
    pub(super) grace: Duration,
}

/// The parts of a function that other functions refer to.
pub(super) struct Declaration<'f> {
    pub(super) id: FunctionId,
    pub(super) name: &'f Name,
    pub(super) file: &'f FunctionFile,
    pub(super) outputs: Vec<Output>,
    /// `false` if `outputs` could not be read.
    pub(super) outputs_known: bool,
    /// It has a `foreach`. Sources are looked up so often in a large file that this is worth a copy.
    has_foreach: bool,
    /// The source of its `foreach`, if it has one and it could be resolved.
    pub(super) foreach: Option<Source>,
    pub(super) instances: Instances,
}

/// The number of instances of a function.
#[derive(Clone, Copy)]
pub(super) struct Instances {
    /// One, or one for each of these streams.
    pub(super) streams: Streams,
    /// The source at the start of its chain of `foreach`: functions with the same one have instances that correspond.
    pub(super) origin: Option<Source>,
}

impl Default for Instances {
    fn default() -> Self {
        Self { streams: Streams::One, origin: None }
    }
}

/// The kind of an entry in `functions`.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Function(FunctionId),
    Switch,
    /// It could not be parsed.
    Broken,
}

impl<'f> Scope<'f> {
    pub(super) fn new(file: &'f WorkflowFile, report: &mut Report) -> Self {
        let mut scope = Self {
            inputs: Vec::new(),
            inputs_known: !file.inputs.is_broken(),
            input_names: HashMap::new(),
            dir: file.dir.get(),
            params: BTreeMap::new(),
            params_known: !file.params.is_broken(),
            functions: Vec::new(),
            switches: Vec::new(),
            functions_known: !file.functions.is_broken(),
            steps: HashMap::default(),
            output_names: HashMap::default(),
            grace: super::settings::grace(file.grace.get(), report).unwrap_or(DEFAULT_GRACE),
        };
        for entry in file.inputs.get().map_or(&[][..], |inputs| &inputs.0) {
            let partitioned = entry.value.as_ref().is_some_and(|input| input.parts.get().is_some());
            scope.input_names.insert(&entry.name.text, index_of(&scope.inputs));
            let expect = super::expect::input(&entry.name, entry.value.as_ref(), report);
            scope.inputs.push(WorkflowInput { name: entry.name.text.clone(), partitioned, expect });
        }
        for entry in file.params.get().map_or(&[][..], |params| &params.0) {
            let default = entry.value.as_ref().and_then(|param| param.0.as_ref()).map(|text| text.text.clone());
            scope.params.insert(entry.name.text.clone(), default);
        }
        let steps = file.functions.get().map_or(&[][..], |functions| &functions.0);
        scope.functions.reserve(steps.len());
        scope.steps.reserve(steps.len());
        for entry in steps {
            let first = entry.name.text.split_once('.').map_or(entry.name.text.as_str(), |(first, _)| first);
            if matches!(first, INPUTS | PARAMS) {
                report.push(
                    Diagnostic::at(entry.name.span, format!("the name {} is reserved", quoted(&entry.name.text)))
                        .with_label("a function cannot have this name")
                        .with_help(format!("`{first}` before a dot means the {first} of the workflow")),
                );
            }
            let step = match &entry.value {
                None => Step::Broken,
                Some(StepFile::Switch(switch)) => {
                    scope.switches.push((&entry.name, switch));
                    Step::Switch
                }
                Some(StepFile::Function(function)) => {
                    let id = FunctionId(index_of(&scope.functions));
                    let declaration = Declaration::new(id, &entry.name, function);
                    scope.name_outputs(id, &declaration);
                    scope.functions.push(declaration);
                    Step::Function(id)
                }
            };
            scope.steps.insert(&entry.name.text, step);
        }
        for index in 0..scope.functions.len() {
            scope.functions[index].foreach =
                scope.functions[index].file.foreach.get().and_then(|reference| scope.source(reference, report));
        }
        scope.count_instances();
        if let Some((name, _)) = scope.switches.get(MAX_SWITCHES) {
            report.push(
                Diagnostic::at(name.span, format!("more than {MAX_SWITCHES} switches"))
                    .with_help("a case may list several functions, and other functions may read from the chosen ones"),
            );
        }
        scope
    }

    fn name_outputs(&mut self, id: FunctionId, declaration: &Declaration<'f>) {
        if declaration.outputs.len() <= FEW {
            return;
        }
        let entries = declaration.file.outputs.get().map_or(&[][..], |outputs| &outputs.0);
        self.output_names.extend((0..).zip(entries).map(|(index, entry)| ((id, entry.name.text.as_str()), index)));
    }

    /// Reports an unknown workflow parameter.
    pub(super) fn has_param(&self, name: &str, span: Span, report: &mut Report) -> bool {
        let known = self.params.contains_key(name);
        if !known && self.params_known {
            let diagnostic = Diagnostic::at(span, format!("the workflow has no parameter {}", quoted(name)))
                .with_label("unknown parameter");
            report.push_unknown(diagnostic, name, "parameters of the workflow", self.params.keys().map(String::as_str));
        }
        known
    }

    pub(super) fn function(&self, id: FunctionId) -> &Declaration<'f> {
        &self.functions[id.0 as usize]
    }

    /// The number of streams of a source: a `foreach` has as many as the source that it runs over.
    pub(super) fn streams(&self, source: Source) -> Streams {
        match source {
            Source::WorkflowInput(input) if self.inputs[input as usize].partitioned => Streams::Files,
            Source::WorkflowInput(_) => Streams::One,
            Source::Output { function, output } => {
                let function = self.function(function);
                match function.outputs[output as usize].partition {
                    _ if function.has_foreach => function.instances.streams,
                    Partition::Fixed(parts) => Streams::Fixed(parts),
                    Partition::Discovered => Streams::Discovered,
                    Partition::Single => Streams::One,
                }
            }
        }
    }

    /// A source as it is written in a file.
    pub(super) fn describe(&self, source: Source) -> String {
        match source {
            Source::WorkflowInput(input) => format!("inputs.{}", self.inputs[input as usize].name),
            Source::Output { function, output } => {
                let function = self.function(function);
                format!("{}.{}", function.name.text, function.outputs[output as usize].name)
            }
        }
    }

    /// The index of an input of the workflow.
    pub(super) fn input_of(&self, name: &str) -> Option<u32> {
        self.input_names.get(name).copied()
    }

    /// The index of an output of a function.
    pub(super) fn output_of(&self, function: FunctionId, name: &str) -> Option<u32> {
        let outputs = &self.function(function).outputs;
        // A table of all outputs of a large file does not fit in the cache, so that each look-up waits for memory.
        if outputs.len() <= FEW {
            return (0..).zip(outputs).find(|(_, output)| output.name == name).map(|(index, _)| index);
        }
        self.output_names.get(&(function, name)).copied()
    }

    /// How many instances each function has. Chains of `foreach` are followed once, whatever their length and order.
    fn count_instances(&mut self) {
        let mut known: Vec<Option<Instances>> = vec![None; self.functions.len()];
        let mut chain: Vec<usize> = Vec::new();
        for start in 0..self.functions.len() {
            let mut at = start;
            let instances = loop {
                // A cycle is reported elsewhere.
                if let Some(instances) = known[at] {
                    break instances;
                }
                let function = &self.functions[at];
                if !function.has_foreach {
                    break Instances::default();
                }
                chain.push(at);
                known[at] = Some(Instances { streams: Streams::Discovered, origin: function.foreach });
                match function.foreach {
                    Some(Source::Output { function, .. }) if self.function(function).has_foreach => {
                        at = function.0 as usize;
                    }
                    origin => {
                        // A `foreach` over one stream is reported elsewhere. Assuming many streams avoids errors that
                        // follow from it.
                        let streams = origin.map_or(Streams::One, |source| self.streams(source));
                        let streams = if streams == Streams::One { Streams::Discovered } else { streams };
                        break Instances { streams, origin };
                    }
                }
            };
            for at in chain.drain(..) {
                known[at] = Some(instances);
            }
        }
        for (function, instances) in self.functions.iter_mut().zip(known) {
            function.instances = instances.unwrap_or_default();
        }
    }
}

impl<'f> Declaration<'f> {
    fn new(id: FunctionId, name: &'f Name, file: &'f FunctionFile) -> Self {
        let outputs = match &file.outputs {
            Field::Given(outputs) => outputs
                .0
                .iter()
                .map(|entry| Output {
                    name: entry.name.text.clone(),
                    partition: match entry.value.as_ref().and_then(|output| output.partition.get()).map(|it| it.value) {
                        Some(PartitionFile::Fixed(parts)) => Partition::Fixed(parts),
                        Some(PartitionFile::Discovered) => Partition::Discovered,
                        None => Partition::Single,
                    },
                    stdout: false,
                })
                .collect(),
            Field::Absent if file.program.is_absent() && !file.command.is_absent() => {
                vec![Output { name: DEFAULT_OUTPUT.into(), partition: Partition::Single, stdout: false }]
            }
            Field::Absent | Field::Broken => Vec::new(),
        };
        Self {
            id,
            name,
            file,
            outputs,
            outputs_known: !file.outputs.is_broken(),
            has_foreach: !file.foreach.is_absent(),
            foreach: None,
            instances: Instances::default(),
        }
    }
}

/// The index of the next entry of a list; every list of a file is limited far below 32 bits.
fn index_of<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}
