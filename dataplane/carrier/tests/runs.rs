//! Many runs that share the carriers of two nodes and the link between them.

mod cluster;

use cluster::Cluster;
use dflow_carrier::{Carrier, Command, NodeId, Report, RunTraffic};
use dflow_function::Error;
use dflow_protocol::RunId;
use dflow_protocol::exchange::Order;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage};
use dflow_shm::Landing;
use dflow_shm::channel::pair;
use dflow_store::StoreEvent;
use dflow_testkit::node::{Function, RUN, RUN_STEP, produce, run_of, verify};
use dflow_transport::{Chunk, PathError, PathEvent, PathKind, RemoteWindow};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// More than a test ever reads.
const ENDLESS: u64 = 1 << 40;

/// The second run; its streams and functions begin at [`RUN_STEP`].
fn other() -> RunId {
    run_of(RUN_STEP)
}

/// Stream `stream` goes from one node to another; it is written by function `stream`, and read by `stream + 100`.
fn pass(cluster: &mut Cluster, stream: u32, from: usize, to: usize, length: u64) {
    cluster.cross(stream, from, to, &[(stream + 100, 0)]);
    write(cluster, stream, from, length);
    read(cluster, stream, to, length);
}

fn write(cluster: &Cluster, stream: u32, node: usize, length: u64) {
    let source = Function { outputs: vec![("out", vec![stream])], ..Function::default() };
    cluster.on(node, move |node| {
        node.start(stream, &source, move |ctx| produce(ctx, "out", stream, length, 90_000));
    });
}

fn read(cluster: &Cluster, stream: u32, node: usize, length: u64) {
    let sink = Function { inputs: vec![("in", vec![stream], false)], ..Function::default() };
    cluster.on(node, move |node| {
        node.start(stream + 100, &sink, move |ctx| match verify(&mut ctx.input("in")?, stream)? {
            have if have == length => Ok(()),
            have => Err(Error::new(format!("{have} bytes instead of {length}"))),
        });
    });
}

/// Waits until a run has sent so much from a node.
fn until_sent(cluster: &Cluster, node: usize, run: RunId, bytes: u64) {
    while cluster.sum(node, run).values().map(|traffic| traffic.sent).sum::<u64>() < bytes {
        std::thread::yield_now();
    }
}

fn begin_both(cluster: &Cluster, run: RunId) {
    (0..2).for_each(|node| cluster.begin(node, run));
}

#[test]
fn a_run_that_ends_in_the_middle_disturbs_no_other() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    let length = 24 * MIB;
    begin_both(&cluster, other());
    for (stream, from, to) in [(1, 0, 1), (2, 1, 0)] {
        pass(&mut cluster, RUN_STEP + stream, from, to, ENDLESS);
        pass(&mut cluster, stream, from, to, length);
    }
    for node in 0..2 {
        until_sent(&cluster, node, other(), 2 * MIB);
    }
    for (function, node) in [(1, 0), (101, 1), (2, 1), (102, 0)] {
        cluster.kill(node, RUN_STEP + function);
    }
    (0..2).for_each(|node| cluster.tell_end(node, other()));
    let sent = [0, 1].map(|node| cluster.sum(node, other()).values().map(|traffic| traffic.sent).sum::<u64>());
    (0..2).for_each(|node| cluster.await_end(node, other()));
    cluster.until_idle();
    for (node, sent) in sent.into_iter().enumerate() {
        let link = cluster.link(node, 1 - node);
        let own = cluster.sum(node, RUN)[&NodeId(1 - node as u32)];
        assert_eq!((own.sent, own.received), (length, length), "at node {node}");
        assert_eq!(link.total().sent, length + sent, "nothing of the other run is sent after its end");
        assert_eq!((link.violations, link.paths), (0, 1));
        assert!(cluster.failures(node).is_empty(), "{:?}", cluster.failures(node));
    }
    cluster.until_crossing(0, 1, 0);
    cluster.finish();
}

#[test]
fn a_run_may_leave_a_peer_without_disturbing_others() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    begin_both(&cluster, other());
    pass(&mut cluster, RUN_STEP + 1, 0, 1, ENDLESS);
    until_sent(&cluster, 0, other(), MIB);
    cluster.tell(0, Command::Leave(NodeId(1), other()));
    // The other node's import has ended; the run itself goes on at both.
    cluster.until_crossing(0, 1, 0);
    for (function, node) in [(1, 0), (101, 1)] {
        cluster.kill(node, RUN_STEP + function);
    }
    pass(&mut cluster, 1, 0, 1, 8 * MIB);
    pass(&mut cluster, 2, 1, 0, 8 * MIB);
    cluster.until_idle();
    assert!((0..2).all(|node| cluster.failures(node).is_empty()));
    assert!([0, 1].into_iter().all(|node| cluster.link(node, 1 - node).violations == 0));
    (0..2).for_each(|node| cluster.end(node, other()));
    cluster.finish();
}

