//! Turns the file's contents into a checked workflow.

mod branches;
mod command;
mod expect;
mod function;
mod inputs;
mod order;
mod outputs;
mod resolve;
mod scope;
mod settings;
mod switch;
mod text;

use crate::file::WorkflowFile;
use crate::model::{Function, FunctionId, Source, Switch, SwitchOn, Workflow};
use crate::report::Report;

/// Resolves every name and checks every rule. `None` if something was reported, here or before.
pub(crate) fn check(file: &WorkflowFile, report: &mut Report) -> Option<Workflow> {
    let scope = scope::Scope::new(file, report);
    let env = function::env(&scope, file.env.get(), report);
    let mut edges = Vec::new();
    let mut functions: Vec<Function> =
        (0..scope.functions.len()).map(|index| function::check(&scope, index, &mut edges, report)).collect();
    let mut switches = switch::check(&scope, &mut functions, &mut edges, report);
    let order = order::sort(&scope, edges, report);
    let branches = order.as_ref().map(|order| branches::of(&functions, &switches, order));
    // Skipped after errors: a source that could not be resolved would make its reader look unreachable.
    if let Some(branches) = branches.as_ref().filter(|_| report.is_empty()) {
        branches::check_reachable(&scope, branches, report);
    }
    let mut outputs = outputs::check(&scope, file, branches.as_deref(), report);
    let order = order.filter(|_| report.is_empty())?;

    let mut position = vec![FunctionId(0); order.len()];
    for (new, old) in (0..).zip(&order) {
        position[old.0 as usize] = FunctionId(new);
    }
    let moved = |source: &mut Source| {
        if let Source::Output { function, .. } = source {
            *function = position[function.0 as usize];
        }
    };
    for function in &mut functions {
        function.foreach.iter_mut().for_each(moved);
        function.inputs.iter_mut().flat_map(|input| &mut input.sources).for_each(moved);
    }
    outputs.iter_mut().flat_map(|output| &mut output.sources).for_each(moved);
    for switch in &mut switches {
        if let SwitchOn::Value(source) = &mut switch.on {
            moved(source);
        }
        let Switch { cases, default, .. } = switch;
        for id in cases.iter_mut().flat_map(|(_, targets)| targets).chain(default.iter_mut().flatten()) {
            *id = position[id.0 as usize];
        }
    }
    // Most files have producers before consumers already.
    if !order.is_sorted() {
        let mut unsorted: Vec<Option<Function>> = functions.into_iter().map(Some).collect();
        functions = order.iter().filter_map(|old| unsorted[old.0 as usize].take()).collect();
    }

    Some(Workflow {
        text: std::sync::Arc::default(),
        name: file.workflow.get()?.text.clone(),
        inputs: scope.inputs,
        params: scope.params,
        env,
        functions,
        switches,
        outputs,
    })
}
