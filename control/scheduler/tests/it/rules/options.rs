//! The options of a run.

use crate::build::{Flow, flow, fun, out};
use crate::script::{on_one_node, options};
use dflow_scheduler::limits::MAX_STREAMS;
use dflow_scheduler::{Action, PlanError, Producer, RunMachine, RunOptions};
use dflow_workflow::{FunctionId, Gate, Partition, Source, SwitchOn};
use std::sync::Arc;

fn refused(flow: Flow, change: impl FnOnce(&mut RunOptions)) -> PlanError {
    let mut options = options(&flow.0);
    change(&mut options);
    match RunMachine::new(Arc::new(flow.0), options) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error,
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    assert_eq!(refused(flow(), |options| options.places[0].slots = 0), PlanError::NoSlots);
    assert_eq!(refused(flow(), |options| options.places.clear()), PlanError::NoSlots);
    let nowhere = refused(flow().add(fun("a")), |options| {
        options.placement = [(FunctionId(0), vec![0, 1])].into_iter().collect();
    });
    assert_eq!(nowhere, PlanError::UnknownPlace { function: "a".to_owned(), place: 1, places: 1 });
    let input = || flow().input("text", false);
    let count = PlanError::InputCount { expected: 1, given: 0 };
    assert_eq!(refused(input(), |options| options.input_parts.clear()), count);
    let parts = PlanError::InputParts { input: "text".to_owned(), given: 2 };
    assert_eq!(refused(input(), |options| options.input_parts = vec![2]), parts);
    let missing = PlanError::MissingParam { param: "k".to_owned() };
    assert_eq!(refused(flow().param("k", None), |_| {}), missing);
    let unknown = refused(flow().param("k", Some("1")), |options| {
        options.params.insert("l".to_owned(), String::new());
    });
    assert_eq!(unknown.to_string(), "the workflow has no parameter `l`; it has `k`");
}

#[test]
fn a_switch_needs_one_stream() {
    let flow = flow().add(fun("a").writes_parts(Partition::Fixed(2))).add(fun("b")).switch(
        SwitchOn::Value(out(0)),
        &[("x", &[1])],
        None,
    );
    assert_eq!(refused(flow, |_| {}), PlanError::SwitchSource { switch: "switch0".to_owned() });
}

#[test]
fn a_workflow_that_grows_out_of_bounds_is_refused() {
    let flow = flow()
        .add(fun("a").writes_parts(Partition::Fixed(65_536)))
        .add(fun("b").foreach(out(0)).writes_parts(Partition::Fixed(65_536)));
    let error = refused(flow, |_| {});
    assert_eq!(error, PlanError::TooLarge { what: "streams", limit: MAX_STREAMS });
}

/// For each function output and workflow input: whether it is kept, and each reader's `restartable`.
fn layout(flow: Flow) -> (Vec<bool>, Vec<bool>) {
    let options = on_one_node(&flow.0, 9, 0, 100);
    let (_, actions) = RunMachine::new(Arc::new(flow.0), options).expect("the options fit");
    let mut keeps = Vec::new();
    let mut again = Vec::new();
    for action in actions {
        match action {
            Action::OpenStream { keep, producer: Producer::Instance { .. }, .. } => keeps.push(keep),
            Action::Subscribe { restartable, .. } => again.push(restartable),
            _ => {}
        }
    }
    (keeps, again)
}

#[test]
fn streams_are_kept_for_late_and_restarting_readers() {
    let (a, b) = (|| fun("a").writes(), || fun("b").reads(out(0)));
    assert_eq!(layout(flow().add(a()).add(b())), (vec![false], vec![false]));
    assert_eq!(layout(flow().add(a()).add(b().retries(1))), (vec![true], vec![true]));
    // If `a` is tried again, its next epoch starts from the beginning anyway.
    assert_eq!(layout(flow().add(a().retries(1)).add(b())), (vec![false], vec![false]));
    assert_eq!(layout(flow().add(a()).add(fun("b").reads_whole(out(0)))), (vec![true], vec![false]));
    let two = flow().add(a()).add(fun("c").writes().retries(1));
    let (keeps, again) = layout(two.add(fun("d").gathers(&[out(0), out(1)], Gate::Stream)));
    assert_eq!((keeps, again), (vec![true, false], vec![true, false]));
    let kept = fun("b").reads_with(&[out(0)], Gate::Stream, |input| input.keep = true);
    assert_eq!(layout(flow().add(a()).add(kept)), (vec![true], vec![false]));
}

#[test]
fn inputs_are_distinguished() {
    let flow = flow().input("a", false).input("b", true).add(fun("f").reads(Source::WorkflowInput(0)));
    let options = RunOptions { input_parts: vec![1, 2], ..options(&flow.0) };
    let (_, actions) = RunMachine::new(Arc::new(flow.0), options).expect("the options fit");
    let producers: Vec<Producer> = actions
        .iter()
        .filter_map(|action| match action {
            Action::OpenStream { producer, .. } => Some(*producer),
            _ => None,
        })
        .collect();
    let part = |input, part| Producer::WorkflowInput { input, part };
    assert_eq!(producers, [part(0, 0), part(1, 0), part(1, 1)]);
}