#[test]
fn a_run_may_end_on_the_writing_node_first() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    begin_both(&cluster, other());
    pass(&mut cluster, RUN_STEP + 1, 0, 1, ENDLESS);
    until_sent(&cluster, 0, other(), MIB);
    cluster.kill(0, RUN_STEP + 1);
    cluster.end(0, other());
    // Its reader on the other node waits: the stream was not complete.
    cluster.until_crossing(0, 1, 0);
    // What is imported only now has nowhere to come from, and is no violation.
    cluster.open(&[RUN_STEP + 2], 1, Some(RUN_STEP + 102));
    cluster.import(&[RUN_STEP + 2], 0, 1);
    cluster.until_crossing(0, 1, 1);
    cluster.kill(1, RUN_STEP + 101);
    cluster.end(1, other());
    cluster.until_crossing(0, 1, 0);
    pass(&mut cluster, 1, 0, 1, MIB);
    cluster.until_idle();
    assert!((0..2).all(|node| cluster.failures(node).is_empty()));
    cluster.finish();
}

#[test]
fn a_run_may_end_on_the_reading_node_first() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    begin_both(&cluster, other());
    pass(&mut cluster, RUN_STEP + 1, 0, 1, ENDLESS);
    until_sent(&cluster, 0, other(), MIB);
    cluster.kill(1, RUN_STEP + 101);
    cluster.end(1, other());
    // The producer is told that nobody reads its stream any more.
    cluster.until(0, |node| node.is_gone(RUN_STEP + 1));
    cluster.until_crossing(0, 1, 0);
    // What is exported only now has nobody to go to.
    cluster.open(&[RUN_STEP + 2], 0, None);
    cluster.export(&[RUN_STEP + 2], 0, 1);
    cluster.end(0, other());
    cluster.kill(0, RUN_STEP + 1);
    pass(&mut cluster, 1, 0, 1, MIB);
    cluster.until_idle();
    assert!((0..2).all(|node| cluster.failures(node).is_empty()));
    cluster.finish();
}

#[test]
fn a_subscription_waits_until_the_run_begins_on_the_other_node() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    let stream = RUN_STEP + 1;
    cluster.begin(1, other());
    cluster.open(&[stream], 1, Some(stream + 100));
    cluster.import(&[stream], 0, 1);
    read(&cluster, stream, 1, 3 * MIB);
    cluster.until_crossing(0, 1, 1);
    cluster.begin(0, other());
    cluster.open(&[stream], 0, None);
    cluster.export(&[stream], 0, 1);
    write(&cluster, stream, 0, 3 * MIB);
    cluster.finish();
}

#[test]
fn the_channel_of_a_run_is_closed_only_when_nothing_can_land_any_more() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    begin_both(&cluster, other());
    pass(&mut cluster, RUN_STEP + 1, 0, 1, ENDLESS);
    until_sent(&cluster, 0, other(), 4 * MIB);
    cluster.kill(1, RUN_STEP + 101);
    cluster.freeze(true);
    cluster.tell_end(1, other());
    // The writing node has not said yet that it writes no more.
    cluster.on(1, |node| assert!(!node.is_detached(other())));
    let late = cluster.sum(1, other());
    cluster.freeze(false);
    cluster.await_end(1, other());
    assert_eq!(cluster.sum(1, other()), late, "late bytes are of no interest any more");
    cluster.kill(0, RUN_STEP + 1);
    cluster.end(0, other());
    cluster.finish();
}

#[test]
fn a_run_whose_channel_fails_disturbs_no_other() {
    for broken in 0..2 {
        let mut cluster = Cluster::new(2, 64 * MIB);
        let length = 16 * MIB;
        begin_both(&cluster, other());
        for (stream, from, to) in [(1, 0, 1), (2, 1, 0)] {
            pass(&mut cluster, RUN_STEP + stream, from, to, ENDLESS);
            pass(&mut cluster, stream, from, to, length);
        }
        until_sent(&cluster, broken, other(), MIB);
        cluster.on(broken, |node| node.hang_up(dflow_testkit::node::carrier_of(other())));
        cluster.until_reported(broken, "RunFailed");
        cluster.until(broken, |node| node.is_detached(other()));
        // A command that crosses the report is of no interest any more.
        cluster.open(&[RUN_STEP + 3], broken, None);
        cluster.export(&[RUN_STEP + 3], broken, 1 - broken);
        for (function, node) in [(1, 0), (101, 1), (2, 1), (102, 0)] {
            cluster.kill(node, RUN_STEP + function);
        }
        cluster.end(1 - broken, other());
        cluster.until_idle();
        assert_eq!(cluster.failures(broken).len(), 1, "{:?}", cluster.failures(broken));
        assert!(cluster.failures(1 - broken).is_empty(), "{:?}", cluster.failures(1 - broken));
        cluster.finish();
    }
}

