//! Why a function is where it is, in words.

use dflow_scheduler::planner::Reason;
use dflow_workflow::{Source, Workflow};

use super::question::Question;
use crate::terminal::Look;
use crate::units::size;

/// One line.
pub fn words(question: &Question<'_>, reason: Reason, look: &Look) -> String {
    match reason {
        Reason::OnlyNode => "it is the only node".into(),
        Reason::Pinned => "pinned by --place".into(),
        Reason::NotRun => "it does not run".into(),
        Reason::Beside { source, bytes } => {
            format!("beside {}: {} stay local", name_of(question.problem.workflow, source), size(bytes))
        }
        Reason::NoInput => "it reads nothing, and no other node is better".into(),
        Reason::Earlier { than, by } => {
            let by = look.duration(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
            format!("ends {by} earlier than on {}, where its input is", question.node(than))
        }
        Reason::WholeRun => "it ends no earlier than beside its input, but the run as a whole does".into(),
        Reason::Spread { nodes } => format!("its instances share the slots of {nodes} nodes"),
        Reason::SpreadUnknown { nodes } => {
            format!("its run time is not known: its instances are dealt over the slots of {nodes} nodes")
        }
        Reason::Policy(policy) => format!("chosen by the policy {policy}"),
    }
}

/// The kind of a reason, for programs.
pub fn kind(reason: Reason) -> &'static str {
    match reason {
        Reason::OnlyNode => "only-node",
        Reason::Pinned => "pinned",
        Reason::NotRun => "not-run",
        Reason::Beside { .. } => "beside-input",
        Reason::NoInput => "no-input",
        Reason::Earlier { .. } => "earlier",
        Reason::WholeRun => "whole-run",
        Reason::Spread { .. } => "spread",
        Reason::SpreadUnknown { .. } => "spread-unknown",
        Reason::Policy(_) => "policy",
    }
}

/// The name of a source in the workflow file.
fn name_of(workflow: &Workflow, source: Source) -> String {
    match source {
        Source::WorkflowInput(input) => {
            let input = workflow.inputs.get(input as usize);
            format!("inputs.{}", input.map_or("", |input| &input.name))
        }
        Source::Output { function, output } => {
            let function = workflow.function(function);
            format!("{}.{}", function.name, function.outputs[output as usize].name)
        }
    }
}
