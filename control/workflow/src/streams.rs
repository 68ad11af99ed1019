//! Questions about a workflow: its functions by id, and the number of streams of a source.

use crate::model::{Function, FunctionId, Partition, Source, Streams, Workflow};

impl Workflow {
    /// The function with this id.
    ///
    /// # Panics
    /// If the id belongs to another workflow.
    #[must_use]
    pub fn function(&self, id: FunctionId) -> &Function {
        &self.functions[id.0 as usize]
    }

    /// The number of streams of a source. An output of a `foreach` has as many as the source that it runs over.
    ///
    /// # Panics
    /// If the source belongs to another workflow.
    #[must_use]
    pub fn streams(&self, source: Source) -> Streams {
        match source {
            Source::WorkflowInput(input) if self.inputs[input as usize].partitioned => Streams::Files,
            Source::WorkflowInput(_) => Streams::One,
            Source::Output { function, output } => {
                let function = self.function(function);
                match function.outputs[output as usize].partition {
                    _ if function.foreach.is_some() => function.instances,
                    Partition::Single => Streams::One,
                    Partition::Fixed(parts) => Streams::Fixed(parts),
                    Partition::Discovered => Streams::Discovered,
                }
            }
        }
    }
}
