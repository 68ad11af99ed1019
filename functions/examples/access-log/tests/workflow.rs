//! The workflow under the real `dflow`: the same bytes as the shell pipe.

#[path = "../../support/dflow.rs"]
mod dflow;

use dflow::Started;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const GENERATE: &str = env!("CARGO_BIN_EXE_access-log-generate");

fn start(logs: &[&Path], more: &[&str]) -> Started {
    let workflow = Path::new(env!("CARGO_MANIFEST_DIR")).join("access-log.yaml");
    let inputs: Vec<String> = logs.iter().map(|log| format!("log={}", log.display())).collect();
    let mut arguments = vec![workflow.to_str().unwrap()];
    inputs.iter().for_each(|input| arguments.extend(["--input", input]));
    arguments.extend(more);
    dflow::start(GENERATE, &arguments)
}

/// Runs the workflow on some logs and compares its output with the output of the shell pipe.
fn compare(logs: &[&Path], more: &[&str]) -> String {
    let run = start(logs, more).succeed();
    for (function, count) in [("decompress", logs.len()), ("sort", logs.len()), ("merge", 1), ("top", 1)] {
        assert_eq!(count, run.instances(function).len(), "instances of {function}");
    }
    let top = String::from_utf8(run.output("top")).unwrap();
    let expected = dflow::reference(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reference.sh"), logs);
    assert_eq!(top, String::from_utf8(expected).unwrap());
    top
}

fn compress(log: &Path) -> PathBuf {
    let status = Command::new("gzip").arg("-1").arg(log).status().unwrap();
    assert!(status.success(), "gzip failed: {status}");
    log.with_added_extension("gz")
}

/// Two logs of different lengths, compressed.
fn logs(folder: &TempDir) -> [PathBuf; 2] {
    [("1", "4MB"), ("2", "1500kB")].map(|(seed, bytes)| {
        let log = folder.path().join(format!("access-{seed}.log"));
        let mut generate = Command::new(GENERATE);
        let status = generate.args(["--bytes", bytes, "--seed", seed, "--output"]).arg(&log).status().unwrap();
        assert!(status.success(), "access-log-generate failed: {status}");
        compress(&log)
    })
}

fn compare_two(more: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = logs(&folder);
    let top = compare(&[&one, &other], more);
    assert_eq!(top.lines().count(), 10);
}

#[test]
fn equals_the_pipe() {
    compare_two(&[]);
}

#[test]
fn equals_the_pipe_with_one_slot() {
    compare_two(&["--slots", "1"]);
}

#[test]
fn equals_the_pipe_by_control_flow() {
    compare_two(&["--invocation", "control-flow"]);
}

#[test]
fn one_log_is_a_list_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let [log, _] = logs(&folder);
    compare(&[&log], &[]);
}

#[test]
fn a_log_without_misses_has_no_top() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let line = "10.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"GET /404 HTTP/1.1\" 200 404 \"-\" \"-\"\n";
    std::fs::write(&log, line.repeat(1000)).unwrap();
    assert_eq!(compare(&[&compress(&log)], &[]), "");
}

#[test]
fn a_log_that_is_not_compressed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    std::fs::write(&log, "10.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"GET / HTTP/1.1\" 200 1 \"-\" \"-\"\n").unwrap();
    let error = start(&[&log], &[]).fail();
    assert_eq!(error.instance.as_deref(), Some("decompress[0]"));
    assert!(error.reason.contains("not in gzip format"), "{}", error.reason);
}
