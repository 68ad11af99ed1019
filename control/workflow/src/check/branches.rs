//! The branches of switches under which a function can run.
//!
//! A function that its switch has not chosen writes nothing, so a function that reads only from it does not run either.
//! This determines which functions can never run, and which sources of an output exclude each other.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::scope::Scope;
use crate::diagnostics::Diagnostic;
use crate::model::{Function, FunctionId, Source, Switch, SwitchOn};
use crate::report::Report;

/// For each switch that affects a function, the branches under which it can run. Branch `n` is the case with that
/// index; the branch after the last case is "none of them".
pub(super) type Branches = BTreeMap<u32, BTreeSet<usize>>;

/// The branches of each function (by its index in the file); `order` has producers before consumers.
///
/// Most functions of a large workflow can run under the same branches as their producers: these share one map.
pub(super) fn of(functions: &[Function], switches: &[Switch], order: &[FunctionId]) -> Vec<Rc<Branches>> {
    let own = own_branches(functions.len(), switches);
    let mut all: Vec<Rc<Branches>> = vec![Rc::default(); functions.len()];
    for &id in order {
        let function = &functions[id.0 as usize];
        let mut branches = Rc::<Branches>::default();
        if let Some(index) = function.conditional {
            branches = Rc::new(Branches::from([(index, own[id.0 as usize].clone())]));
            if let SwitchOn::Value(Source::Output { function, .. }) = switches[index as usize].on {
                narrow(&mut branches, &all[function.0 as usize]);
            }
        }
        for input in &function.inputs {
            let mut producers = input.sources.iter().map(|source| match source {
                Source::WorkflowInput(_) => None,
                Source::Output { function, .. } => Some(&all[function.0 as usize]),
            });
            // An input with several sources needs only one of them, so the function can run under the branches of any.
            let Some(Some(first)) = producers.next() else { continue };
            let any = producers.try_fold(Rc::clone(first), |any, producer| {
                let producer = producer?;
                // One that can run under any branch makes the others irrelevant.
                if Rc::ptr_eq(&any, producer) || any.is_empty() {
                    return Some(any);
                }
                let both = any.iter().filter_map(|(switch, set)| Some((*switch, set | producer.get(switch)?)));
                Some(Rc::new(both.collect()))
            });
            if let Some(any) = any {
                narrow(&mut branches, &any);
            }
        }
        all[id.0 as usize] = branches;
    }
    all
}

/// For each function the branches of its own switch that choose it.
fn own_branches(functions: usize, switches: &[Switch]) -> Vec<BTreeSet<usize>> {
    let mut own = vec![BTreeSet::new(); functions];
    for switch in switches {
        let cases = switch.cases.iter().map(|(_, targets)| targets).chain(switch.default.iter());
        for (branch, targets) in cases.enumerate() {
            for id in targets {
                own[id.0 as usize].insert(branch);
            }
        }
    }
    own
}

/// Whether two functions can never both run.
pub(super) fn exclude(one: &Branches, other: &Branches) -> bool {
    one.iter().any(|(switch, set)| other.get(switch).is_some_and(|others| set.is_disjoint(others)))
}

/// Reports functions that can never run.
pub(super) fn check_reachable(scope: &Scope, branches: &[Rc<Branches>], report: &mut Report) {
    for (function, branches) in scope.functions.iter().zip(branches) {
        if let Some((&switch, _)) = branches.iter().find(|(_, set)| set.is_empty()) {
            let (name, switch) = (&function.name, &scope.switches[switch as usize].0.text);
            report.push(
                Diagnostic::at(name.span, format!("`{}` can never run", name.text))
                    .with_label(format!("needs functions that exclude each other under the switch `{switch}`"))
                    .with_help("read different branches through one input: `from: [a.x, b.x]` takes those that ran"),
            );
        }
    }
}

fn narrow(branches: &mut Rc<Branches>, by: &Rc<Branches>) {
    if branches.is_empty() {
        *branches = Rc::clone(by);
    } else if !Rc::ptr_eq(branches, by) && !by.is_empty() {
        let branches = Rc::make_mut(branches);
        for (switch, set) in by.iter() {
            branches.entry(*switch).and_modify(|own| *own = &*own & set).or_insert_with(|| set.clone());
        }
    }
}
