//! Each policy on workflows where the right decision is obvious.

use super::{MB, end_of, problem, told, workflow};
use dflow_scheduler::planner::{Learned, Placement, Policy, Problem, Profile, Reason, plan};
use dflow_workflow::{Function, Source};
use std::time::Duration;

fn plan_of(functions: &str, slots: &[u32], policy: Policy) -> (Vec<String>, Vec<Reason>) {
    let workflow = workflow(functions);
    let plan = plan(&problem(&workflow, slots), policy).unwrap();
    (told(&workflow, &plan.timeline), plan.reasons)
}

#[test]
fn names() {
    for policy in Policy::ALL {
        assert_eq!(policy.name().parse(), Ok(policy));
    }
    let error = "dfow".parse::<Policy>().unwrap_err().to_string();
    assert!(error.contains("`dfow`") && Policy::ALL.iter().all(|policy| error.contains(policy.name())), "{error}");
}

#[test]
fn unknown_functions_stay_beside_their_data_and_parts_are_spread() {
    let text = "
  a: { command: [x], inputs: [inputs.data] }
  b: { command: [x], inputs: [a.out] }
  c: { command: [x], inputs: [a.out] }
  each: { command: [x], foreach: inputs.files }
  then: { command: [x], foreach: each.out }
  sum: { program: x, inputs: [then.out] }
";
    let workflow = workflow(text);
    let mut problem = problem(&workflow, &[1, 2, 1]);
    problem.inputs[1] = vec![MB; 8];
    let heft = plan(&problem, Policy::Heft).unwrap();
    let plan = plan(&problem, Policy::Dflow).unwrap();
    let places = |name: &str| {
        let id = workflow.functions.iter().position(|function| function.name == name).unwrap() as u32;
        plan.placement.places_of(dflow_workflow::FunctionId(id)).to_vec()
    };
    for name in ["a", "b", "c"] {
        assert_eq!(places(name), [0], "{name}");
    }
    // One to each node, then one more to the one with a second slot, and again.
    assert_eq!(places("each"), [0, 1, 2, 1, 0, 1, 2, 1]);
    assert_eq!(places("then"), places("each"), "beside the part that it reads");
    let of = |name: &str| plan.reasons[workflow.functions.iter().position(|it| it.name == name).unwrap()];
    assert_eq!(of("a"), Reason::Beside { source: Source::WorkflowInput(0), bytes: MB });
    assert_eq!(of("each"), Reason::SpreadUnknown { nodes: 3 });
    // HEFT knows of no rule for them: it assumes a time like for any other function.
    let index = workflow.functions.iter().position(|function| function.name == "each").unwrap();
    assert!(matches!(heft.reasons[index], Reason::Spread { .. }), "{:?}", heft.reasons);
}

#[test]
fn long_functions_go_where_a_slot_is_free() {
    let text = "
  a: { command: [x], inputs: [inputs.data], expect: { time: 3s } }
  b: { command: [x], inputs: [inputs.data], expect: { time: 2s } }
";
    let (told, reasons) = plan_of(text, &[1, 1], Policy::Dflow);
    assert_eq!(told, ["a@0 0 0 3000", "b@1 1 1 2001"]);
    assert_eq!(reasons[1], Reason::Earlier { than: 0, by: Duration::from_millis(2999) });
    assert_eq!(plan_of(text, &[1, 1], Policy::OneNode).1, [Reason::Policy(Policy::OneNode); 2]);
    assert_eq!(plan_of(text, &[2], Policy::Dflow).1, [Reason::OnlyNode; 2]);
}

#[test]
fn a_large_stream_stays_on_its_node() {
    let text = "
  make: { command: [x], inputs: [inputs.data], expect: { time: 1s, first_output: 1s, output: 1GB } }
  use: { command: [x], inputs: [make.out], expect: { time: 1s } }
";
    let (told, reasons) = plan_of(text, &[1, 1], Policy::Dflow);
    assert_eq!(told, ["make@0 0 1000 1000", "use@0 1000 1000 2000"]);
    let make = Source::Output { function: dflow_workflow::FunctionId(0), output: 0 };
    assert_eq!(reasons[1], Reason::Beside { source: make, bytes: 1000 * MB });
    assert!(plan_of(text, &[1, 1], Policy::RoundRobin).0[1].starts_with("use@1"), "round robin moves it");
    assert!(
        plan_of(text, &[1, 1], Policy::FaasFlow).0[1].starts_with("use@0"),
        "its most expensive edge is within a group"
    );
}