#[test]
fn a_run_whose_store_does_not_answer_holds_up_no_other() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    let (silent, channel) = pair().expect("two descriptors");
    cluster.tell(0, Command::Begin(other(), channel));
    pass(&mut cluster, 1, 0, 1, 3 * MIB);
    cluster.until(1, dflow_testkit::node::Node::is_idle);
    cluster.tell_end(0, other());
    let end = dflow_shm::channel::receive(silent.as_fd(), &mut [0; 64], true);
    assert!(matches!(end, Ok((0, _))), "{end:?}");
    cluster.until_idle();
    assert!(cluster.failures(0).is_empty(), "{:?}", cluster.failures(0));
    cluster.finish();
}

#[test]
fn a_carrier_ends_although_it_waits_for_the_store_of_a_run() {
    let mut cluster = Cluster::new(1, 64 * MIB);
    let carrier = dflow_testkit::node::carrier_of(other());
    let channel = cluster.on(0, move |node| {
        node.admit(other());
        let channel = node.attach(other());
        // The message that this announces never comes.
        node.ring_in_vain(carrier);
        channel
    });
    cluster.tell(0, Command::Begin(other(), channel));
    // Between its hello and that wait, the carrier looks at no command.
    cluster.until(0, move |node| {
        node.events.iter().any(|event| matches!(event, StoreEvent::Ready(process) if *process == carrier))
    });
    cluster.finish();
    let failures = cluster.failures(0);
    assert!(matches!(&failures[..], [failure] if failure.starts_with("RunFailed")), "{failures:?}");
}

#[test]
fn a_carrier_that_fails_says_so_and_closes_its_channels() {
    let (say, heard) = std::sync::mpsc::channel();
    let carrier = Carrier::start(1, move |report| say.send(report).expect("the test listens")).expect("a thread");
    let (own, channel) = pair().expect("two descriptors");
    carrier.tell(Command::Begin(RUN, channel));
    carrier.tell(Command::Connect(NodeId(1), Box::new(Broken), 1));
    assert!(heard.iter().any(|report| matches!(report, Report::Failed(_))));
    let end = dflow_shm::channel::receive(own.as_fd(), &mut [0; 64], true);
    assert!(matches!(end, Ok((0, _))), "{end:?}");
    carrier.finish();
}

/// A path with a bug.
struct Broken;

impl dflow_transport::Path for Broken {
    fn kind(&self) -> PathKind {
        PathKind::Sim
    }

    fn send(&mut self, _: &PeerMessage) -> Result<(), PathError> {
        panic!("a bug");
    }

    fn offer(&mut self, _: FlowId, _: GrantId, _: &Arc<Landing>) -> Result<RemoteWindow, PathError> {
        Ok(RemoteWindow::default())
    }

    fn withdraw(&mut self, _: FlowId) {}

    fn has_room(&self) -> bool {
        false
    }

    fn write(&mut self, _: &Order, _: Chunk) -> Result<(), PathError> {
        Ok(())
    }

    fn finish(&mut self, _: FlowId) {}

    fn poll(&mut self, _: &mut Vec<PathEvent>) {}
}

#[test]
fn a_peer_that_was_forgotten_is_connected_anew() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    for (stream, from, to) in [(1, 0, 1), (2, 1, 0)] {
        pass(&mut cluster, stream, from, to, ENDLESS);
        until_sent(&cluster, from, RUN, MIB);
    }
    cluster.forget_peer(0, 1);
    for (function, node) in [(1, 0), (101, 1), (2, 1), (102, 0)] {
        cluster.kill(node, function);
    }
    assert_eq!(cluster.link(0, 1).paths, 1, "the last figures were reported before");
    // The other node may have forgotten nothing.
    cluster.connect(0, 1);
    for (stream, from, to) in [(3, 0, 1), (4, 1, 0)] {
        pass(&mut cluster, stream, from, to, 3 * MIB);
    }
    cluster.until_crossing(0, 1, 0);
    cluster.until_idle();
    for node in 0..2 {
        assert_eq!(cluster.link(node, 1 - node).violations, 0);
    }
    cluster.finish();
}

