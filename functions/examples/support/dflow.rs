//! Runs the real `dflow` for the tests of the examples, which include this file by its path.

use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A run on its way.
pub struct Started {
    /// The process of `dflow`; its standard input is a pipe.
    pub child: Child,
    results: TempDir,
}

/// A run that has succeeded.
pub struct Run {
    report: Report,
    /// Holds the outputs.
    _results: TempDir,
}

/// The part of the output of `dflow run --format json` that the tests use. The names are those of `RunReport` in
/// `control/worker/src/report.rs`.
#[derive(Deserialize)]
struct Report {
    state: String,
    error: Option<RunError>,
    instances: Vec<Instance>,
    outputs: Vec<RunOutput>,
}

/// Why a run failed.
#[derive(Deserialize)]
pub struct RunError {
    pub instance: Option<String>,
    pub reason: String,
}

/// One attempt of an instance; times in nanoseconds since the run's start.
#[derive(Deserialize)]
pub struct Instance {
    pub name: String,
    pub function: Option<String>,
    pub started_ns: Option<u64>,
    pub first_input_byte_ns: Option<u64>,
    pub first_output_byte_ns: Option<u64>,
    pub ended_ns: Option<u64>,
}

#[derive(Deserialize)]
struct RunOutput {
    name: String,
    path: PathBuf,
    bytes: u64,
}

/// Starts `dflow run` with these arguments. `dflow` is beside `own`, a program of the example that is tested: cargo
/// builds all programs of the workspace into the same directory.
pub fn start(own: &str, arguments: &[&str]) -> Started {
    let dflow = Path::new(own).with_file_name("dflow");
    assert!(dflow.exists(), "there is no {}: build it with 'cargo build --workspace --bins'", dflow.display());
    let results = tempfile::tempdir().unwrap();
    let child = Command::new(dflow)
        .arg("run")
        .args(arguments)
        .args(["--format", "json", "--output"])
        .arg(results.path().join("outputs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Started { child, results }
}

/// The output of a reference script.
pub fn reference(script: &Path, inputs: &[&Path]) -> Vec<u8> {
    let Output { status, stdout, stderr } = Command::new(script).args(inputs).output().unwrap();
    assert!(status.success(), "{} failed: {}", script.display(), String::from_utf8_lossy(&stderr));
    stdout
}

impl Started {
    /// Waits for the run, which must succeed.
    pub fn succeed(self) -> Run {
        let (status, report, stderr) = end(self.child);
        let reason = report.error.map(|error| error.reason).unwrap_or_default();
        assert!(status == Some(0) && report.state == "succeeded", "{status:?}, {}: {reason}\n{stderr}", report.state);
        let report = Report { error: None, ..report };
        for instance in &report.instances {
            instance.check();
        }
        Run { report, _results: self.results }
    }

    /// Waits for the run, which must fail without leaving anything behind, and returns the reason.
    pub fn fail(self) -> RunError {
        let (status, report, stderr) = end(self.child);
        assert!(status == Some(1) && report.state == "failed", "{status:?}, {}\n{stderr}", report.state);
        assert_eq!(self.results.path().read_dir().unwrap().count(), 0, "a failed run has left something");
        report.error.expect("a failed run says why")
    }
}

fn end(child: Child) -> (Option<i32>, Report, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    match serde_json::from_slice(&stdout) {
        Ok(report) => (status.code(), report, stderr),
        Err(error) => {
            panic!("{status}: no report ({error}) in:\n{}\nstderr:\n{stderr}", String::from_utf8_lossy(&stdout))
        }
    }
}

impl Run {
    /// The bytes of an output that is one file.
    pub fn output(&self, name: &str) -> Vec<u8> {
        let output = self.report.outputs.iter().find(|output| output.name == name).expect(name);
        let bytes = std::fs::read(&output.path).unwrap();
        assert_eq!(bytes.len() as u64, output.bytes, "the size of {name}");
        bytes
    }

    /// The instances of a function.
    pub fn instances(&self, function: &str) -> Vec<&Instance> {
        let of_function = |instance: &&Instance| instance.function.as_deref() == Some(function);
        self.report.instances.iter().filter(of_function).collect()
    }
}

impl Instance {
    /// Its times are in order.
    fn check(&self) {
        for first in [self.first_input_byte_ns, self.first_output_byte_ns] {
            let times = [self.started_ns, first, self.ended_ns];
            assert!(
                times.into_iter().flatten().is_sorted(),
                "{}: started, first byte, ended at {times:?} ns",
                self.name
            );
        }
    }
}
