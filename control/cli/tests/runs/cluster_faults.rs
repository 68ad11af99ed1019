//! Nodes that die during a run: the others report it within the silence limit, release everything, and continue to work.

use crate::metrics::scrape;
use crate::nodes::{Cluster, kill};
use crate::support::{Case, Running, SmallDisk, eventually, test_bytes};
use std::time::{Duration, Instant};

/// The silence limit, plus the time that a busy machine takes to end processes.
const NOTICED: Duration = Duration::from_secs(6);

/// An endless stream from b to c, and one from a to b.
fn endless() -> Case {
    Case::with_header(
        // The driver waits for an unresponsive node until its functions have had their grace.
        "grace: 300ms",
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000 } }
         r: { program: dflow-probe, inputs: { i: s.o }, outputs: [o], params: { pause_us: 1000 } }
         s2: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000, pause_us: 1000 } }
         r2: { program: dflow-probe, inputs: { i: s2.o }, params: { pause_us: 1000 } }",
        "{ o: r.o }",
    )
}

const PLACES: [&str; 4] = ["s=b", "r=c", "s2=a", "r2=b"];

/// Starts it and waits until all functions run and bytes have arrived.
fn under_way(case: &Case, cluster: &Cluster) -> Running {
    let running = cluster.spawn(case, &PLACES);
    eventually("the functions do not start", || {
        let here = case.processes().iter().filter(|(_, name)| name.starts_with("dflow-probe")).count();
        here == 1 && cluster.probes() == 3 && case.staged("o") > 1_000_000
    });
    running
}

/// The next run works, on the same workers.
#[track_caller]
fn next_run_works(cluster: &Cluster, places: &[&str]) {
    let case = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 1000000 } }
         r: { program: dflow-probe, inputs: { i: s.o }, outputs: [o] }",
        "{ o: r.o }",
    );
    cluster.run(&case, places, &[]).succeeded();
    assert!(case.output("o") == test_bytes(1_000_000));
}

#[test]
fn a_worker_is_killed() {
    let mut cluster = Cluster::new(&["b", "c"]);
    let case = endless();
    let running = under_way(&case, &cluster);
    let start = Instant::now();
    cluster.kill("b");
    let ran = case.finish(running.wait());
    assert!(start.elapsed() < NOTICED, "noticed after {:?}", start.elapsed());
    ran.lost("b");
    assert!(!case.path("out").exists());
    cluster.assert_idle();
    next_run_works(&cluster, &["s=c", "r=a"]);
    // The node comes back, at another address.
    cluster.start("b", &[]);
    next_run_works(&cluster, &["s=b", "r=c"]);
}

#[test]
fn the_driver_is_killed() {
    let cluster = Cluster::new(&["b", "c"]);
    let case = endless();
    let mut running = under_way(&case, &cluster);
    let start = Instant::now();
    running.kill();
    cluster.assert_idle();
    assert!(start.elapsed() < NOTICED, "noticed after {:?}", start.elapsed());
    eventually("functions outlive the driver", || case.processes().is_empty());
    assert!(!case.path("out").exists());
    next_run_works(&cluster, &["s=b", "r=c"]);
}

#[test]
fn ctrl_c_ends_a_run_on_all_nodes() {
    let cluster = Cluster::new(&["b", "c"]);
    let case = endless();
    let running = under_way(&case, &cluster);
    let start = Instant::now();
    kill("-INT", running.id());
    let ran = case.finish(running.wait());
    assert!(start.elapsed() < NOTICED, "it took {:?}", start.elapsed());
    assert_eq!(ran.code, Some(130), "{}\n{}", ran.stderr, ran.report);
    assert_eq!(ran.report["state"], "cancelled");
    assert!(!case.path("out").exists());
    cluster.assert_idle();
    next_run_works(&cluster, &["s=c", "r=b"]);
}

