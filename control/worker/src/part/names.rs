//! What the parts of a `foreach` are called: the file, or the output, that each comes from.

use dflow_workflow::{FunctionId, Partition, Source, Workflow};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The names of the parts of a run.
#[derive(Debug, Default)]
pub(crate) struct PartNames {
    /// For each input of the workflow with `parts: files` the file of each part.
    files: Vec<Vec<PathBuf>>,
}

/// What a number in the path of a part counts.
enum Level {
    /// Files of this input.
    File(u32),
    /// Parts of this output.
    Part(String),
}

impl PartNames {
    pub(crate) fn new(files: Vec<Vec<PathBuf>>) -> Self {
        Self { files }
    }

    /// The names as bytes, for a message.
    pub(crate) fn to_bytes(&self) -> Vec<Vec<Vec<u8>>> {
        let bytes = |file: &PathBuf| file.as_os_str().as_bytes().to_vec();
        self.files.iter().map(|files| files.iter().map(bytes).collect()).collect()
    }

    /// The names from a message.
    pub(crate) fn from_bytes(files: Vec<Vec<Vec<u8>>>) -> Self {
        let path = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
        Self { files: files.into_iter().map(|files| files.into_iter().map(path).collect()).collect() }
    }

    /// What an instance of a function works on, as `reads/a.fq`, or `reads/a.fq, part 3 of split.parts`. `path`: the numbers
    /// of its part, outermost first. `None` without a `foreach`.
    pub(crate) fn name(&self, workflow: &Workflow, function: FunctionId, path: &[u32]) -> Option<String> {
        let levels = levels(workflow, function);
        let names = levels.iter().zip(path).filter_map(|(level, part)| match level {
            Level::File(input) => Some(self.file_of(*input, *part)?.display().to_string()),
            Level::Part(output) => Some(format!("part {part} of {output}")),
        });
        let names: Vec<String> = names.collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The file of an instance's part, as the caller has named it. `path`: as for [`PartNames::name`]. `None` if its
    /// parts are not files.
    pub(crate) fn file(&self, workflow: &Workflow, function: FunctionId, path: &[u32]) -> Option<&Path> {
        levels(workflow, function).iter().zip(path).find_map(|(level, part)| match level {
            Level::File(input) => self.file_of(*input, *part),
            Level::Part(_) => None,
        })
    }

    fn file_of(&self, input: u32, part: u32) -> Option<&Path> {
        self.files.get(input as usize)?.get(part as usize).map(PathBuf::as_path)
    }
}

/// Outermost first. The graph has no cycles, and each step goes to a producer.
fn levels(workflow: &Workflow, function: FunctionId) -> Vec<Level> {
    let mut levels = Vec::new();
    let mut source = workflow.function(function).foreach;
    while let Some(from) = source {
        source = match from {
            Source::WorkflowInput(input) => {
                levels.push(Level::File(input));
                None
            }
            Source::Output { function, output } => {
                let producer = workflow.function(function);
                if let Some(output) = producer.outputs.get(output as usize)
                    && output.partition != Partition::Single
                {
                    levels.push(Level::Part(format!("{}.{}", producer.name, output.name)));
                }
                producer.foreach
            }
        };
    }
    levels.reverse();
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_after_files_and_outputs() {
        let text = "
workflow: w
inputs: { reads: { parts: files }, one: {} }
functions:
  split: { program: x, inputs: [inputs.one], outputs: { parts: { partition: 4 } } }
  qc: { command: [cat], foreach: inputs.reads }
  trim: { command: [cat], foreach: qc }
  count: { command: [cat], foreach: split.parts }
  sum: { command: [cat], inputs: [qc] }
";
        let workflow = Workflow::parse("w.yaml", text).unwrap();
        let names = PartNames::new(vec![vec!["d/a.fq".into(), "d/b.fq".into()], Vec::new()]);
        let name = |function: &str, path: &[u32]| {
            let index = workflow.functions.iter().position(|it| it.name == function).unwrap();
            names.name(&workflow, FunctionId(u32::try_from(index).unwrap()), path)
        };
        assert_eq!(name("qc", &[1]).as_deref(), Some("d/b.fq"));
        assert_eq!(name("trim", &[0]).as_deref(), Some("d/a.fq"), "a foreach over a foreach");
        assert_eq!(name("count", &[3]).as_deref(), Some("part 3 of split.parts"));
        assert_eq!((name("sum", &[]), name("qc", &[7])), (None, None));
        let file = |function: u32, path: &[u32]| names.file(&workflow, FunctionId(function), path);
        let index = |name: &str| workflow.functions.iter().position(|it| it.name == name).unwrap() as u32;
        assert_eq!((file(index("trim"), &[1]), file(index("count"), &[1])), (Some(Path::new("d/b.fq")), None));
    }
}
