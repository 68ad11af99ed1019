//! What names stand for: the declarations of a file, and how references to them are resolved.

use std::collections::{BTreeMap, HashMap};

use crate::diagnostics::{Diagnostic, Span};
use crate::file::{
    DEFAULT_OUTPUT, Field, FunctionFile, Name, PartitionFile, Reference, StepFile, SwitchFile, WorkflowFile,
};
use crate::model::{FunctionId, Output, Partition, Source, WorkflowInput};
use crate::report::{Report, quoted};
use crate::streams::Streams;

/// The declarations of a file. Functions have their index in the file, which is not yet that of the workflow.
pub(super) struct Scope<'f> {
    pub(super) inputs: Vec<WorkflowInput>,
    /// `false` if `inputs` could not be read, so that nothing can be said of what is not in it.
    inputs_known: bool,
    pub(super) params: BTreeMap<String, Option<String>>,
    params_known: bool,
    pub(super) functions: Vec<Declaration<'f>>,
    pub(super) switches: Vec<(&'f Name, &'f SwitchFile)>,
    steps: HashMap<&'f str, Step>,
}

/// A function as far as others see it.
pub(super) struct Declaration<'f> {
    pub(super) name: &'f Name,
    pub(super) file: &'f FunctionFile,
    pub(super) outputs: Vec<Output>,
    /// `false` if `outputs` could not be read.
    outputs_known: bool,
    /// The source of its `foreach`, if it has one that could be resolved.
    pub(super) foreach: Option<Source>,
}

/// What a name in `functions` is.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Function(FunctionId),
    Switch,
    /// It could not be read.
    Broken,
}

impl<'f> Scope<'f> {
    pub(super) fn new(file: &'f WorkflowFile, report: &mut Report) -> Self {
        let mut scope = Self {
            inputs: Vec::new(),
            inputs_known: !file.inputs.is_broken(),
            params: BTreeMap::new(),
            params_known: !file.params.is_broken(),
            functions: Vec::new(),
            switches: Vec::new(),
            steps: HashMap::new(),
        };
        for entry in file.inputs.get().map_or(&[][..], |inputs| &inputs.0) {
            let partitioned = entry.value.as_ref().is_some_and(|input| input.parts.get().is_some());
            scope.inputs.push(WorkflowInput { name: entry.name.text.clone(), partitioned });
        }
        for entry in file.params.get().map_or(&[][..], |params| &params.0) {
            let default = entry.value.as_ref().and_then(|param| param.0.as_ref()).map(|text| text.text.clone());
            scope.params.insert(entry.name.text.clone(), default);
        }
        for entry in file.functions.get().map_or(&[][..], |functions| &functions.0) {
            if matches!(entry.name.text.as_str(), "inputs" | "params") {
                let (name, text) = (&entry.name, quoted(&entry.name.text));
                report.push(
                    Diagnostic::at(name.span, format!("the name {text} is reserved"))
                        .with_label("a function cannot have this name")
                        .with_help(format!("{text} in front of a dot means the {} of the workflow", name.text)),
                );
            }
            let step = match &entry.value {
                None => Step::Broken,
                Some(StepFile::Switch(switch)) => {
                    scope.switches.push((&entry.name, switch));
                    Step::Switch
                }
                Some(StepFile::Function(function)) => {
                    // The number of functions is limited far below 32 bits.
                    let id = FunctionId(u32::try_from(scope.functions.len()).unwrap_or(u32::MAX));
                    scope.functions.push(Declaration::new(&entry.name, function));
                    Step::Function(id)
                }
            };
            scope.steps.insert(&entry.name.text, step);
        }
        for index in 0..scope.functions.len() {
            scope.functions[index].foreach =
                scope.functions[index].file.foreach.get().and_then(|reference| scope.source(reference, report));
        }
        scope
    }

    /// What a name in `functions` is; reports one that is not there.
    pub(super) fn step(&self, name: &str, span: Span, report: &mut Report) -> Option<Step> {
        let step = self.steps.get(name).copied();
        if step.is_none() {
            let names = self.functions.iter().map(|function| function.name.text.as_str());
            let mut diagnostic = Diagnostic::at(span, format!("there is no function {}", quoted(name)));
            if self.inputs.iter().any(|input| input.name == name) {
                diagnostic = diagnostic.with_help(format!("the input of the workflow is called `inputs.{name}`"));
            }
            report.push_unknown(diagnostic.with_label("unknown function"), name, "functions", names);
        }
        step
    }

