//! Files with as many functions and streams as there may be: checked in time that grows with their size and no faster.
//!
//! Each test has a limit of processor time that anything quadratic misses by far: that is independent of what else the
//! machine does.

use std::fmt::Write;
use std::time::Duration;

use dflow_workflow::{Diagnostics, Retention, Source, Streams, Workflow, limits};
use rustix::time::{ClockId, clock_gettime};

/// A hundred times the duration of a check in a release build.
const MAX_PROCESSOR_TIME: Duration = Duration::from_secs(40);

const COUNT: usize = limits::MAX_FUNCTIONS;

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> T {
    let start = processor_time();
    let result = work();
    let took = processor_time() - start;
    eprintln!("{took:?} of processor time");
    assert!(took < MAX_PROCESSOR_TIME, "{took:?}");
    result
}

fn file(functions: impl Iterator<Item = String>) -> String {
    let mut text = String::from("workflow: w\ninputs: { text: {}, files: { parts: files } }\nfunctions:\n");
    functions.for_each(|function| text.push_str(&function));
    text
}

fn check(text: &str) -> Workflow {
    timed(|| Workflow::parse("w.yaml", text).unwrap_or_else(|errors| panic!("{errors}")))
}

fn refuse(text: &str) -> (Diagnostics, String) {
    timed(|| {
        let errors = Workflow::parse("w.yaml", text).expect_err("the file is wrong");
        let shown = errors.to_string();
        (errors, shown)
    })
}

#[test]
fn a_chain() {
    let link = |n: usize| match n.checked_sub(1) {
        None => "  task_0: { command: [cat], inputs: [inputs.text], retries: 1 }\n".to_owned(),
        Some(before) => format!("  task_{n}: {{ command: [cat], inputs: [task_{before}.out] }}\n"),
    };
    let workflow = check(&file((0..COUNT).rev().map(link)));
    assert_eq!(workflow.functions[COUNT - 1].name, format!("task_{}", COUNT - 1));
    let retention = timed(|| Retention::of(&workflow));
    assert!(retention.keeps(Source::WorkflowInput(0)));
}

/// The most memory that this process has used so far, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Also if the tests share a process: then the other tests can only make the difference smaller.
#[test]
fn memory_is_in_proportion() {
    /// For a function of a command with two arguments and an input.
    const MOST_PER_FUNCTION: u64 = 2800;
    let text = file((0..COUNT).map(|n| format!("  task_{n}: {{ command: [cat, a, b], inputs: [inputs.text] }}\n")));
    let before = peak_memory();
    let workflow = check(&text);
    let used = peak_memory() - before;
    eprintln!("{} bytes for each function", used / COUNT as u64);
    assert!(used < MOST_PER_FUNCTION * workflow.functions.len() as u64, "{used} bytes");
}

#[test]
fn a_chain_of_foreach_in_the_wrong_order() {
    let link = |n: usize| match n.checked_sub(1) {
        None => "  f0: { command: [cat], foreach: inputs.files }\n".to_owned(),
        Some(before) => format!("  f{n}: {{ command: [cat], foreach: f{before}.out }}\n"),
    };
    let workflow = check(&file((0..COUNT).rev().map(link)));
    assert!(workflow.functions.iter().all(|function| function.instances == Streams::Files));
    timed(|| dflow_workflow::graph::mermaid(&workflow));
}

/// 65,536 functions that one input reads, and one function with as many inputs and outputs as it may have.
#[test]
fn fans() {
    let writers = limits::MAX_SOURCES;
    let mut text = file((0..writers).map(|n| format!("  w{n}: {{ program: x, outputs: [o] }}\n")));
    let list = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(", ");
    writeln!(text, "  all: {{ program: x, inputs: {{ i: [{}] }} }}", list(writers, &|n| format!("w{n}.o"))).unwrap();
    let ports = limits::MAX_PORTS;
    let (inputs, outputs) = (list(ports, &|n| format!("i{n}: w{n}.o")), list(ports, &|n| format!("o{n}.txt")));
    writeln!(text, "  wide: {{ program: x, inputs: {{ {inputs} }}, outputs: [{outputs}] }}").unwrap();
    let arguments = list(ports, &|n| format!("'{{in.wide.o{n}.txt}}'"));
    let inputs = list(ports, &|n| format!("wide.o{n}.txt: wide.o{n}.txt"));
    writeln!(text, "  cat: {{ command: [cat, {arguments}], inputs: {{ {inputs} }} }}").unwrap();
    let workflow = check(&text);
    let sizes: Vec<usize> = workflow.functions[writers..].iter().map(|function| function.inputs.len()).collect();
    assert_eq!(sizes, [1, ports, ports]);
}

#[test]
fn functions_under_switches() {
    let switches = limits::MAX_SWITCHES;
    let each = (COUNT - switches) / switches;
    let text = file((0..switches).map(|s| {
        let targets = (0..each).map(|n| format!("f{s}.{n}")).collect::<Vec<_>>().join(", ");
        let functions: String = (0..each).map(|n| format!("  f{s}.{n}: {{ program: x, outputs: [o] }}\n")).collect();
        format!("  s{s}: {{ switch: inputs.text, cases: {{ a: [{targets}] }} }}\n{functions}")
    }));
    assert_eq!(check(&text).functions.len(), each * switches);
}

#[test]
fn misspelled_names_and_cycles_are_reported_as_fast() {
    // A source that is not there, in every function; then one cycle of all functions, then many small ones in a row.
    let (errors, _) =
        refuse(&file((0..COUNT).map(|n| format!("  task_{n:06}: {{ command: [cat], inputs: [tusk_{n:06}.out] }}\n"))));
    assert_eq!(errors.omitted(), COUNT - limits::MAX_DIAGNOSTICS);
    assert_eq!(errors.iter().next().unwrap().message(), "there is no function `tusk_000000`");
    let ring = file((0..COUNT).map(|n| format!("  f{n}: {{ command: [cat], inputs: [f{}.out] }}\n", (n + 1) % COUNT)));
    let (errors, shown) = refuse(&ring);
    assert_eq!(errors.iter().count(), 1);
    assert!(errors.iter().next().unwrap().message().starts_with("the functions form a cycle: f0 -> "), "{shown}");
    assert!(shown.len() < 10_000, "{}", shown.len());
    let pairs = file((0..COUNT).map(|n| {
        let before = if n < 2 { String::new() } else { format!(", before: f{}.out", n - 2) };
        let argument = if n < 2 { "" } else { ", '{in.before}'" };
        format!("  f{n}: {{ command: [cat{argument}], inputs: {{ other: f{}.out{before} }} }}\n", n ^ 1)
    }));
    assert_eq!(refuse(&pairs).0.omitted(), COUNT / 2 - limits::MAX_DIAGNOSTICS);
}
