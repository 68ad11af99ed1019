//! Short runs of the program: the report has every promised figure.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The report of a run.
fn run(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_dflow-bench"))
        .args(arguments)
        .args(["--quick", "--repeats", "1", "--format", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All rows of all tables.
fn rows(report: &Value) -> Vec<&Value> {
    report["tables"].as_array().unwrap().iter().flat_map(|table| table["rows"].as_array().unwrap()).collect()
}

fn assert_measured(row: &Value, figure: &str) {
    let measured = row["figures"][figure].as_f64();
    assert!(measured.is_some_and(|figure| figure > 0.0), "{figure} of {row}");
}

#[test]
fn a_handoff_is_reported_with_its_histograms() {
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().to_str().unwrap();
    let report = run(&["handoff", "--sizes", "64,4K", "--only", "atomic,futex,unix", "--hlog", log]);
    assert!(report["topology"]["model"].is_string());
    let rows = rows(&report);
    assert_eq!(rows.len(), 8);
    for row in rows {
        for figure in ["p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "p99_99_ns", "max_ns", "p50_over_limit"] {
            assert_measured(row, figure);
        }
    }
    for name in ["handoff-atomic-64", "handoff-futex-4096", "handoff-unix-socket-64"] {
        assert!(Path::new(log).join(format!("{name}.hlog")).is_file(), "{name}");
    }
}

#[test]
fn a_stream_is_compared_with_one_core() {
    let report = run(&["stream", "--sizes", "64K", "--only", "one-core,unix"]);
    let rows = rows(&report);
    assert_eq!(rows.len(), 3);
    for row in rows {
        assert_measured(row, "bytes_per_second");
        assert_measured(row, "of_one_core");
    }
}

#[test]
fn runs_that_do_nothing_are_measured_alone_and_many_at_once() {
    let report = run(&["runs"]);
    let rows = rows(&report);
    let [alone, many] = [6, 6];
    assert_eq!(rows.len(), alone + many);
    for row in &rows[..alone] {
        assert_measured(row, "p50_ns");
        assert_measured(row, "p50_over_limit");
        if row["subject"] == "dflow-run" {
            assert_measured(row, "first_ready_p50_ns");
        }
    }
    rows[alone..].iter().for_each(|row| assert_measured(row, "runs_per_second"));
}

#[test]
fn a_fanout_is_measured_paced_and_unpaced() {
    let report = run(&["fanout", "--only", "bare"]);
    assert_eq!(rows(&report).len(), 7);
    for row in rows(&report) {
        let figures = row["figures"].as_object().unwrap();
        assert!(figures.values().all(|figure| figure.as_f64().is_some_and(|figure| figure >= 0.0)), "{row}");
    }
}

#[test]
fn the_smallest_program_reports_the_time_of_its_first_instruction() {
    let report = run(&["invoke", "--only", "smallest"]);
    assert_measured(rows(&report)[0], "p50_ns");
    assert_measured(rows(&report)[1], "instances_per_second");
}

#[test]
fn a_real_daemon_starts_functions() {
    let logs = tempfile::tempdir().unwrap();
    let report = run(&["invoke", "--only", "dflow", "--hlog", logs.path().to_str().unwrap()]);
    let rows = rows(&report);
    assert_eq!(rows.len(), 6);
    for row in &rows[..3] {
        assert_measured(row, "p99_99_ns");
        let log = format!("invoke-{}.hlog", row["subject"].as_str().unwrap());
        assert!(logs.path().join(&log).is_file(), "{log}");
    }
    for row in &rows[3..] {
        assert_measured(row, "instances_per_second");
    }
}

#[test]
fn a_real_daemon_keeps_a_stream() {
    let report = run(&["stream", "--sizes", "64K", "--only", "dflow-node"]);
    let rows = rows(&report);
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_measured(row, "bytes_per_second");
    }
}

#[test]
fn a_real_daemon_carries_many_streams() {
    let report = run(&["fanout", "--only", "dflow,tmpfs"]);
    let rows = rows(&report);
    let many: Vec<_> = rows.iter().filter(|row| row["case"].as_str().unwrap().starts_with("1000 of")).collect();
    assert_eq!(many.len(), 2);
    for row in many {
        assert_measured(row, "streams_per_second");
        assert_measured(row, "time_over_limit");
    }
}

#[test]
fn streams_round_trips_and_set_up_over_quic_are_compared_with_bare_quinn() {
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().to_str().unwrap();
    let report = run(&["quic", "--sizes", "1M", "--only", "quinn,dflow,tcp", "--hlog", log]);
    let rows = rows(&report);
    let of = |case: &str, subject: &str| {
        let found = rows.iter().find(|row| row["case"] == case && row["subject"] == subject);
        *found.unwrap_or_else(|| panic!("no {subject} in {case}"))
    };
    for subject in ["quinn-tuned", "dflow", "tcp"] {
        for figure in ["bytes_per_second", "of_limit", "cpu_ns_per_gib", "cpu_over_limit"] {
            assert_measured(of("1 MiB, loopback", subject), figure);
        }
        for case in ["a round trip, loopback", "a connection, loopback"] {
            assert_measured(of(case, subject), "p50_over_limit");
        }
    }
    assert_measured(of("1 MiB, loopback", "quinn-handed"), "of_limit");
    assert_measured(of("a round trip, loopback", "dflow-messages"), "p99_ns");
    assert_measured(of("a stream, loopback", "dflow"), "p50_over_limit");
    for name in ["quic-trip-loopback-dflow", "quic-connection-loopback-quinn-tuned", "quic-open-loopback-dflow"] {
        assert!(logs.path().join(format!("{name}.hlog")).is_file(), "{name}");
    }
}

/// Requires root, for network namespaces.
#[test]
fn networks_with_and_without_a_cap_are_measured_side_by_side() {
    let report = run(&["quic", "--sizes", "1M", "--only", "tcp", "--cap", "100mbit"]);
    let rows = rows(&report);
    let rate = |case: &str| {
        let row = rows.iter().find(|row| row["case"] == case).unwrap_or_else(|| panic!("no {case}: is this root?"));
        row["figures"]["bytes_per_second"].as_f64().unwrap_or_else(|| panic!("{row}"))
    };
    let (free, capped) = (rate("1 MiB, veth"), rate("1 MiB, veth, 100mbit"));
    assert!(capped < free, "{capped} with a cap, {free} without");
}

#[test]
fn a_stream_to_four_nodes_leaves_its_producer_once() {
    let logs = tempfile::tempdir().unwrap();
    let report =
        run(&["nodes", "--sizes", "4M", "--only", "quinn,dflow,paper", "--hlog", logs.path().to_str().unwrap()]);
    let rows = rows(&report);
    let ours = |case: &str| {
        let found = rows.iter().find(|row| row["case"] == case && row["subject"] == "dflow-nodes");
        *found.unwrap_or_else(|| panic!("no case {case}"))
    };
    for case in ["4 MiB to another node", "4 MiB to 4 nodes"] {
        for figure in ["bytes_per_second", "of_limit", "cpu_ns_per_gib"] {
            assert_measured(ours(case), figure);
        }
        let sent = ours(case)["figures"]["sent_by_producer_of_stream"].as_f64().unwrap();
        assert!((1.0..1.5).contains(&sent), "{sent} times, {case}");
    }
    for (case, file) in [("100 KB", "100kb"), ("100 MB", "100mb")] {
        for figure in ["put_p50_ns", "get_p50_ns", "put_to_got_of_paper"] {
            assert_measured(ours(case), figure);
        }
        assert!(logs.path().join(format!("nodes-put-{file}-dflow-nodes.hlog")).is_file(), "{case}");
    }
}

#[test]
fn a_wrong_size_is_rejected() {
    let output = Command::new(env!("CARGO_BIN_EXE_dflow-bench")).args(["handoff", "--sizes", "7"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("multiple of 8"));
}

#[test]
fn plans_are_compared_by_policy() {
    let report = run(&["plan"]);
    let rows = rows(&report);
    assert_eq!(rows.len(), 5 * 6, "four workflows of the paper and a generated one, five policies and the bound");
    let end = |row: &Value| row["figures"]["end_ns"].as_f64().unwrap();
    for rows in rows.chunks(6) {
        let bound = rows.iter().find(|row| row["subject"] == "bound").unwrap();
        let ours = rows.iter().find(|row| row["subject"] == "dflow").unwrap();
        for row in rows {
            assert_measured(row, "planning_ns");
            assert!(end(row) >= end(bound), "{row}");
            // A plan that is worse by less than a prediction is worth would be no fault.
            assert!(end(ours) <= end(row) * 1.01 || row["subject"] == "bound", "{ours} {row}");
        }
    }
}
