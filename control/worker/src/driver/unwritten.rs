//! Notes for outputs that a successful run has not written.

use super::Driver;
use super::preview::name_of;
use dflow_scheduler::{InstanceKind, InstanceState};
use dflow_workflow::Source;
use std::collections::{HashMap, HashSet};

impl Driver<'_> {
    /// A note for each output none of whose functions has run, because switches have chosen others. An output that is a
    /// directory may as well be empty because there were no parts.
    pub(crate) fn unwritten_outputs(&self) -> Vec<String> {
        let is_empty = |index: &u32| self.part.machine.output_streams(*index).is_empty();
        let empty: Vec<u32> = (0u32..).zip(&self.workflow.outputs).map(|(index, _)| index).filter(is_empty).collect();
        if empty.is_empty() {
            return Vec::new();
        }
        let mut states: HashMap<_, HashSet<bool>> = HashMap::new();
        for view in self.part.machine.instances() {
            if let InstanceKind::Function(function) = view.kind {
                states.entry(function).or_default().insert(view.state == InstanceState::Skipped);
            }
        }
        let is_skipped = |source: &Source| match source {
            Source::WorkflowInput(_) => false,
            Source::Output { function, .. } => states.get(function).is_some_and(|states| !states.contains(&false)),
        };
        let outputs = empty.into_iter().map(|index| &self.workflow.outputs[index as usize]);
        let unwritten = outputs.filter(|output| output.sources.iter().all(is_skipped));
        unwritten
            .map(|output| {
                let sources: Vec<String> =
                    output.sources.iter().map(|&source| name_of(&self.workflow, source)).collect();
                format!(
                    "the output '{}' was not written: no switch has chosen a function that writes it ({})",
                    output.name,
                    sources.join(", ")
                )
            })
            .collect()
    }
}