/// HEFT believes that the consumer waits for its producer, so it sees no use for a second node. The default overlaps
/// them.
#[test]
fn overlap_is_worth_a_second_node() {
    let text = "
  make: { command: [x], inputs: [inputs.data], expect: { time: 10s, output: 1MB } }
  use: { command: [x], inputs: [make.out], expect: { time: 10s, output: 1kB } }
";
    let workflow = workflow(text);
    let problem = problem(&workflow, &[1, 1]);
    let (ours, heft) = (end_of(&problem, Policy::Dflow), end_of(&problem, Policy::Heft));
    assert!(ours < 10.1 && heft >= 20.0, "{ours} {heft}");
}

#[test]
fn pins_hold_and_are_named() {
    let text = "
  a: { command: [x], inputs: [inputs.data], expect: { time: 1ms } }
  each: { command: [x], foreach: inputs.files, expect: { time: 1ms } }
";
    let workflow = workflow(text);
    let mut problem = problem(&workflow, &[4, 4]);
    problem.pins = Placement::default();
    problem.pins.push(&[1]);
    problem.pins.push(&[1, 0]);
    for policy in Policy::ALL {
        let plan = plan(&problem, policy).unwrap();
        let places: Vec<u32> = plan.timeline.instances.iter().map(|instance| instance.place).collect();
        assert_eq!(places, [1, 1, 0], "{policy}");
        assert_eq!(plan.reasons, [Reason::Pinned; 2]);
    }
}

#[test]
fn declared_beats_learned_key_by_key() {
    let learned = Learned {
        runs: 3,
        time: Duration::from_secs(4),
        first_output: Some(Duration::from_secs(1)),
        tail: Some(Duration::from_secs(2)),
        input: 10 * MB,
        output: 5 * MB,
        parts: None,
    };
    let both = workflow("  a: { command: [x], inputs: [inputs.data], expect: { time: 8s, output: 7MB } }\n");
    let profile = Profile::of(&both.functions[0], Some(&learned));
    assert_eq!((profile.time, profile.measured_at), (Some(Duration::from_secs(8)), None));
    assert_eq!((profile.first_output, profile.tail), (Duration::from_secs(2), Duration::from_secs(4)), "in proportion");
    let plain = workflow("  a: { command: [x], inputs: [inputs.data] }\n");
    let mut problem = problem(&plain, &[1]);
    problem.profiles = vec![Profile::of(&plain.functions[0], Some(&learned))];
    // A tenth of the input at which it was learned takes an eighth of the time, the least that is assumed; a larger one
    // takes longer in proportion.
    let timeline = plan(&problem, Policy::Dflow).unwrap().timeline;
    assert_eq!((timeline.end, timeline.instances[0].bytes_written), (Duration::from_millis(500), MB / 2));
    problem.inputs[0] = vec![1000 * MB];
    let timeline = plan(&problem, Policy::Dflow).unwrap().timeline;
    assert_eq!((timeline.end, timeline.instances[0].bytes_written), (Duration::from_secs(400), 500 * MB));
}

#[test]
fn sizes_of_inputs_are_known_expected_learned_or_assumed() {
    let workflow = workflow(
        "
  both: { command: [x, '{in.a}', '{in.b}'], inputs: { a: inputs.data, b: inputs.files } }
  one: { command: [x], inputs: [inputs.data] }
  each: { command: [x], foreach: inputs.files }
",
    );
    let learned = |input: u64| Learned {
        runs: 1,
        time: Duration::from_secs(1),
        first_output: None,
        tail: None,
        input,
        output: 0,
        parts: None,
    };
    let (both, one, each) = (learned(1), learned(70), learned(8));
    let of = |function: &Function| match function.name.as_str() {
        "both" => Some(&both),
        "one" => Some(&one),
        _ => Some(&each),
    };
    assert_eq!(Problem::learned_sizes(&workflow, of), [Some(70), Some(8)], "of the functions that read nothing else");
    let sizes = |input: usize, known: Option<&[Option<u64>]>, learned: Option<u64>| {
        Problem::input_sizes(&workflow.inputs[input], known, learned, 4)
    };
    assert_eq!(sizes(1, Some(&[Some(5), None]), Some(8)), [5, 8]);
    assert_eq!(sizes(1, None, Some(8)), [8; 4], "a part for each slot");
    assert_eq!((sizes(0, None, Some(70)), sizes(0, None, None)), (vec![70], vec![MB]));
    let mut expected = workflow.inputs[1].clone();
    expected.expect = dflow_workflow::ExpectInput { size: Some(100), parts: Some(5) };
    assert_eq!(Problem::input_sizes(&expected, None, Some(8), 4), [20; 5]);
    assert_eq!(Problem::input_sizes(&expected, Some(&[]), Some(8), 4), [0; 0]);
}