    /// The stream or streams that a reference means; reports what is wrong with it.
    pub(super) fn source(&self, reference: &Reference, report: &mut Report) -> Option<Source> {
        match (reference.owner.as_str(), reference.port.as_deref()) {
            ("inputs", Some(name)) => self.input(name, reference, report),
            ("inputs", None) => {
                let diagnostic = Diagnostic::at(reference.span, "`inputs` alone is not a source");
                let known = self.inputs.iter().map(|input| input.name.as_str());
                report.push_unknown(diagnostic.with_help("write `inputs.NAME`"), "", "workflow inputs", known);
                None
            }
            ("params", _) => {
                report.push(
                    Diagnostic::at(reference.span, "a parameter is not a stream")
                        .with_help("hand it to the function: `params: { NAME: \"${params.NAME}\" }`"),
                );
                None
            }
            (owner, port) => match self.step(owner, reference.span, report)? {
                Step::Function(function) => self.output(function, port, reference, report),
                Step::Switch => {
                    report.push(
                        Diagnostic::at(reference.span, format!("`{owner}` is a switch, which writes nothing"))
                            .with_help("read from the functions that it chooses, several of them as a list"),
                    );
                    None
                }
                Step::Broken => None,
            },
        }
    }

    /// Reports a workflow parameter that does not exist.
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

    /// Of how many streams a source consists: a `foreach` has as many as what it runs over.
    pub(super) fn streams(&self, source: Source) -> Streams {
        let mut source = source;
        let mut many = false;
        // A chain of `foreach` is no longer than there are functions, unless it is a cycle, which is reported elsewhere.
        for _ in 0..=self.functions.len() {
            let (function, output) = match source {
                Source::WorkflowInput(input) if self.inputs[input as usize].partitioned => return Streams::Files,
                Source::WorkflowInput(_) => break,
                Source::Output { function, output } => (self.function(function), output),
            };
            if !function.file.foreach.is_absent() {
                many = true;
                match function.foreach {
                    Some(over) => source = over,
                    None => return Streams::Discovered,
                }
                continue;
            }
            match function.outputs[output as usize].partition {
                Partition::Fixed(parts) => return Streams::Fixed(parts),
                Partition::Discovered => return Streams::Discovered,
                Partition::Single => break,
            }
        }
        // What a `foreach` runs over can be wrong: then it counts as many, for it was meant to be.
        if many { Streams::Discovered } else { Streams::One }
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

    fn input(&self, name: &str, reference: &Reference, report: &mut Report) -> Option<Source> {
        let found = self.inputs.iter().position(|input| input.name == name);
        if found.is_none() && self.inputs_known {
            let message = format!("the workflow has no input {}", quoted(name));
            let known = self.inputs.iter().map(|input| input.name.as_str());
            let diagnostic = Diagnostic::at(reference.span, message).with_label("unknown input");
            report.push_unknown(diagnostic, name, "workflow inputs", known);
        }
        Some(Source::WorkflowInput(u32::try_from(found?).ok()?))
    }

    fn output(
        &self,
        function: FunctionId,
        port: Option<&str>,
        reference: &Reference,
        report: &mut Report,
    ) -> Option<Source> {
        let declaration = self.function(function);
        let name = &declaration.name.text;
        let found = match port {
            Some(port) => declaration.outputs.iter().position(|output| output.name == port),
            None if declaration.outputs.len() == 1 => Some(0),
            None => None,
        };
        if found.is_none() && declaration.outputs_known {
            let known = declaration.outputs.iter().map(|output| output.name.as_str());
            let (message, label) = match port {
                Some(port) => (format!("function `{name}` has no output {}", quoted(port)), "unknown output"),
                None if declaration.outputs.is_empty() => {
                    (format!("function `{name}` has no output"), "nothing to read")
                }
                None => (format!("function `{name}` has several outputs"), "which of them?"),
            };
            let diagnostic = Diagnostic::at(reference.span, message).with_label(label);
            report.push_unknown(diagnostic, port.unwrap_or(""), &format!("outputs of `{name}`"), known);
        }
        Some(Source::Output { function, output: u32::try_from(found?).ok()? })
    }
}

impl<'f> Declaration<'f> {
    fn new(name: &'f Name, file: &'f FunctionFile) -> Self {
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
        Self { name, file, outputs, outputs_known: !file.outputs.is_broken(), foreach: None }
    }
}
