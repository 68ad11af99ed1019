//! Nodes that die in the middle of a run: the others say so within the silence, let go of everything, and go on.

use crate::nodes::Cluster;
use crate::support::{Case, Running, eventually, test_bytes};
use std::process::Command;
use std::time::{Duration, Instant};

/// The silence, and what a busy machine takes to end processes.
const NOTICED: Duration = Duration::from_secs(6);

/// An endless stream from b to c, and one from a to b.
fn endless() -> Case {
    Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000 } }
         r: { program: dflow-probe, inputs: { i: s.o }, outputs: [o], params: { pause_us: 1000 } }
         s2: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000, pause_us: 1000 } }
         r2: { program: dflow-probe, inputs: { i: s2.o }, params: { pause_us: 1000 } }",
        "{ o: r.o }",
    )
}

const PLACES: [&str; 4] = ["s=b", "r=c", "s2=a", "r2=b"];

/// Starts it and waits until all of it runs and bytes have arrived.
fn under_way(case: &Case, cluster: &Cluster) -> Running {
    let running = cluster.spawn(case, &PLACES);
    eventually("the functions do not start", || {
        let here = case.processes().iter().filter(|(_, name)| name.starts_with("dflow-probe")).count();
        let came = |file: std::fs::DirEntry| file.path().join("o").metadata().is_ok_and(|file| file.len() > 1_000_000);
        let staged = std::fs::read_dir(case.dir.path()).unwrap().flatten().any(came);
        here == 1 && cluster.probes() == 3 && staged
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
    assert_eq!(ran.code, Some(1), "{}\n{}", ran.stderr, ran.report);
    let reason = ran.report["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("node b is lost"), "{reason}");
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
    assert!(Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap().success());
    let ran = case.finish(running.wait());
    assert!(start.elapsed() < NOTICED, "it took {:?}", start.elapsed());
    assert_eq!(ran.code, Some(130), "{}\n{}", ran.stderr, ran.report);
    assert_eq!(ran.report["state"], "cancelled");
    assert!(!case.path("out").exists());
    cluster.assert_idle();
    next_run_works(&cluster, &["s=c", "r=b"]);
}

#[test]
fn a_worker_that_is_told_to_end_ends_what_it_serves() {
    let mut cluster = Cluster::new(&["b", "c"]);
    let case = endless();
    let running = under_way(&case, &cluster);
    let worker = cluster.take("c");
    let start = Instant::now();
    worker.signal("-TERM");
    assert_eq!(worker.exit_code(), Some(0));
    let ran = case.finish(running.wait());
    // It says goodbye: nobody has to wait for the silence.
    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
    assert_eq!(ran.code, Some(1), "{}\n{}", ran.stderr, ran.report);
    let reason = ran.report["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("node c is lost"), "{reason}");
    cluster.assert_idle();
    next_run_works(&cluster, &["s=b", "r=a"]);
}

#[test]
fn a_worker_that_is_stopped_is_lost_after_the_silence() {
    let mut cluster = Cluster::new(&["b", "c"]);
    let case = endless();
    let running = under_way(&case, &cluster);
    let start = Instant::now();
    cluster.worker("b").signal("-STOP");
    let ran = case.finish(running.wait());
    let (took, worker) = (start.elapsed(), cluster.worker("b"));
    worker.signal("-CONT");
    assert!(took >= Duration::from_secs(1) && took < NOTICED, "noticed after {took:?}");
    assert_eq!(ran.code, Some(1), "{}\n{}", ran.stderr, ran.report);
    let reason = ran.report["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("node b is lost"), "{reason}");
    // It wakes up, finds that nobody waits for it, and serves the next one.
    cluster.assert_idle();
    next_run_works(&cluster, &["s=b", "r=c"]);
}

#[test]
fn a_worker_has_a_silence_of_its_own() {
    let cluster = Cluster::with_options(&["b", "c"], &["--silence", "1s"]);
    let case = endless();
    let mut args = cluster.args(&PLACES);
    let silence = args.iter_mut().skip_while(|arg| *arg != "--silence").nth(1).unwrap();
    *silence = "1h".to_owned();
    let mut running = case.spawn(&args.iter().map(String::as_str).collect::<Vec<_>>());
    eventually("the functions do not start", || cluster.probes() == 3);
    let start = Instant::now();
    running.kill();
    // The driver would be waited for an hour.
    cluster.assert_idle();
    assert!(start.elapsed() < NOTICED, "noticed after {:?}", start.elapsed());
    next_run_works(&cluster, &["s=b", "r=c"]);
}
