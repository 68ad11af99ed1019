//! Nodes that do not belong to a cluster, and invalid arguments: each is refused before anything starts.

use crate::nodes::Cluster;
use crate::support::{Case, Ran};
use serde_json::Value;
use std::net::UdpSocket;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn case() -> Case {
    Case::new("s: { program: dflow-probe, outputs: [o], params: { bytes: 1000 } }", "{ o: s.o }")
}

/// Runs it as node a, with these options.
fn run_with(cluster: &Cluster, args: &[&str]) -> Ran {
    let (case, own) = (case(), cluster.identity("a").display().to_string());
    let ran = case.run(&[&["--identity", &own], args].concat());
    assert!(!case.path("out").exists());
    ran
}

/// A call of the program.
fn dflow(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dflow")).args(args).output().unwrap()
}

/// Runs it on the node that answers as b.
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
    cluster.logs("b", &["refused a connection"]);
}

#[test]
fn a_worker_whose_certificate_has_expired() {
    let cluster = Cluster::without_workers(&["a"]);
    let b = cluster.listen_expired("b");
    let ran = run_with(&cluster, &["--with", &format!("b={}", b.local_address())]);
    ran.refused(&["node b", "expired", "help: ", "dflow cluster add DIR --node b"]);
}

#[test]
fn a_driver_whose_certificate_has_expired() {
    let cluster = Cluster::new(&["b"]);
    cluster.issue("a", -2, -1);
    let own = cluster.identity("a").display().to_string();
    run_on_b(&cluster).refused(&["node a", &own, "expired 1 day ago", "dflow cluster add DIR --node a"]);
    assert_eq!(cluster.log("b"), "", "it concerns no other node");
    // A driver that tries anyway is refused.
    let output = dflow(&["doctor", "--identity", &own, "--peer", &format!("b={}", cluster.address("b"))]);
    assert_eq!(output.status.code(), Some(1));
    cluster.logs("b", &["refused a connection", "expired"]);
}

