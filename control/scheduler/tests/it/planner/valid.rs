//! On random workflows, every policy makes a plan that can be carried out.

use super::{MB, flaw, problem, workflow};
use dflow_scheduler::planner::{Placement, Policy, Problem, plan, predict};
use dflow_workflow::{FunctionId, Workflow};
use proptest::prelude::*;

/// A function: run time, head and tail in thousandths of it, output in MB, slots, whether its gate is `whole`, whether
/// it is a `foreach`, and which earlier functions it reads.
type Function = (u64, u64, u64, u64, u32, bool, bool, Vec<prop::sample::Index>);

pub fn functions(most: usize) -> impl Strategy<Value = Vec<Function>> {
    let sources = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let function = (
        0_u64..3000,
        0_u64..=1000,
        0_u64..=1000,
        0_u64..200,
        1_u32..4,
        any::<bool>(),
        prop::bool::weighted(0.2),
        sources,
    );
    prop::collection::vec(function, 1..=most)
}

/// The workflow file. Without sources, a function reads the input of the workflow or nothing.
pub fn text(functions: &[Function]) -> String {
    let mut text = String::new();
    for (index, (time, head, tail, output, cpu, whole, each, sources)) in functions.iter().enumerate() {
        let mut read: Vec<usize> = sources.iter().filter(|_| index > 0).map(|source| source.index(index)).collect();
        read.sort_unstable();
        read.dedup();
        // A `foreach` runs over the files or over another `foreach`; the parts of two cannot be paired.
        let parts = read.iter().copied().find(|source| functions[*source].6);
        let over = parts.map_or_else(|| "inputs.files".to_owned(), |source| format!("f{source}.out"));
        read.retain(|source| !each || !functions[*source].6);
        let mut inputs: Vec<String> = read
            .iter()
            .map(|source| {
                format!("i{source}: {{ from: f{source}.out, gate: {} }}", if *whole { "whole" } else { "stream" })
            })
            .collect();
        if read.is_empty() && index % 2 == 0 {
            inputs.push("data: inputs.data".into());
        }
        let foreach = if *each { format!("foreach: {over}, ") } else { String::new() };
        text += &format!(
            "  f{index}: {{ program: x, {foreach}inputs: {{ {} }}, outputs: [out], resources: {{ cpu: {cpu} }}, expect: {{ \
             time: {time}ms, first_output: {}ms, tail: {}ms, output: {output}MB }} }}\n",
            inputs.join(", "),
            time * head / 1000,
            time * tail / 1000,
        );
    }
    let last = functions.len() - 1;
    format!("{text}outputs: {{ result: f{last}.out }}\n")
}

fn check(problem: &Problem<'_>, workflow: &Workflow) -> Result<(), TestCaseError> {
    let (ours, alone) = (plan(problem, Policy::Dflow).unwrap(), plan(problem, Policy::OneNode).unwrap());
    prop_assert!(ours.timeline.end <= alone.timeline.end, "never worse than one node");
    for policy in Policy::ALL {
        let plan = plan(problem, policy).unwrap();
        prop_assert_eq!(plan.reasons.len(), workflow.functions.len());
        if let Some(flaw) = flaw(problem, &plan.timeline) {
            prop_assert!(false, "{}: {}", policy, flaw);
        }
        // Every instance once, in the order of the workflow, where the placement says.
        let mut expected = Vec::new();
        for (id, function) in (0..).map(FunctionId).zip(&workflow.functions) {
            let parts = if function.foreach.is_some() { 2 } else { 1 };
            expected.extend((0..parts).map(|part| (id, part, plan.placement.place(id, part))));
        }
        let planned: Vec<_> = plan
            .timeline
            .instances
            .iter()
            .map(|instance| (instance.function, instance.part.unwrap_or(0), instance.place))
            .collect();
        prop_assert_eq!(planned, expected);
        for (pinned, places) in problem.pins.iter() {
            for instance in plan.timeline.instances.iter().filter(|instance| instance.function == pinned) {
                prop_assert_eq!(instance.place, places[instance.part.unwrap_or(0) as usize % places.len()]);
            }
        }
        // The timeline of a plan is the prediction of its placement.
        prop_assert_eq!(&predict(problem, &plan.placement).unwrap(), &plan.timeline);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn plans_can_be_carried_out(
        functions in functions(12),
        slots in prop::collection::vec(1_u32..5, 1..5),
        pins in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 0..12),
        memory in 1_u64..300,
        control_flow in any::<bool>(),
    ) {
        let workflow = workflow(&text(&functions));
        let mut problem = problem(&workflow, &slots);
        for node in &mut problem.nodes {
            node.memory = memory * MB;
        }
        if control_flow {
            problem.invocation = dflow_scheduler::Invocation::ControlFlow;
        }
        let mut chosen = Placement::default();
        for places in pins.iter().take(workflow.functions.len()) {
            chosen.push(&places.iter().map(|place| place.index(slots.len()) as u32).collect::<Vec<_>>());
        }
        problem.pins = chosen;
        check(&problem, &workflow)?;
    }
}