#[test]
fn a_peer_that_is_silent_for_longer_than_it_may_be_loses_its_path() {
    let cluster = Cluster::new(2, 64 * MIB);
    cluster.sum(0, RUN);
    assert!(cluster.failures(0).is_empty());
    cluster.freeze(true);
    cluster.tell(0, Command::Silence(NodeId(1), Duration::from_millis(200)));
    cluster.until_reported(0, "Path(NodeId(1), 1, PathLost");
    assert!(cluster.failures(1).is_empty(), "the other node has more patience");
}

#[test]
fn hundreds_of_runs_leave_nothing_behind() {
    const RUNS: u32 = 100;
    let mut cluster = Cluster::new(2, 256 * MIB);
    let mut left = Vec::new();
    for _ in 0..3 {
        let runs: Vec<u32> = (1..=RUNS).map(|run| run * RUN_STEP).collect();
        for &run in &runs {
            begin_both(&cluster, run_of(run));
            pass(&mut cluster, run + 1, 0, 1, 100_000);
            // It stays open.
            cluster.cross(run + 2, 1, 0, &[(run + 102, 0)]);
        }
        cluster.until_idle();
        for &run in &runs {
            let traffic = cluster.sum(0, run_of(run))[&NodeId(1)];
            assert_eq!((traffic.sent, traffic.streams_in), (100_000, 1), "{traffic:?}");
            (0..2).for_each(|node| cluster.tell_end(node, run_of(run)));
            (0..2).for_each(|node| cluster.await_end(node, run_of(run)));
        }
        cluster.until_crossing(0, 1, 0);
        cluster.until_crossing(1, 0, 0);
        for node in 0..2 {
            let usage = cluster.on(node, |node| node.store.usage());
            assert_eq!(usage.memory, 0, "{usage:?}");
        }
        left.push(Held::now(&cluster));
    }
    assert_eq!(left[2], left[1]);
    cluster.finish();
}

/// What the process holds that the kernel counts.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    watchers: usize,
    mappings: usize,
}

impl Held {
    /// What it holds when everything that ends has ended.
    fn now(cluster: &Cluster) -> Self {
        let of_runs = || {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("this process");
            let kinds = ["dflow-control", "dflow-arena", "dflow-bells"];
            maps.lines().filter(|line| kinds.iter().any(|kind| line.contains(kind))).count()
        };
        // On each node the first run's control page and the page of bells, in carrier and store, and its arena. Watchers let
        // go of theirs a little later than the carrier.
        const FIRST: usize = 2 * 5;
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while of_runs() > FIRST && std::time::Instant::now() < deadline {
            cluster.sum(0, RUN);
        }
        assert!(of_runs() <= FIRST, "{} mappings are left", of_runs());
        let count = |dir: &str, holds: &dyn Fn(&Path) -> bool| {
            std::fs::read_dir(dir).expect("this process").flatten().filter(|entry| holds(&entry.path())).count()
        };
        let is_watcher = |path: &Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "watch\n");
        // Windows stay warm for other runs.
        let is_window =
            |path: &Path| path.read_link().is_ok_and(|link| link.to_string_lossy().contains("dflow-window"));
        Self {
            descriptors: count("/proc/self/fd", &|path| !is_window(path)),
            watchers: count("/proc/self/task", &is_watcher),
            mappings: of_runs(),
        }
    }
}

#[test]
fn the_figures_of_runs_add_up_to_those_of_their_link() {
    let mut cluster = Cluster::new(2, 64 * MIB);
    begin_both(&cluster, other());
    pass(&mut cluster, 1, 0, 1, 3 * MIB);
    pass(&mut cluster, RUN_STEP + 1, 0, 1, 5 * MIB);
    pass(&mut cluster, RUN_STEP + 2, 1, 0, MIB);
    cluster.cross(RUN_STEP + 3, 0, 1, &[(RUN_STEP + 103, 0)]);
    cluster.until_idle();
    cluster.until_crossing(0, 1, 1);
    let figures = |node: usize, run| cluster.sum(node, run)[&NodeId(1 - node as u32)];
    let first = RunTraffic { sent: 3 * MIB, ..RunTraffic::default() };
    let second = RunTraffic { sent: 5 * MIB, received: MIB, streams_in: 0, streams_out: 1 };
    assert_eq!((figures(0, RUN), figures(0, other())), (first, second));
    let mirrored = |traffic: RunTraffic| RunTraffic {
        sent: traffic.received,
        received: traffic.sent,
        streams_in: traffic.streams_out,
        streams_out: traffic.streams_in,
    };
    assert_eq!((figures(1, RUN), figures(1, other())), (mirrored(first), mirrored(second)));
    let link = cluster.link(0, 1);
    assert_eq!((link.total().sent, link.total().received), (8 * MIB, MIB));
    cluster.finish();
}
