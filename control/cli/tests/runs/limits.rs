//! Machines that give little: each limit that is too small has a clear error or a run that works with less.

use crate::support::{Case, MemoryCgroup, doctor, test_bytes};
use serde_json::Value;
use std::process::Command;

const MIB: u64 = 1 << 20;

/// a writes more than fits into any budget of these tests, and b begins when it is complete.
fn kept(bytes: u64) -> Case {
    Case::new(
        &format!(
            "a: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {bytes} }} }}
             b: {{ program: dflow-probe, inputs: {{ i: {{ from: a.o, gate: whole }} }}, outputs: [o], params: {{ check: true }} }}"
        ),
        "{ o: b.o }",
    )
}

#[test]
fn a_cgroup_with_too_little_memory_is_refused() {
    let cgroup = MemoryCgroup::limited_to(7 * MIB);
    let case = kept(1000);
    let output = case.limited(&cgroup.enter(), &["--memory", "64MiB"]).output().unwrap();
    case.finish(output).refused(&["cgroup may use 7168 KiB", "raise the limit of the cgroup"]);
    assert!(!case.path("out").exists());
    let findings = doctor(&cgroup.enter(), &[]);
    assert_eq!(findings["memory"]["state"], "bad", "{findings}");
}

#[test]
fn a_budget_is_never_more_than_the_cgroup_leaves() {
    let cgroup = MemoryCgroup::limited_to(64 * MIB);
    let case = kept(60_000_000);
    let output = case.limited(&cgroup.enter(), &["--memory", "1GiB"]).output().unwrap();
    let ran = case.finish(output);
    ran.succeeded();
    assert!(case.output("o") == test_bytes(60_000_000));
    let memory = &ran.report["memory"];
    assert_eq!(memory["budget_bytes"].as_u64().unwrap(), 32 * MIB);
    // And what no budget refuses.
    assert!(memory["peak_bytes"].as_u64().unwrap() <= 33 * MIB, "{memory}");
    assert!(memory["spilled_bytes"].as_u64().unwrap() > 20 * MIB, "{memory}");
    assert_eq!(cgroup.kills(), 0);
    let findings = doctor(&cgroup.enter(), &["--memory", "1GiB"]);
    assert_eq!(findings["memory"]["state"], "fair", "{findings}");
}

/// Doubles a string until it has half a gigabyte, then says how long it is.
const GREEDY: &str = r#"command: [awk, "BEGIN { s = \"x\"; while (length(s) < 536870912) s = s s; print length(s) }"]"#;

#[test]
fn a_function_takes_its_cgroup_s_memory_and_the_daemon_lives_to_tell() {
    let cgroup = MemoryCgroup::limited_to(64 * MIB);
    let case = Case::new(&format!("a: {{ {GREEDY} }}"), "{ o: a.out }");
    let output = case.limited(&cgroup.enter(), &[]).output().unwrap();
    case.finish(output).failed("a", &["SIGKILL", "memory"]);
    assert!(cgroup.kills() > 0);
}

#[test]
fn a_function_in_a_cgroup_that_limits_its_memory_fails_alone() {
    let case = Case::new(
        &format!(
            "a: {{ {GREEDY}, resources: {{ memory: 32MiB }}, retries: {{ count: 1, backoff: 1ms }} }}
             good: {{ program: dflow-probe, outputs: [o], params: {{ bytes: 20000000, pause_us: 300 }}, resources: {{ memory: 32MiB }} }}
             copy: {{ program: dflow-probe, inputs: {{ i: good.o }}, outputs: [o], params: {{ check: true }} }}"
        ),
        "{ o: a.out, p: copy.o }",
    );
    let ran = case.run(&["--slots", "4"]);
    let processes = doctor(":", &[])["processes"].clone();
    let enforced = !processes["text"].as_str().unwrap().contains("not enforced");
    assert!(enforced, "this test needs cgroups; DFLOW_TEST_CGROUPS=none has scripts/test leave it out: {processes}");
    ran.failed("a", &["resources: memory"]);
    assert_eq!(ran.attempts("a").len(), 2);
    for name in ["good", "copy"] {
        for attempt in ran.attempts(name) {
            assert_ne!(attempt["end"], "failed", "{name}: {}", attempt["reason"]);
        }
    }
}

