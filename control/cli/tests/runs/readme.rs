//! What the README shows first works as it stands.

use std::path::Path;
use std::process::Command;

/// The text of the first block in this language, and what follows it.
fn block<'r>(text: &'r str, language: &str) -> (&'r str, &'r str) {
    let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```\n").unwrap()
}

#[test]
fn the_first_workflow_runs_with_the_commands_below_it() {
    let (workflow, rest) = block(include_str!("../../../../README.md"), "yaml");
    let (commands, _) = block(rest, "sh");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("errors.yaml"), workflow).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_dflow")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-ec", commands]).current_dir(dir.path()).env("PATH", path).env("DFLOW_LOGS", "none");
    let output = shell.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = printed.lines().map(str::trim).collect();
    assert_eq!(lines[lines.len() - 2..], ["2 ERROR disk full", "1 ERROR no route"], "{printed}");
}
