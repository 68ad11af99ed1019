//! Large workflows: time and memory in proportion to their size.

use super::{flaw, problem, workflow};
use dflow_scheduler::planner::{Policy, plan};
use std::fmt::Write;
use std::time::Instant;

/// A layered workflow: each function reads three of the layer before.
fn layered(layers: usize, width: usize) -> String {
    let mut text = String::new();
    let mut seed = 1_u64;
    let mut random = |most: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % most
    };
    for layer in 0..layers {
        for index in 0..width {
            let inputs = match layer {
                0 => "data: inputs.data".to_owned(),
                _ => (0..3)
                    .map(|input| format!("i{input}: f{}_{}.out", layer - 1, random(width as u64)))
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            writeln!(
                text,
                "  f{layer}_{index}: {{ program: x, inputs: {{ {inputs} }}, outputs: [out], expect: {{ time: {}ms, output: {}kB }} }}",
                100 + random(900),
                random(1000)
            )
            .unwrap();
        }
    }
    text
}

/// Debug builds and busy machines are slow, so only a blow-up is caught here: `dflow-bench plan` measures.
#[test]
fn two_thousand_functions_on_fifty_nodes() {
    let workflow = workflow(&layered(20, 100));
    let problem = problem(&workflow, &[4; 50]);
    let begin = Instant::now();
    let ours = plan(&problem, Policy::Dflow).unwrap();
    let took = begin.elapsed();
    assert_eq!(flaw(&problem, &ours.timeline), None);
    assert_eq!(ours.timeline.instances.len(), 2000);
    assert!(took.as_secs() < 20, "{took:?}");
    let alone = plan(&problem, Policy::OneNode).unwrap();
    assert!(ours.timeline.end * 10 < alone.timeline.end, "{:?} of {:?}", ours.timeline.end, alone.timeline.end);
}

/// Many readers of many streams are one connection of the workflow file.
#[test]
fn wide_fan_ins_take_no_memory_for_each_pair() {
    let text = "
  each: { program: x, foreach: inputs.files, outputs: [out], expect: { time: 1s } }
  join: { program: x, inputs: { all: each.out }, outputs: { parts: { partition: 600 } }, expect: { time: 1s } }
  again: { program: x, foreach: join.parts, inputs: { part: {}, all: inputs.files }, outputs: [out], expect: { time: 1s } }
";
    let workflow = workflow(text);
    let mut problem = problem(&workflow, &[8, 8]);
    problem.inputs[1] = vec![1; 600];
    let plan = plan(&problem, Policy::Dflow).unwrap();
    assert_eq!((plan.timeline.instances.len(), flaw(&problem, &plan.timeline)), (1201, None));
}

#[test]
fn too_many_instances_are_refused() {
    let workflow = workflow("  each: { program: x, foreach: inputs.files }\n");
    let mut problem = problem(&workflow, &[1]);
    problem.inputs[1] = vec![0; (1 << 20) + 1];
    let error = plan(&problem, Policy::Dflow).unwrap_err().to_string();
    assert!(error.contains("1048576 streams"), "{error}");
}

#[test]
fn too_many_subscriptions_and_nodes_are_refused() {
    let workflow = workflow(
        "
  each: { program: x, foreach: inputs.files, outputs: [out] }
  join: { program: x, inputs: { all: each.out }, outputs: { parts: { partition: 2100 } } }
  again: { program: x, foreach: join.parts, inputs: { part: {}, all: inputs.files } }
",
    );
    let mut problem = problem(&workflow, &[1]);
    problem.inputs[1] = vec![0; 2100];
    let error = plan(&problem, Policy::Dflow).unwrap_err().to_string();
    assert!(error.contains("4194304 subscriptions"), "{error}");
    problem.nodes = vec![problem.nodes[0].clone(); 20_000];
    let error = plan(&problem, Policy::Dflow).unwrap_err().to_string();
    assert!(error.contains("16384 nodes"), "{error}");
}

/// The largest times and sizes that a file can state, in a chain and side by side, over the slowest link.
#[test]
fn extreme_figures_are_harmless() {
    let mut text = String::from("  f0: { command: [x], expect: { time: 365d, output: 8388607TiB } }\n");
    for index in 1..40 {
        let tail = if index % 2 == 0 { "tail: 365d, " } else { "first_output: 365d, " };
        writeln!(
            text,
            "  f{index}: {{ command: [x], inputs: [f{}.out], expect: {{ time: 365d, {tail}output: 100000% }} }}",
            index / 2
        )
        .unwrap();
    }
    let workflow = workflow(&text);
    let mut problem = problem(&workflow, &[1, 4096, 1]);
    problem.network.default.bandwidth = 1;
    problem.network.default.latency = std::time::Duration::from_secs(365 * 24 * 3600);
    for memory in [0, 1, u64::MAX] {
        problem.nodes[0].memory = memory;
        for policy in Policy::ALL {
            let timeline = plan(&problem, policy).unwrap().timeline;
            assert!(timeline.end.as_secs() > 0, "{policy}");
        }
    }
}

/// Every policy, on a chain of functions: the critical path is as long as the workflow.
#[test]
fn long_chains() {
    let mut text = String::from("  f0: { command: [x], inputs: [inputs.data], expect: { time: 1ms } }\n");
    for index in 1..3000 {
        writeln!(text, "  f{index}: {{ command: [x], inputs: [f{}.out], expect: {{ time: 1ms }} }}", index - 1)
            .unwrap();
    }
    let workflow = workflow(&text);
    let problem = problem(&workflow, &[2; 20]);
    let begin = Instant::now();
    for policy in Policy::ALL {
        assert_eq!(plan(&problem, policy).unwrap().timeline.instances.len(), 3000);
    }
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
}