#[test]
fn no_locked_memory_is_needed_on_one_node() {
    let case = kept(20_000_000);
    let output = case.limited("ulimit -l 0", &["--memory", "4MiB"]).output().unwrap();
    let ran = case.finish(output);
    ran.succeeded();
    assert!(ran.report["memory"]["spilled_bytes"].as_u64().unwrap() > 10 * MIB);
    assert!(case.output("o") == test_bytes(20_000_000));
}

#[test]
fn few_descriptors_are_named_or_enough() {
    let mut worked = 0;
    for limit in [4, 8, 16, 32, 63, 64, 128] {
        let case = kept(3_000_000);
        let output = case.limited(&format!("ulimit -n {limit}"), &["--memory", "1MiB"]).output();
        let ran = case.finish(output.unwrap());
        if ran.code == Some(0) {
            worked += 1;
            assert!(case.output("o") == test_bytes(3_000_000));
            continue;
        }
        assert_eq!(worked, 0, "{limit} descriptors are too few, though fewer were enough");
        let text = format!("{} {}", ran.stderr, ran.report);
        assert_eq!(ran.code, Some(2), "{limit}: {text}");
        // With fewer than a handful not even the shell can hand over.
        assert!(limit < 8 || text.contains("ulimit -n"), "{limit}: {text}");
    }
    assert_eq!(worked, 2, "64 descriptors are not enough for two functions");
}

/// Makes `io_uring_setup` fail with EPERM for this thread and what it starts, as the seccomp filter of a container does.
fn forbid_io_uring() {
    use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
    let rules = [(libc::SYS_io_uring_setup, Vec::new())].into_iter().collect();
    let forbid = SeccompAction::Errno(libc::EPERM as u32);
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, forbid, std::env::consts::ARCH.try_into().unwrap()).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
}

#[test]
fn without_io_uring_plain_io_spills() {
    // The filter stays with this thread, and nothing else runs in it.
    std::thread::spawn(|| {
        forbid_io_uring();
        let case = kept(30_000_000);
        let ran = case.run(&["--memory", "4MiB"]);
        ran.succeeded();
        assert!(ran.report["memory"]["spilled_bytes"].as_u64().unwrap() > 20 * MIB);
        assert!(case.output("o") == test_bytes(30_000_000));
        let spilling = doctor(":", &[])["spilling"].clone();
        assert_eq!(spilling["state"], "fair", "{spilling}");
        let text = spilling["text"].as_str().unwrap();
        assert!(text.contains("plain") && text.contains("io_uring") && text.contains("forbidden"), "{text}");
        // Who insists on it is told.
        case.run(&["--spill-io", "io-uring"]).refused(&["io_uring", "seccomp"]);
    })
    .join()
    .unwrap();
}

#[test]
fn a_budget_below_one_segment_is_refused() {
    let case = kept(1000);
    case.run(&["--memory", "100KiB"]).refused(&["memory budget of 102400 bytes", "64 MiB"]);
    // The least that is taken works, with streams far longer than it.
    let case = kept(5_000_000);
    case.run(&["--memory", "256KiB"]).succeeded();
    assert!(case.output("o") == test_bytes(5_000_000));
    // A single write that does not fit into it.
    let case = Case::new(
        "a: { program: dflow-probe, outputs: [o], params: { bytes: 3000000, chunk: 1000000 } }
         b: { program: dflow-probe, inputs: { i: a.o }, outputs: [o] }",
        "{ o: b.o }",
    );
    case.run(&["--memory", "256KiB"]).failed("a", &["1000000 bytes at once", "--memory"]);
}

#[test]
fn what_the_machine_offers_is_said() {
    let findings = doctor(":", &[]);
    for topic in ["memory", "huge pages", "descriptors", "processes", "spilling"] {
        assert!(findings[topic] != Value::Null, "{topic} is missing: {findings}");
    }
    let human = Command::new(env!("CARGO_BIN_EXE_dflow")).arg("doctor").output().unwrap();
    assert!(String::from_utf8_lossy(&human.stdout).contains("huge pages"));
}
