//! Under which branches of the switches a function can run.
//!
//! A function that a switch did not choose writes nothing, so a function that reads only from it does not run either.
//! From this follows which functions can never run, and which sources of an output exclude each other.

use std::collections::{BTreeMap, BTreeSet};

use super::scope::Scope;
use crate::diagnostics::Diagnostic;
use crate::model::{Function, FunctionId, Source, Switch, SwitchOn};
use crate::report::Report;

/// For each switch that has a say in it, the branches under which a function can run. Branch `n` is the case of that
/// index; the one after the last case is "none of them".
pub(super) type Branches = BTreeMap<u32, BTreeSet<usize>>;

/// The branches of each function (by its index in the file); `order` has producers before consumers.
pub(super) fn of(functions: &[Function], switches: &[Switch], order: &[FunctionId]) -> Vec<Branches> {
    let mut all: Vec<Branches> = vec![Branches::new(); functions.len()];
    for &id in order {
        let function = &functions[id.0 as usize];
        let mut branches = Branches::new();
        if let Some(index) = function.conditional {
            let switch = &switches[index as usize];
            let cases = switch.cases.iter().map(|(_, targets)| targets).chain(switch.default.iter()).enumerate();
            let own = cases.filter(|(_, targets)| targets.contains(&id)).map(|(branch, _)| branch).collect();
            branches.insert(index, own);
            if let SwitchOn::Value(Source::Output { function, .. }) = switch.on {
                narrow(&mut branches, &all[function.0 as usize]);
            }
        }
        for input in &function.inputs {
            let mut producers = input.sources.iter().map(|source| match source {
                Source::WorkflowInput(_) => None,
                Source::Output { function, .. } => Some(&all[function.0 as usize]),
            });
            // One source is enough for an input of several: it can run under the branches of any of them.
            let Some(Some(first)) = producers.next() else { continue };
            let any = producers.try_fold(first.clone(), |any, producer| {
                let producer = producer?;
                Some(
                    any.into_iter().filter_map(|(switch, set)| Some((switch, &set | producer.get(&switch)?))).collect(),
                )
            });
            if let Some(any) = any {
                narrow(&mut branches, &any);
            }
        }
        all[id.0 as usize] = branches;
    }
    all
}

/// Whether two functions can never both run.
pub(super) fn exclude(one: &Branches, other: &Branches) -> bool {
    one.iter().any(|(switch, set)| other.get(switch).is_some_and(|others| set.is_disjoint(others)))
}

/// Reports functions that can never run.
pub(super) fn check_reachable(scope: &Scope, branches: &[Branches], report: &mut Report) {
    for (function, branches) in scope.functions.iter().zip(branches) {
        if let Some((&switch, _)) = branches.iter().find(|(_, set)| set.is_empty()) {
            let (name, switch) = (&function.name, &scope.switches[switch as usize].0.text);
            report.push(
                Diagnostic::at(name.span, format!("`{}` can never run", name.text))
                    .with_label(format!("needs functions that exclude each other under the switch `{switch}`"))
                    .with_help(
                        "read what different branches write through one input: `from: [a.x, b.x]` takes those that ran",
                    ),
            );
        }
    }
}

fn narrow(branches: &mut Branches, by: &Branches) {
    for (switch, set) in by {
        branches.entry(*switch).and_modify(|own| *own = &*own & set).or_insert_with(|| set.clone());
    }
}