#[test]
fn ctrl_c_does_not_wait_for_a_worker_that_is_stopped() {
    let mut cluster = Cluster::with_options(&["b", "c"], &["--metrics", "127.0.0.1:0"]).with_silence("5s");
    let case = endless();
    let running = under_way(&case, &cluster);
    cluster.worker("b").signal("-STOP");
    let start = Instant::now();
    kill("-INT", running.id());
    let output = running.wait();
    let took = start.elapsed();
    // Functions here and on the other node have ended; those on this node end when it wakes up.
    cluster.worker("b").signal("-CONT");
    let ran = case.finish(output);
    assert!(took < Duration::from_secs(4), "it took {took:?}");
    assert_eq!(ran.code, Some(130), "{}\n{}", ran.stderr, ran.report);
    assert_eq!(ran.report["state"], "cancelled");
    cluster.assert_idle();
    for node in ["b", "c"] {
        let failovers =
            scrape(&cluster.metrics(node)).into_iter().filter(|(name, _)| name.starts_with("dflow_peer_failovers"));
        let failovers: Vec<(String, f64)> = failovers.collect();
        assert!(!failovers.is_empty() && failovers.iter().all(|(_, count)| *count == 0.0), "{node}: {failovers:?}");
    }
    next_run_works(&cluster, &["s=b", "r=c"]);
}

#[test]
fn a_failed_function_is_reported_with_its_node() {
    let cluster = Cluster::new(&["b"]);
    let case = Case::new("f: { command: [sh, -c, 'echo what a pity >&2; exit 3'] }", "{ o: f.out }");
    let ran = cluster.run(&case, &["f=b"], &[]);
    ran.failed("f", &["exit status 3", "what a pity"]);
    assert_eq!(ran.report["error"]["node"], "b");
    assert!(ran.stderr.contains("f failed on node b: "), "{}", ran.stderr);
}

#[test]
fn a_worker_that_gets_sigterm_ends_its_runs() {
    let mut cluster = Cluster::new(&["b", "c"]);
    let case = endless();
    let running = under_way(&case, &cluster);
    let worker = cluster.take("c");
    let start = Instant::now();
    worker.signal("-TERM");
    assert_eq!(worker.exit_code(), Some(143));
    let ran = case.finish(running.wait());
    // It closes its connections, so no node waits for the silence limit.
    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
    let reason = ran.report["error"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("node c is lost: its worker was stopped (SIGTERM); "), "{}", ran.stderr);
    cluster.assert_idle();
    next_run_works(&cluster, &["s=b", "r=a"]);
}

#[test]
fn a_stopped_worker_is_lost_after_the_silence_limit() {
    let mut cluster = Cluster::new(&["b", "c"]);
    let case = endless();
    let running = under_way(&case, &cluster);
    let start = Instant::now();
    cluster.worker("b").signal("-STOP");
    let ran = case.finish(running.wait());
    let (took, worker) = (start.elapsed(), cluster.worker("b"));
    worker.signal("-CONT");
    assert!(took >= Duration::from_secs(1) && took < NOTICED, "noticed after {took:?}");
    ran.lost("b");
    // It wakes up, finds its run ended, and serves the next one.
    cluster.assert_idle();
    next_run_works(&cluster, &["s=b", "r=c"]);
}

#[test]
fn a_worker_has_its_own_silence_limit() {
    let cluster = Cluster::with_options(&["b", "c"], &["--silence", "1s"]).with_silence("1h");
    let case = endless();
    let mut running = cluster.spawn(&case, &PLACES);
    eventually("the functions do not start", || cluster.probes() == 3);
    let start = Instant::now();
    running.kill();
    // The driver's own limit is an hour.
    cluster.assert_idle();
    assert!(start.elapsed() < NOTICED, "noticed after {:?}", start.elapsed());
    next_run_works(&cluster, &["s=b", "r=c"]);
}

const LENGTH: u64 = 30_000_000;

