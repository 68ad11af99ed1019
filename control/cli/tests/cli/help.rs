//! Help, version, and invalid arguments.

use crate::harness::Directory;

#[test]
fn every_command_has_help_with_examples_and_exit_status() {
    let directory = Directory::with(&[]);
    for command in
        [&[][..], &["run"], &["check"], &["plan"], &["graph"], &["schema"], &["doctor"], &["completions"], &["man"]]
    {
        let call = directory.call(&[command, &["--help"]].concat());
        assert_eq!(call.status, Some(0), "{call:#?}");
        assert!(call.out.contains("Examples:") && call.out.contains("Exit status:"), "{}", call.out);
        assert!(call.err.is_empty(), "{}", call.err);
    }
}

#[test]
fn help_of_run_states_units_and_defaults() {
    let call = Directory::with(&[]).call(&["run", "--help"]);
    for option in [
        "--input",
        "--param",
        "--output",
        "--slots",
        "--memory",
        "--window",
        "--spill-dir",
        "--spill-io",
        "--containment",
        "--spin",
        "--with",
        "--place",
        "--policy",
        "--bandwidth",
        "--latency",
        "--silence",
        "--rdma",
        "--rdma-idle",
        "--invocation",
        "--format",
        "--trace",
        "--dry-run",
        "--quiet",
        "--wait",
        "--follow",
        "--logs",
        "--log-size",
        "--run-log-size",
        "--keep-runs",
        "--keep-size",
    ] {
        assert!(call.out.contains(option), "{option} is missing in {}", call.out);
    }
    assert!(call.out.contains("powers of 1024") && call.out.contains("50us"), "{}", call.out);
    let defaults = call.out.matches("[default:").count();
    assert_eq!(defaults, 22, "all but inputs, parameters, the trace and the other nodes have a default: {}", call.out);
}

#[test]
fn version() {
    let call = Directory::with(&[]).call(&["--version"]);
    assert_eq!((call.status, call.out.as_str()), (Some(0), concat!("dflow ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn calls_that_cannot_be_understood() {
    let directory = Directory::with(&[]);
    for args in
        [&[][..], &["rnu"], &["run"], &["run", "w.yaml", "--memory", "much"], &["graph", "w.yaml", "--format", "svg"]]
    {
        let call = directory.call(args);
        assert_eq!(call.status, Some(2), "{call:#?}");
        assert!(call.out.is_empty() && !call.err.is_empty(), "{call:#?}");
    }
    let call = directory.call(&["run", "w.yaml", "--memory", "much", "--format", "json"]);
    assert_eq!(call.status, Some(2));
    let reason = call.json()["error"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("`much` is not a size") && !reason.starts_with("error"), "{reason}");
}

#[test]
fn a_log_filter_that_is_none() {
    let call = Directory::with(&[]).call_with(&["schema"], &[("DFLOW_LOG", "dflow=loud")]);
    assert_eq!(call.status, Some(2), "{call:#?}");
    assert!(call.err.contains("DFLOW_LOG") && call.err.contains("help: use off"), "{}", call.err);
}
