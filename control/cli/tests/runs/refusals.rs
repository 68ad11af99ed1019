//! Nodes that do not belong to a cluster, and calls that cannot work: each is refused before anything starts.

use crate::nodes::Cluster;
use crate::support::{Case, Ran};
use dflow_transport::quic::ClusterCa;
use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime};

fn case() -> Case {
    Case::new("s: { program: dflow-probe, outputs: [o], params: { bytes: 1000 } }", "{ o: s.o }")
}

/// Makes the identity of a node that held until an hour ago.
fn expire(cluster: &Cluster, node: &str) {
    let authority = ClusterCa::load(&cluster.identity("authority")).unwrap();
    let ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
    authority.issue_between(node, ago(2), ago(1)).unwrap().save(&cluster.identity(node)).unwrap();
}

/// Runs it on whatever answers as b.
fn run_on_b(cluster: &Cluster) -> Ran {
    let case = case();
    let ran = cluster.run(&case, &["s=b"], &[]);
    assert!(!case.path("out").exists());
    ran
}

#[test]
fn a_worker_of_another_cluster() {
    let other = Cluster::without_workers(&["b"]);
    let mut cluster = Cluster::without_workers(&["a"]);
    cluster.start_as("b", &other.identity("b"), &[]);
    run_on_b(&cluster).refused(&["node b", "another cluster"]);
    let log = cluster.log("b");
    assert!(log.contains("refused a connection"), "{log}");
}

#[test]
fn a_worker_whose_certificate_has_expired() {
    let mut cluster = Cluster::without_workers(&["a"]);
    expire(&cluster, "b");
    cluster.start("b", &[]);
    run_on_b(&cluster).refused(&["node b", "expired"]);
    let log = cluster.log("b");
    assert!(log.contains("refused a connection"), "{log}");
}

#[test]
fn a_driver_whose_certificate_has_expired() {
    let mut cluster = Cluster::without_workers(&["b"]);
    expire(&cluster, "a");
    cluster.start("b", &[]);
    run_on_b(&cluster).refused(&["node b", "expired"]);
    let log = cluster.log("b");
    assert!(log.contains("refused a connection") && log.contains("expired"), "{log}");
}

#[test]
fn a_worker_with_another_name() {
    let mut cluster = Cluster::without_workers(&["a", "c"]);
    cluster.start_as("b", &cluster.identity("c"), &[]);
    run_on_b(&cluster).refused(&["node b", "only valid for", "\"c\""]);
    let log = cluster.log("b");
    assert!(log.contains("refused a connection"), "{log}");
}

#[test]
fn an_address_where_nobody_listens() {
    let cluster = Cluster::without_workers(&["a", "b"]);
    // Somebody is there who does not answer, and then nobody.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let identity = cluster.identity("a").display().to_string();
    let with = format!("b={address}");
    for silent in [Some(silent), None] {
        drop(silent);
        let (case, start) = (case(), Instant::now());
        let ran = case.run(&["--identity", &identity, "--with", &with, "--place", "s=b", "--silence", "1s"]);
        ran.refused(&["node b", &address.to_string()]);
        assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
        assert!(!case.path("out").exists());
    }
}

#[test]
fn placements_that_name_nothing() {
    let cluster = Cluster::new(&["b"]);
    let case = case();
    cluster.run(&case, &["s=b,x"], &[]).refused(&["'s'", "'x'", "'a', 'b'"]);
    cluster.run(&case, &["y=b"], &[]).refused(&["'y'", "s"]);
    cluster.run(&case, &["s"], &[]).refused(&["FUNCTION=NODE"]);
    cluster.run(&case, &["s=b"], &["--with", "c"]).refused(&["NAME=ADDRESS:PORT"]);
    cluster.run(&case, &["s=b"], &["--with", "c=nowhere"]).refused(&["'nowhere'", "'c'", "ADDRESS:PORT"]);
    assert!(!case.path("out").exists());
    assert!(!cluster.log("b").contains("a run begins"), "a call that is wrong concerns no other node");
    cluster.run(&case, &["s=b"], &[]).succeeded();
}

#[test]
fn nodes_that_are_named_twice_or_are_the_driver_itself() {
    let cluster = Cluster::new(&["b"]);
    let case = case();
    let address = cluster.args(&[]).into_iter().find_map(|arg| Some(arg.strip_prefix("b=")?.to_owned())).unwrap();
    cluster.run(&case, &[], &["--with", &format!("b={address}")]).refused(&["'b'", "twice"]);
    cluster.run(&case, &[], &["--with", &format!("a={address}")]).refused(&["'a'", "itself"]);
    assert!(!case.path("out").exists());
}

#[test]
fn an_identity_that_is_not_there() {
    let cluster = Cluster::without_workers(&["a"]);
    let case = case();
    let missing = cluster.path("nowhere").display().to_string();
    case.run(&["--identity", &missing, "--with", "b=127.0.0.1:1"]).refused(&["nowhere", "node.pem"]);
    assert!(!case.path("out").exists());
}
