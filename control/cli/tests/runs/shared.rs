//! Many runs on the same worker: they share its slots and its memory, and each is as it would be alone.

use crate::metrics::scrape;
use crate::nodes::{Cluster, kill};
use crate::support::{Case, Running, eventually, test_bytes};

/// Runs a case so often at once; the outputs of run N are in the directory `outN` of the case.
fn run_at_once(cluster: &Cluster, case: &Case, places: &[&str], runs: usize, more: &[&str]) {
    let running: Vec<Running> = (0..runs)
        .map(|run| {
            let output = case.path(&format!("out{run}")).display().to_string();
            let more: Vec<&str> = more.iter().copied().chain(["--output", &output]).collect();
            cluster.spawn_with(case, places, &more)
        })
        .collect();
    for running in running {
        case.finish(running.wait()).succeeded();
    }
}

/// A chain of two functions with data that is checked on the way.
fn chain(bytes: u64) -> Case {
    Case::new(
        &format!(
            "s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {bytes} }} }}
             r: {{ program: dflow-probe, inputs: {{ i: s.o }}, outputs: [o], params: {{ check: true }} }}"
        ),
        "{ o: r.o }",
    )
}

#[test]
fn four_runs_never_exceed_the_slot_of_a_worker() {
    let cluster = Cluster::with_options(&["b"], &["--slots", "1"]);
    // An instance that computes holds a lock, and fails if another one holds it.
    let lock = cluster.path("lock");
    let command =
        format!("[sh, -c, 'mkdir {0} || exit 9; head -c 20000000 /dev/zero | cksum; rmdir {0}']", lock.display());
    let functions: String = (0..3).map(|index| format!("f{index}: {{ command: {command} }}\n")).collect();
    let case = Case::new(&functions, "{ a: f0, b: f1, c: f2 }");
    run_at_once(&cluster, &case, &["f0=b", "f1=b", "f2=b"], 4, &[]);
    cluster.assert_idle();
}

#[test]
fn twenty_runs_in_a_budget_that_is_too_small_for_all_of_them() {
    const LENGTH: u64 = 3_000_000;
    // Each run is guaranteed 256 KiB, so that four are admitted at a time and the others wait.
    let cluster = Cluster::with_options(&["b"], &["--slots", "2", "--memory", "1MiB", "--metrics", "127.0.0.1:0"]);
    let case = chain(LENGTH);
    run_at_once(&cluster, &case, &["s=b", "r=b"], 20, &[]);
    for run in 0..20 {
        let output = std::fs::read(case.path(&format!("out{run}")).join("o")).unwrap();
        assert!(output == test_bytes(LENGTH), "run {run}");
    }
    cluster.assert_idle();
    let now = scrape(&cluster.metrics("b"));
    assert_eq!((now["dflow_runs"], now["dflow_runs_total"]), (0.0, 20.0));
    assert_eq!((now["dflow_memory_used_bytes"], now["dflow_slots_used"]), (0.0, 0.0), "everything is returned");
}

#[test]
fn a_run_waits_for_memory_that_one_that_is_over_cannot_return_yet() {
    // The budget is the minimum of one run.
    let options = ["--memory", "256KiB", "--metrics", "127.0.0.1:0"];
    let mut cluster = Cluster::with_options(&["b", "c"], &options).with_silence("5s");
    let endless = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000, pause_us: 1000 } }
         r: { program: dflow-probe, inputs: { i: s.o }, params: { pause_us: 1000 } }",
        "{}",
    );
    let first = cluster.spawn(&endless, &["s=c", "r=b"]);
    let received = "dflow_peer_received_bytes_total{peer=\"c\",path=\"quic\"}";
    // More than what travels inside messages, so that c may write into windows of b.
    eventually("nothing comes", || scrape(&cluster.metrics("b")).get(received).is_some_and(|bytes| *bytes > 200_000.0));
    cluster.worker("c").signal("-STOP");
    (0..2).for_each(|_| kill("-INT", first.id()));
    assert_eq!(endless.finish(first.wait()).code, Some(130));
    // The run is over, and c has not said that it writes no more.
    eventually("the run does not end on b", || scrape(&cluster.metrics("b"))["dflow_runs"] == 0.0);
    let stopped = cluster.take("c");
    let next = chain(1000);
    next.finish(cluster.spawn(&next, &["s=b", "r=b"]).wait()).succeeded();
    stopped.signal("-KILL");
    assert_eq!(stopped.exit_code(), None, "it was killed");
}