#[test]
fn a_worker_with_an_invalid_certificate_does_not_start() {
    let cluster = Cluster::without_workers(&["b"]);
    let identity = cluster.identity("b").display().to_string();
    for (from, until, expected) in [(-3, -2, "expired 2 days ago"), (2, 9, "does not hold before 1 day from now")] {
        cluster.issue("b", from, until);
        let output = dflow(&["worker", "--listen", "127.0.0.1:0", "--rdma", "off", "--identity", &identity]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{text}");
        assert!(
            [expected, &identity, "dflow cluster add DIR --node b"].iter().all(|word| text.contains(word)),
            "{text}"
        );
    }
}

#[test]
fn certificates_that_expire_soon_are_announced() {
    let mut cluster = Cluster::without_workers(&["a", "b"]);
    for node in ["a", "b"] {
        cluster.issue(node, -300, 5);
    }
    cluster.start("b", &[]);
    let case = case();
    let ran = cluster.run(&case, &["s=b"], &[]);
    ran.succeeded();
    for (node, text) in [("a", &ran.stderr), ("b", &cluster.log("b"))] {
        let expected = format!("note: the certificate of node {node} in {}", cluster.identity(node).display());
        assert!(text.contains(&expected) && text.contains("expires in 4 days"), "{text}");
    }
}

#[test]
fn a_named_rdma_device_that_does_not_exist() {
    let cluster = Cluster::new(&["b"]);
    let expected = ["'nosuch0'", "--rdma", "no RDMA device"];
    let ran = run_with(&cluster, &["--with", &format!("b={}", cluster.address("b")), "--rdma", "nosuch0"]);
    ran.refused(&expected);
    let identity = cluster.identity("b").display().to_string();
    let output = dflow(&["worker", "--listen", "127.0.0.1:0", "--rdma", "nosuch0", "--identity", &identity]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(expected.iter().all(|word| text.contains(word)), "{text}");
    // Without other nodes, it uses no RDMA.
    case().run(&["--rdma", "nosuch0"]).succeeded();
}

#[test]
fn a_worker_with_another_name() {
    let mut cluster = Cluster::without_workers(&["a", "c"]);
    cluster.start_as("b", &cluster.identity("c"), &[]);
    run_on_b(&cluster).refused(&["node b", "only valid for", "\"c\""]);
    cluster.logs("b", &["refused a connection"]);
}

/// The error is the same as that of `dflow doctor --peer`.
#[test]
fn an_address_without_a_listener() {
    let cluster = Cluster::without_workers(&["a", "b"]);
    // First a listener that does not answer, then none.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let own = cluster.identity("a").display().to_string();
    for (silent, help) in [(Some(silent), "a firewall has to let UDP port"), (None, "start 'dflow worker' on b")] {
        let start = Instant::now();
        let ran = run_with(&cluster, &["--with", &format!("b={address}"), "--place", "s=b", "--silence", "1s"]);
        // It is dialed for five seconds, and once more if that time has not quite ended.
        assert!(start.elapsed() < Duration::from_secs(8), "it took {:?}", start.elapsed());
        ran.refused(&["node b", &address, "help: ", help]);
        assert!(ran.report["error"]["help"][0].as_str().unwrap().contains(help), "{}", ran.report);
        let output = dflow(&["doctor", "--format", "json", "--identity", &own, "--peer", &format!("b={address}")]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let said = ran.report["error"]["help"][0].as_str().unwrap().split("; to wait for a worker").next();
        assert_eq!(report["peers"][0]["problem"]["help"].as_str(), said);
        drop(silent);
    }
}

#[test]
fn nodes_without_functions_are_named() {
    let cluster = Cluster::new(&["b", "c"]);
    let case = case();
    let ran = cluster.run(&case, &[], &[]);
    assert!(ran.succeeded().stderr.contains("note: nothing runs on 'b', 'c'"), "{}", ran.stderr);
    let ran = cluster.run(&case, &["s=b"], &[]);
    assert!(ran.succeeded().stderr.contains("note: nothing runs on 'c'"), "{}", ran.stderr);
    let ran = cluster.run(&case, &["s=b,c"], &[]);
    assert_eq!(ran.succeeded().stderr, "");
    let each = Case::new(
        "s: { program: dflow-probe, outputs: { o: { partition: 3 } }, params: { bytes: 10, parts: 3 } }
         p: { program: dflow-probe, foreach: s.o, outputs: [n] }",
        "{ o: p.n }",
    );
    let ran = cluster.run(&each, &[], &[]);
    let note =
        "note: without --place the instances of 'p' are spread over all nodes, and everything else runs on 'a'\n";
    assert_eq!(ran.succeeded().stderr, note);
}

#[test]
fn placements_that_name_nothing() {
    let cluster = Cluster::new(&["b"]);
    let case = case();
    cluster.run(&case, &["s=b,x"], &[]).refused(&["'s'", "'x'", "'a', 'b'"]);
    cluster.run(&case, &["y=b"], &[]).refused(&["'y'", "s"]);
    cluster.run(&case, &["s"], &[]).refused(&["FUNCTION=NODE"]);
    cluster.run(&case, &["s=b", "s=a"], &[]).refused(&["--place names the function 's' twice", "--place s=a,b"]);
    cluster.run(&case, &["s=b"], &["--with", "C=127.0.0.1:1"]).refused(&["\"C\"", "lower-case"]);
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
    let address = cluster.address("b");
    cluster.run(&case, &[], &["--with", &format!("b={address}")]).refused(&["'b'", "twice"]);
    cluster.run(&case, &[], &["--with", &format!("a={address}")]).refused(&["--with names a", "makes this node a too"]);
    assert!(!case.path("out").exists());
}

#[test]
fn a_missing_identity() {
    let cluster = Cluster::without_workers(&["a"]);
    let case = case();
    let missing = cluster.path("nowhere").display().to_string();
    case.run(&["--identity", &missing, "--with", "b=127.0.0.1:1"]).refused(&["nowhere", "node.pem"]);
    assert!(!case.path("out").exists());
}

#[test]
fn invalid_packets_do_not_fill_the_log() {
    let mut cluster = Cluster::without_workers(&["a", "b"]);
    cluster.start_logging("b", "debug");
    let address = cluster.address("b");
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut packet = [0u8; 1200];
    for number in 0..300u32 {
        // Packets that look like the start of a connection, and packets that look like the middle of one.
        packet[..5].copy_from_slice(if number % 2 == 0 { &[0xc3, 0, 0, 0, 1] } else { &[0x40; 5] });
        packet[6..10].copy_from_slice(&number.to_le_bytes());
        stranger.send_to(&packet, &address).unwrap();
    }
    let own = cluster.identity("a").display().to_string();
    let output = dflow(&["doctor", "--rdma", "off", "--identity", &own, "--peer", &format!("b={address}")]);
    assert_eq!(output.status.code(), Some(0), "it serves others all the same");
    cluster.logs("b", &["a node probes this one"]);
    let log = cluster.log("b");
    assert!(log.lines().count() < 20, "{log}");
}
