//! `dflow doctor --peer`: the connection between two nodes, and reasons for its absence.

use crate::nodes::Cluster;
use serde_json::Value;
use std::net::UdpSocket;
use std::process::Command;

/// The exit status and report of node a examining these peers.
fn look(cluster: &Cluster, peers: &[(&str, &str)]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_dflow"))
        .args(["doctor", "--format", "json", "--rdma", "off", "--identity"])
        .arg(cluster.identity("a"))
        .args(peers.iter().flat_map(|(name, address)| ["--peer".to_owned(), format!("{name}={address}")]))
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code(), report)
}

/// Examines the peer that answers as b: it cannot be used, for this cause, and the text has these words.
#[track_caller]
fn assert_unusable(cluster: &Cluster, address: &str, cause: &str, words: &[&str]) {
    let (code, report) = look(cluster, &[("b", address)]);
    assert_eq!((code, &report["ok"]), (Some(1), &Value::Bool(false)), "{report:#}");
    let peer = &report["peers"][0];
    assert_eq!(peer["problem"]["cause"], cause, "{peer:#}");
    let finding = &peer["findings"][0];
    assert_eq!((&finding["topic"], &finding["state"]), (&"answer".into(), &"bad".into()), "{peer:#}");
    let text = finding["text"].as_str().unwrap();
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn a_node_that_works() {
    let mut cluster = Cluster::without_workers(&["a", "b", "c"]);
    cluster.issue("b", -1, 31);
    cluster.start("b", &["--slots", "3"]);
    cluster.start("c", &[]);
    let [b, c] = ["b", "c"].map(|node| cluster.worker(node).address.clone());
    let (code, report) = look(&cluster, &[("b", &b), ("c", &c)]);
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)), "{report:#}");
    for (peer, name) in report["peers"].as_array().unwrap().iter().zip(["b", "c"]) {
        assert_eq!((&peer["node"], &peer["release"]), (&name.into(), &env!("CARGO_PKG_VERSION").into()), "{peer:#}");
        assert_eq!(peer["own_certificate_days"], 364, "{peer:#}");
        assert!(peer["round_trip_ns"].as_u64().unwrap() > 0, "{peer:#}");
        assert!(peer["packet_bytes"].as_u64().unwrap() >= 1200, "{peer:#}");
        assert_eq!(peer["quic"]["works"], true, "{peer:#}");
        for direction in ["to_peer_bytes_per_second", "from_peer_bytes_per_second"] {
            assert!(peer["quic"]["rates"][direction].as_u64().unwrap() > 1_000_000, "{peer:#}");
        }
        let rdma = &peer["rdma"];
        assert_eq!(rdma["works"], false, "{peer:#}");
        assert!(rdma["why_not"].as_str().unwrap().contains("switched off"), "{peer:#}");
    }
    let peer = &report["peers"][0];
    assert_eq!((&peer["certificate_days"], &peer["slots"]), (&30.into(), &3.into()), "{peer:#}");
    // It leaves nothing behind: no connection, no memory.
    cluster.assert_idle();
}

#[test]
fn a_certificate_that_expires_soon_is_reported() {
    let mut cluster = Cluster::without_workers(&["a"]);
    cluster.issue("b", -1, 10);
    cluster.start("b", &[]);
    let address = cluster.worker("b").address.clone();
    let (code, report) = look(&cluster, &[("b", &address)]);
    assert_eq!(code, Some(0), "{report:#}");
    let findings = report["peers"][0]["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["topic"] == "certificate").unwrap();
    assert_eq!(finding["state"], "fair", "{finding}");
    assert!(finding["text"].as_str().unwrap().contains("dflow cluster add"), "{finding}");
}

#[test]
fn reasons_for_failed_connections_are_reported_with_remedies() {
    let mut cluster = Cluster::without_workers(&["a", "b", "c"]);
    // First a peer that does not answer, as behind a firewall; then no peer at all.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    assert_unusable(&cluster, &address, "silence", &["no answer within", "firewall"]);
    drop(silent);
    assert_unusable(&cluster, &address, "silence", &["nothing listens on this port", "start 'dflow worker'"]);

    cluster.start_as("b", &cluster.identity("c"), &[]);
    let address = cluster.worker("b").address.clone();
    assert_unusable(&cluster, &address, "name", &["\"c\"", "give the name in the certificate"]);
    cluster.kill("b");

    let other = Cluster::without_workers(&["b"]);
    cluster.start_as("b", &other.identity("b"), &[]);
    let address = cluster.worker("b").address.clone();
    assert_unusable(&cluster, &address, "authority", &["another cluster", "dflow cluster create"]);
    cluster.kill("b");

    let expired = cluster.listen_expired("b");
    let address = expired.local_address().to_string();
    assert_unusable(&cluster, &address, "validity", &["expired", "dflow cluster add DIR --node b"]);

    cluster.issue("b", -1, 100);
    cluster.issue("a", -2, -1);
    cluster.start("b", &[]);
    let address = cluster.worker("b").address.clone();
    assert_unusable(&cluster, &address, "validity", &["expired", "this node's own certificate"]);
}

#[test]
fn invalid_arguments() {
    let cluster = Cluster::without_workers(&["a"]);
    let doctor = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_dflow")).arg("doctor").args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = doctor(&["--peer", "b=127.0.0.1:1"]);
    assert!(code == Some(2) && text.contains("--identity"), "{text}");
    let identity = cluster.identity("a").display().to_string();
    let (code, text) = doctor(&["--identity", &identity, "--peer", "b=nowhere"]);
    assert!(code == Some(2) && text.contains("'nowhere'") && text.contains("ADDRESS:PORT"), "{text}");
    let missing = cluster.identity("x").display().to_string();
    let (code, text) = doctor(&["--identity", &missing, "--peer", "b=127.0.0.1:1"]);
    assert!(code == Some(2) && text.contains("node.pem"), "{text}");
    let (code, _) = doctor(&["--rdma", "nosuch0"]);
    assert_eq!(code, Some(1), "the named device does not exist");
}
