//! `--rdma auto`, the default, without usable RDMA: no device has the address of the loopback, and `dflow` may have been
//! built without the feature `rdma`. `tests/machines` runs with RDMA.

use crate::nodes::Cluster;
use crate::support::{Case, doctor, test_bytes};
use serde_json::Value;
use std::process::Command;

/// Asserts the reason why there is no RDMA.
#[track_caller]
fn assert_reason(why: &Value) {
    let why = why.as_str().unwrap_or_else(|| panic!("no reason: {why}"));
    let known: &[&str] = if cfg!(feature = "rdma") {
        &["no RDMA device: ", "no RDMA device has the address 127.0.0.1"]
    } else {
        &["dflow was built without the feature 'rdma'"]
    };
    assert!(known.iter().any(|reason| why.contains(reason)), "{why}");
}

#[test]
fn streams_use_quic_and_the_run_reports_the_reason() {
    const LENGTH: u64 = 3_000_000;
    let case = Case::new(
        &format!(
            "x: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH} }} }}
             y: {{ program: dflow-probe, inputs: {{ i: x.o }}, outputs: [o], params: {{ check: true }} }}"
        ),
        "{ o: y.o }",
    );
    let cluster = Cluster::by_default(&["b"]);
    let ran = cluster.run(&case, &["x=b", "y=a"], &[]);
    ran.succeeded();
    assert!(case.output("o") == test_bytes(LENGTH));
    let [link] = &ran.report["links"].as_array().unwrap()[..] else { panic!("{}", ran.report["links"]) };
    assert_eq!((&link["path"], &link["bytes_received"]), (&"QUIC".into(), &LENGTH.into()), "{link}");
    assert_reason(&link["why_not_rdma"]);
}

#[test]
fn doctor_reports_the_reason_for_this_machine_and_a_peer() {
    let mut cluster = Cluster::by_default(&["b"]);
    let address = cluster.worker("b").address.clone();
    let output = Command::new(env!("CARGO_BIN_EXE_dflow"))
        .args(["doctor", "--format", "json", "--peer", &format!("b={address}"), "--identity"])
        .arg(cluster.identity("a"))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let peer = &report["peers"][0];
    assert_eq!((&peer["quic"]["works"], &peer["rdma"]["works"]), (&true.into(), &false.into()), "{peer:#}");
    assert_reason(&peer["rdma"]["why_not"]);
    if cfg!(not(feature = "rdma")) {
        let finding = &doctor(":", &[])["RDMA"];
        assert_eq!(finding["state"], "fair", "{finding}");
        assert_reason(&finding["text"]);
        assert!(finding["text"].as_str().unwrap().contains("streams between nodes use QUIC"), "{finding}");
    }
}