#[test]
fn two_hundred_runs_at_once() {
    let cluster = Cluster::with_options(&["b"], &["--slots", "2", "--memory", "64MiB"]);
    let case = Case::new("f: { command: [echo, hello] }", "{ o: f }");
    run_at_once(&cluster, &case, &["f=b"], 200, &["--memory", "1MiB", "--slots", "1"]);
    for run in 0..200 {
        assert_eq!(std::fs::read(case.path(&format!("out{run}")).join("o")).unwrap(), b"hello\n", "run {run}");
    }
    cluster.assert_idle();
}

#[test]
fn a_run_of_many_instances_does_not_keep_out_a_small_one() {
    const PARTS: u32 = 2000;
    let cluster = Cluster::with_options(&["b"], &["--slots", "1", "--metrics", "127.0.0.1:0"]);
    let large = Case::new(
        &format!(
            "s: {{ program: dflow-probe, outputs: {{ o: {{ partition: discovered }} }}, params: {{ bytes: 200000, parts: {PARTS} }} }}
             p: {{ command: [cksum], foreach: s.o }}"
        ),
        "{ o: p }",
    );
    let ended = || scrape(&cluster.metrics("b"))["dflow_attempts_ended_total{outcome=\"succeeded\"}"];
    let mut flood = cluster.spawn(&large, &["s=b", "p=b"]);
    eventually("the large run does not begin", || ended() > 3.0);
    let small = chain(1000);
    let running = cluster.spawn(&small, &["s=b", "r=b"]);
    small.finish(running.wait()).succeeded();
    assert!(ended() < f64::from(PARTS) / 2.0, "the small run had to wait for the large one");
    flood.kill();
    cluster.assert_idle();
}

#[test]
fn the_launcher_of_a_worker_is_killed_under_two_runs() {
    let mut cluster = Cluster::new(&["b"]);
    let case = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000 } }
         r: { program: dflow-probe, inputs: { i: s.o }, params: { pause_us: 1000 } }",
        "{}",
    );
    let running = [(); 2].map(|()| cluster.spawn(&case, &["s=b", "r=b"]));
    eventually("the functions do not start", || cluster.probes() == 4);
    kill("-KILL", cluster.worker("b").launcher());
    for running in running {
        let ran = case.finish(running.wait());
        assert_eq!(ran.code, Some(1), "{}", ran.report);
        let reason = ran.report["error"]["reason"].as_str().unwrap();
        assert!(reason.contains("launcher"), "{reason}");
    }
    // The next run gets another one.
    let next = chain(1000);
    cluster.run(&next, &["s=b", "r=b"], &[]).succeeded();
}

#[test]
fn a_run_whose_driver_is_killed_leaves_the_others_alone() {
    let cluster = Cluster::new(&["b"]);
    let endless = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000, pause_us: 100 } }
         r: { program: dflow-probe, inputs: { i: s.o }, params: { pause_us: 1000 } }",
        "{}",
    );
    let other = Case::new(
        "t: { command: [head, -n1, GATE] }
         s: { program: dflow-probe, outputs: [o], params: { bytes: 3000000 } }
         r: { program: dflow-probe, inputs: { i: s.o, j: { from: t.out, gate: start } }, outputs: [o], params: { order: one-by-one } }",
        "{ o: r.o }",
    );
    let mut gate = other.gate();
    let going_on = cluster.spawn(&other, &["s=a", "r=b"]);
    eventually("the first run does not begin", || cluster.probes() == 1);
    let mut killed = cluster.spawn(&endless, &["s=b", "r=b"]);
    eventually("the second run does not begin", || cluster.probes() == 3);
    killed.kill();
    eventually("what it has there does not end", || cluster.probes() == 1);
    gate.open();
    other.finish(going_on.wait()).succeeded();
    assert!(other.output("o")[..3_000_000] == test_bytes(3_000_000));
    cluster.assert_idle();
}
