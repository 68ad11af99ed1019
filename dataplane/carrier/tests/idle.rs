//! The cost of open but idle streams and runs: as many streams as there may be among the functions of a large workflow, and
//! as many runs as there may be on a busy node.

mod cluster;

use cluster::Cluster;
use cluster::crowd::{Crowd, cpu_of_carriers};
use std::time::{Duration, Instant};

#[test]
fn ten_thousand_open_streams_cost_next_to_nothing_and_all_deliver() {
    const STREAMS: u32 = 10_000;
    const PERIOD: Duration = Duration::from_millis(500);
    let mut cluster = Cluster::new(2, 1 << 30);
    let start = Instant::now();
    let crowd = Crowd::open(&mut cluster, 10..10 + STREAMS, 5, 101);
    let opened = start.elapsed();
    let before = cpu_of_carriers();
    std::thread::sleep(PERIOD);
    let idle = cpu_of_carriers() - before;
    let start = Instant::now();
    crowd.finish();
    cluster.finish();
    println!(
        "{STREAMS} streams opened in {opened:.1?}, {idle:.1?} of CPU in {PERIOD:?} of idleness, ended in {:.1?}",
        start.elapsed()
    );
    // A carrier that looked at them each time it sleeps would need ten times that.
    assert!(idle < PERIOD / 20, "{idle:?} of CPU time while nothing happened");
}

#[test]
fn hundreds_of_idle_runs_cost_next_to_nothing_and_all_deliver() {
    const RUNS: u32 = 200;
    const PERIOD: Duration = Duration::from_millis(500);
    let mut cluster = Cluster::new(2, 1 << 30);
    let start = Instant::now();
    let crowds = Crowd::of_runs(&mut cluster, RUNS);
    let opened = start.elapsed();
    let before = cpu_of_carriers();
    std::thread::sleep(PERIOD);
    let idle = cpu_of_carriers() - before;
    let start = Instant::now();
    crowds.into_iter().for_each(Crowd::finish);
    cluster.finish();
    println!(
        "{RUNS} runs opened in {opened:.1?}, {idle:.1?} of CPU in {PERIOD:?} of idleness, ended in {:.1?}",
        start.elapsed()
    );
    assert!(idle < PERIOD / 20, "{idle:?} of CPU time while nothing happened");
}
