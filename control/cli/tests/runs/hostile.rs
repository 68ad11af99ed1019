//! A node that has a certificate and violates the protocol during a run: it is named and logged, counted, and not
//! dialed again; its run fails, and no other.

use crate::impostor::{Attack, Impostor, Victim};
use crate::metrics::scrape;
use crate::nodes::Cluster;
use crate::support::{Case, eventually, test_bytes};
use dflow_protocol::wire::{FlowId, PeerMessage};
use std::time::{Duration, Instant};

/// A stream without end from one function to another.
fn endless() -> Case {
    Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000, pause_us: 1000 } }
         r: { program: dflow-probe, inputs: { i: s.o }, params: { pause_us: 1000 } }",
        "{}",
    )
}

/// Each violation of the protocol, with words of the reason.
fn attacks() -> Vec<(Attack, &'static str)> {
    let unknown = PeerMessage::Credit { flow: FlowId(1 << 20), received: 0, until: 1 };
    let version = PeerMessage::Begin { version: 4711, life: 1, incarnation: 1, flows: 0 };
    vec![
        (Attack::Message(unknown), "flow 1048576"),
        (Attack::Beginning(version), "version 4711 of the protocol between nodes, this node"),
        (Attack::Management(vec![0xff; 100]), "100 bytes are not a valid message of this version"),
        (Attack::Stream(vec![0xff; 64]), "a stream with a malformed header"),
    ]
}

const VIOLATED: &str = "dflow_connections_violated_total";

/// Runs it with an impostor before c; the reason why it has failed, and how often the impostor was called.
#[track_caller]
fn run_with_impostor(cluster: &mut Cluster, places: &[&str], victim: Victim, attack: &Attack) -> (String, usize) {
    let case = endless();
    let impostor = Impostor::start(cluster, "c", "b", victim, attack.clone());
    let honest = std::mem::replace(&mut cluster.worker("c").address, impostor.address.clone());
    let (running, start) = (cluster.spawn(&case, places), Instant::now());
    let ran = case.finish(running.wait());
    cluster.worker("c").address = honest;
    assert!(start.elapsed() < Duration::from_secs(6), "{attack:?} is noticed after {:?}", start.elapsed());
    // Before the run has begun, or after.
    assert!(matches!(ran.code, Some(1 | 2)), "{attack:?}: {}\n{}", ran.stderr, ran.report);
    (ran.report["error"]["reason"].as_str().unwrap().to_owned(), impostor.calls())
}

/// A cluster in which b, whose name comes first, dials c.
fn two_workers() -> Cluster {
    let mut cluster = Cluster::without_workers(&["a", "b", "c"]);
    for node in ["b", "c"] {
        cluster.start(node, &["--metrics", "127.0.0.1:0"]);
    }
    cluster
}

/// The violation is logged by this worker, and counted so often.
fn is_noticed(cluster: &Cluster, node: &str, peer: &str, why: &str, violations: u32) {
    let peer = format!("node {peer}");
    let is_line = |line: &str| ["WARN", peer.as_str(), why].iter().all(|word| line.contains(word));
    // One line in each second at the most.
    eventually("it is not logged", || cluster.log(node).lines().any(is_line));
    let now = scrape(&cluster.metrics(node));
    assert_eq!(now[VIOLATED], f64::from(violations), "{why}");
}

/// Goes through all attacks while another run goes on on the same nodes: each is named by the run, and noticed by this
/// worker.
fn go_through(victim: Victim, places: &[&str], noticed_by: Option<(&str, &str)>) {
    let mut cluster = two_workers();
    let bystander = Case::new(
        "t: { command: [head, -n1, GATE] }
         s: { program: dflow-probe, outputs: [o], params: { bytes: 3000000 } }
         r: { program: dflow-probe, inputs: { i: s.o, j: { from: t.out, gate: start } }, outputs: [o], params: { order: one-by-one } }",
        "{ o: r.o }",
    );
    let mut gate = bystander.gate();
    let going_on = cluster.spawn(&bystander, &["t=c", "s=b", "r=c"]);
    eventually("the bystander does not begin", || cluster.probes() > 0);

    for (attacks, (attack, why)) in (1u32..).zip(attacks()) {
        let (reason, _) = run_with_impostor(&mut cluster, places, victim, &attack);
        let is_named =
            ["node c is lost: ", "node c does not take part in the run: "].iter().any(|it| reason.contains(it));
        assert!(is_named && reason.contains("the peer broke the protocol: "), "{attack:?}: {reason}");
        assert!(reason.contains(why), "{attack:?}: {reason}");
        if let Some((node, peer)) = noticed_by {
            is_noticed(&cluster, node, peer, why, attacks);
        }
    }
    gate.open();
    bystander.finish(going_on.wait()).succeeded();
    assert!(bystander.output("o")[..3_000_000] == test_bytes(3_000_000));
    cluster.assert_idle();
    goes_well(&cluster);
}

/// The next run between the two workers is not concerned.
fn goes_well(cluster: &Cluster) {
    let case = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 1000000 } }
         r: { program: dflow-probe, inputs: { i: s.o }, outputs: [o] }",
        "{ o: r.o }",
    );
    cluster.run(&case, &["s=b", "r=c"], &[]).succeeded();
    assert!(case.output("o") == test_bytes(1_000_000));
}

#[test]
fn a_worker_that_breaks_the_protocol_towards_another() {
    // Nothing else runs, because all runs share the connection between two workers, and that is to go through the impostor.
    let mut cluster = two_workers();
    for (attacks, (attack, why)) in (1u32..).zip(attacks()) {
        let (reason, called) = run_with_impostor(&mut cluster, &["s=c", "r=b"], Victim::Caller, &attack);
        let words = "node c is lost: node b cannot go on with it: the peer broke the protocol: ";
        assert!(reason.contains(words) && reason.contains(why), "{attack:?}: {reason}");
        // By the driver and by the other worker, which does not try again.
        assert_eq!(called, 2, "{attack:?}");
        is_noticed(&cluster, "b", "c", why, attacks);
    }
    cluster.assert_idle();
    goes_well(&cluster);
}

#[test]
fn a_worker_that_breaks_the_protocol_towards_its_driver() {
    // b takes no part in it, but is connected with c all the same.
    go_through(Victim::Driver, &["s=c", "r=a"], None);
}

#[test]
fn a_driver_that_breaks_the_protocol() {
    go_through(Victim::Worker, &["s=c", "r=a"], Some(("c", "a")));
}

#[test]
fn a_worker_that_always_hangs_up() {
    let mut cluster = Cluster::new(&["c", "b"]);
    let (reason, called) = run_with_impostor(&mut cluster, &["s=c", "r=b"], Victim::Caller, &Attack::HangUp);
    for words in ["node c is lost: node b cannot go on with it: it is unreachable", "not today"] {
        assert!(reason.contains(words), "{reason}");
    }
    assert!((4..20).contains(&called), "it was dialed {called} times");
    cluster.assert_idle();
}