#[test]
fn a_function_that_stops_reading_does_not_block_others() {
    let mut cluster = Cluster::with_options(&["b", "c"], &["--memory", "8MiB"]);
    let case = Case::new(
        &format!(
            "s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH}, pause_us: 500 }} }}
             stops: {{ program: dflow-probe, inputs: {{ i: s.o }}, outputs: [o], params: {{ check: true }} }}
             goes: {{ program: dflow-probe, inputs: {{ i: s.o }}, outputs: [o], params: {{ check: true }} }}"
        ),
        "{ stops: stops.o, goes: goes.o }",
    );
    let running = cluster.spawn_with(&case, &["s=a", "stops=b", "goes=c"], &["--memory", "8MiB"]);
    eventually("the streams do not move", || case.staged("stops") > 1_000_000 && case.staged("goes") > 1_000_000);
    let function = cluster.worker("b").functions()[0];
    kill("-STOP", function);
    let stopped_at = case.staged("stops");
    eventually("the other reader is held", || case.staged("goes") == LENGTH);
    // The bytes in transit, and the windows on both nodes.
    let came = case.staged("stops");
    assert!(came < LENGTH, "it has not been stopped: {came} bytes, and {stopped_at} before");
    kill("-CONT", function);
    let ran = case.finish(running.wait());
    ran.succeeded();
    assert!(case.output("stops") == test_bytes(LENGTH) && case.output("goes") == test_bytes(LENGTH));
    assert_eq!(ran.attempts("stops").len(), 1);
    cluster.assert_idle();
}

#[test]
fn a_worker_that_stops_for_less_than_the_silence_limit_is_not_lost() {
    let mut cluster = Cluster::with_options(&["b", "c"], &["--memory", "8MiB"]).with_silence("60s");
    let case = Case::new(
        &format!(
            "s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH}, pause_us: 500 }} }}
             stops: {{ program: dflow-probe, inputs: {{ i: s.o }}, outputs: [o], params: {{ check: true }} }}
             other: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH}, pause_us: 500 }} }}
             goes: {{ program: dflow-probe, inputs: {{ i: other.o }}, outputs: [o], params: {{ check: true }} }}"
        ),
        "{ stops: stops.o, goes: goes.o }",
    );
    let running = cluster.spawn_with(&case, &["s=a", "stops=b", "other=a", "goes=c"], &["--memory", "8MiB"]);
    eventually("the streams do not move", || case.staged("stops") > 1_000_000 && case.staged("goes") > 1_000_000);
    cluster.worker("b").signal("-STOP");
    eventually("others are held", || case.staged("goes") == LENGTH);
    assert!(case.staged("stops") < LENGTH, "it has not been stopped");
    cluster.worker("b").signal("-CONT");
    let ran = case.finish(running.wait());
    ran.succeeded();
    assert!(case.output("stops") == test_bytes(LENGTH) && case.output("goes") == test_bytes(LENGTH));
    assert_eq!(ran.report["links"][0]["paths"], 1, "{}", ran.report["links"]);
    cluster.assert_idle();
}

#[test]
fn a_disk_of_another_node_that_is_full() {
    let mut cluster = Cluster::without_workers(&["a", "b", "c"]);
    let place = cluster.path("disk");
    let disk = SmallDisk::mount(&place, "4m");
    cluster.start("c", &[]);
    cluster.start("b", &["--memory", "4MiB", "--spill-dir", place.to_str().unwrap()]);
    // The reader waits for the whole stream, which is larger than memory and disk of the producer's node together.
    let case = Case::new(
        &format!(
            "s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH} }} }}
             r: {{ program: dflow-probe, inputs: {{ i: {{ from: s.o, gate: whole }} }}, outputs: [o] }}"
        ),
        "{ o: r.o }",
    );
    let ran = cluster.run(&case, &["s=b", "r=c"], &[]);
    assert_eq!(ran.code, Some(1), "{}\n{}", ran.stderr, ran.report);
    let reason = ran.report["error"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("no space left") && reason.contains("--spill-dir") && reason.contains("node b"),
        "{reason}"
    );
    // Both nodes continue to work.
    next_run_works(&cluster, &["s=b", "r=c"]);
    drop(disk);
}
