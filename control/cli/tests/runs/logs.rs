//! What functions print: kept in the record of the run, shown by `dflow logs` and `--follow`, explained in errors.

use crate::nodes::Cluster;
use crate::support::{Case, SmallDisk, eventually};
use serde_json::Value;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The options of a run that leaves a record in the case's directory.
fn recorded(case: &Case) -> [String; 2] {
    ["--logs".into(), case.path("runs").display().to_string()]
}

fn with_record<'a>(options: &'a [String; 2], others: &[&'a str]) -> Vec<&'a str> {
    options.iter().map(String::as_str).chain(others.iter().copied()).collect()
}

/// What `dflow logs` prints of the records of a case.
fn logs(case: &Case, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dflow"))
        .arg("logs")
        .args(args)
        .env("DFLOW_LOGS", case.path("runs"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json_of_logs(case: &Case, args: &[&str]) -> Value {
    serde_json::from_str(&logs(case, &[args, &["--format", "json"]].concat())).unwrap()
}

/// The files of the logs of the only record.
fn files(runs: &Path) -> Vec<PathBuf> {
    let Ok(records) = std::fs::read_dir(runs) else { return Vec::new() };
    records
        .flatten()
        .flat_map(|record| std::fs::read_dir(record.path().join("logs")).into_iter().flatten().flatten())
        .map(|file| file.path())
        .collect()
}

#[test]
fn a_successful_function_leaves_a_log_and_a_silent_one_does_not() {
    let case = Case::new(
        "chatty: { command: [sh, -c, 'echo first >&2; printf last >&2'] }
         silent: { command: ['true'] }",
        "{ a: chatty.out, b: silent.out }",
    );
    let options = recorded(&case);
    let ran = case.run(&with_record(&options, &[]));
    ran.succeeded();
    assert_eq!(logs(&case, &[]), "first\nlast");
    assert_eq!(logs(&case, &["chatty"]), "first\nlast");
    assert_eq!(files(&case.path("runs")).len(), 1, "a silent function costs no file");
    let record = PathBuf::from(ran.report["record"].as_str().unwrap());
    let report: Value = serde_json::from_slice(&std::fs::read(record.join("report.json")).unwrap()).unwrap();
    assert_eq!(report, ran.report);
    let listed = json_of_logs(&case, &["--list"]);
    assert_eq!((&listed["runs"][0]["workflow"], &listed["runs"][0]["state"]), (&"case".into(), &"succeeded".into()));
    assert!(logs(&case, &["--list"]).contains("succeeded"));

    case.run(&["--logs", "none"]).succeeded();
    assert_eq!(json_of_logs(&case, &["--list"])["runs"].as_array().unwrap().len(), 1, "none was wanted");
}

#[test]
fn a_parameter_that_a_function_never_reads_is_in_its_log() {
    let case = Case::new(
        "s: { program: dflow-probe, outputs: [o], params: { bytes: 10, colour: red } }
         e: { command: [cat], inputs: [s.o], params: { unused: 1 } }",
        "{ o: e.out }",
    );
    let options = recorded(&case);
    case.run(&with_record(&options, &[])).succeeded();
    let log = logs(&case, &[]);
    assert!(
        log.starts_with("s: note: it has not read its parameter colour; the parameters that it has read: "),
        "{log}"
    );
    assert_eq!(log.lines().count(), 1, "dflow reads the parameters of a command: {log}");
}

#[test]
fn logs_survive_the_kill_of_dflow() {
    let case = Case::new("a: { command: [sh, -c, 'printf begun >&2; read line < GATE'] }", "{ o: a.out }");
    let _gate = case.gate();
    let options = recorded(&case);
    let mut running = case.spawn(&with_record(&options, &[]));
    let written =
        || files(&case.path("runs")).iter().any(|file| std::fs::read(file).is_ok_and(|text| text == b"begun"));
    eventually("the log is not written as it comes", written);
    assert_eq!(json_of_logs(&case, &["--list"])["runs"][0]["state"], "running");
    running.kill();
    assert_eq!(logs(&case, &["a"]), "begun");
    assert_eq!(json_of_logs(&case, &["--list"])["runs"][0]["state"], "interrupted");
}

#[test]
fn a_failure_shows_the_last_lines_the_file_and_why_attempts_failed() {
    let script = "read x; seq 1 100 >&2; [ $x = good ] || exit 3";
    let case = Case::with_header(
        "inputs: { files: { parts: files } }",
        &format!("qc: {{ command: [sh, -c, '{script}'], foreach: inputs.files, retries: 1 }}"),
        "{ o: qc.out }",
    );
    std::fs::create_dir(case.path("in")).unwrap();
    std::fs::write(case.path("in/a.txt"), "good\n").unwrap();
    std::fs::write(case.path("in/b.txt"), "bad\n").unwrap();
    let (options, input) = (recorded(&case), case.path("in").display().to_string());
    let ran = case.run(&with_record(&options, &["-i", &input]));
    ran.failed("qc[1]", &["exit status 3", "lines before", "\n100"]);
    let file = case.path("in/b.txt").display().to_string();
    assert_eq!(ran.report["error"]["part_name"], file.as_str());
    assert_eq!(ran.attempts("qc[1]")[0]["part_name"], file.as_str());
    for expected in [
        format!("note: attempt 1 of qc[1] ({file}) failed: "),
        format!("error: qc[1] ({file}) failed in attempt 2: "),
        format!("help: its whole standard error: dflow logs --logs {} ", case.path("runs").display()),
    ] {
        assert!(ran.stderr.contains(&expected), "{expected} is not in: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("\n  79\n") && !ran.stderr.contains("retries: 3"), "{}", ran.stderr);
    let second = logs(&case, &["qc[1]", "--attempt", "2"]);
    assert!(second.starts_with("1\n2\n") && second.contains("\n100\n"), "{second}");
    assert_eq!(json_of_logs(&case, &["qc"])["logs"].as_array().unwrap().len(), 3);
}

#[test]
fn retries_are_advised_only_where_they_can_help() {
    for (functions, advised) in [
        ("a: { command: [sh, -c, 'kill -TERM $$'] }", true),
        ("a: { command: [sh, -c, 'kill -SEGV $$'] }", false),
        ("a: { command: [ls, --no-such-option] }", false),
        ("a: { command: [sleep, '60'], timeout: 100ms }", true),
        ("a: { program: dflow-probe, outputs: [out], params: { bytes: 1, fail: kill } }", true),
        ("a: { program: dflow-probe, outputs: [out], params: { bytes: 1, fail: error } }", false),
    ] {
        let ran = Case::new(functions, "{ o: a.out }").run(&[]);
        ran.failed("a", &[]);
        assert_eq!(ran.stderr.contains("retries: 3"), advised, "{functions}: {}", ran.stderr);
        assert_eq!(ran.attempts("a")[0]["transient"], advised, "{functions}");
    }
}

#[test]
fn an_exit_status_can_be_declared_a_success() {
    let case = Case::new("a: { command: [grep, x, /dev/null], SUCCESS }", "{ o: a.out }");
    case.replace(", SUCCESS", "");
    case.run(&[]).failed("a", &["when no line matches: `success: [0, 1]` accepts that"]);
    case.replace("/dev/null]", "/dev/null], success: [0, 1]");
    case.run(&[]).succeeded();
    assert_eq!(case.output("o"), b"");
    case.replace("/dev/null]", "/no/such/file]");
    case.run(&[]).failed("a", &["exit status 2"]);
}

#[test]
fn the_error_of_a_command_that_seeks_in_a_pipe_suggests_keep() {
    let case = Case::with_header(
        "inputs: [text]",
        "a: { command: [sh, -c, 'echo \"tool: Illegal seek\" >&2; exit 1'], inputs: { t: inputs.text } }",
        "{ o: a.out }",
    );
    std::fs::write(case.path("text"), "x").unwrap();
    let input = case.path("text").display().to_string();
    case.run(&["-i", &input]).failed("a", &["the input `t`, which is a pipe: `keep: true`"]);
}

#[test]
fn a_function_that_prints_without_end_fills_neither_memory_nor_disk() {
    let case = Case::new(
        "a: { command: [sh, -c, 'echo begun >&2; yes | head -c 50000000 >&2; echo done >&2'] }
         b: { program: dflow-probe, outputs: [o], params: { bytes: 1000000 } }",
        "{ a: a.out, b: b.o }",
    );
    let options = recorded(&case);
    case.run(&with_record(&options, &["--log-size", "64KiB"])).succeeded();
    let log = logs(&case, &["a"]);
    assert!(log.starts_with("begun\n") && log.ends_with("y\ndone\n") && log.contains("bytes left out"));
    assert!(log.len() < (64 << 10) + 100, "{}", log.len());
}

#[test]
fn a_record_that_cannot_be_written_is_a_note() {
    let case = Case::new("a: { command: [sh, -c, 'echo hello >&2'] }", "{ o: a.out }");
    std::fs::write(case.path("runs"), "a file").unwrap();
    let options = recorded(&case);
    let ran = case.run(&with_record(&options, &[]));
    ran.succeeded();
    assert!(ran.stderr.contains("note: this run leaves no record and no logs"), "{}", ran.stderr);

    let disk = case.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let _disk = SmallDisk::mount(&disk, "256k");
    case.replace("echo hello >&2", "yes | head -c 10000000 >&2");
    let ran = case.run(&["--logs", &disk.display().to_string(), "--log-size", "16MiB"]);
    ran.succeeded();
    assert!(ran.stderr.contains("is incomplete: No space left on device"), "{}", ran.stderr);
}

#[test]
fn lines_are_shown_live() {
    let case = Case::new(
        "a: { command: [sh, -c, 'printf \"one\\n\\033[31mtwo\" >&2; read line < GATE; echo >&2'] }",
        "{ o: a.out }",
    );
    let mut gate = case.gate();
    let (mut run, mut lines) = reading(case.command(&["--follow"]), |child| child.stderr.take().unwrap());
    assert_eq!(line(&mut lines), "a | one\n", "before the function ends");
    gate.open();
    assert_eq!(rest(&mut lines), "a | [31mtwo\n");
    assert!(run.wait().unwrap().success());
    case.assert_nothing_left();
}

/// Starts a command of which a pipe is read while it runs.
fn reading<R: std::io::Read>(
    mut command: Command,
    pipe: impl FnOnce(&mut Child) -> R,
) -> (Child, std::io::BufReader<R>) {
    let mut child = command.spawn().unwrap();
    let lines = std::io::BufReader::new(pipe(&mut child));
    (child, lines)
}

/// The next line; waits for it.
fn line(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line
}

/// Everything up to the end.
fn rest(lines: &mut impl BufRead) -> String {
    std::io::read_to_string(lines).unwrap()
}

#[test]
fn logs_are_followed_until_the_run_is_over() {
    let case = Case::new(
        "a: { command: [sh, -c, 'printf \"one\\ntw\" >&2; read line < GATE; printf \"o\\nend\" >&2'] }",
        "{ o: a.out }",
    );
    let mut gate = case.gate();
    let options = recorded(&case);
    let run = case.spawn(&with_record(&options, &[]));
    eventually("there is no log", || !files(&case.path("runs")).is_empty());
    let mut command = Command::new(env!("CARGO_BIN_EXE_dflow"));
    command.args(["logs", "--follow", "a"]).env("DFLOW_LOGS", case.path("runs")).stdout(Stdio::piped());
    let (mut logs, mut lines) = reading(command, |child| child.stdout.take().unwrap());
    let title = line(&mut lines);
    assert!(title.contains('a'), "{title}");
    assert_eq!(line(&mut lines), "one\n", "before the function ends");
    gate.open();
    assert_eq!(rest(&mut lines), "two\nend\n", "a line is shown when it is whole");
    assert!(logs.wait().unwrap().success());
    case.finish(run.wait()).succeeded();
}

#[test]
fn the_driver_keeps_the_output_of_functions_on_other_nodes() {
    let case = Case::new(
        "far: { command: [sh, -c, 'echo begun >&2; yes | head -c 20000000 >&2; echo done >&2; exit 5'] }",
        "{ o: far.out }",
    );
    let cluster = Cluster::new(&["b"]);
    let options = recorded(&case);
    let ran = cluster.run(&case, &["far=b"], &with_record(&options, &[]));
    ran.failed("far", &["exit status 5", "lines before", "\ndone"]);
    let log = logs(&case, &["far"]);
    assert!(log.starts_with("begun\n") && log.contains("\ndone\n"), "{}", &log[..100.min(log.len())]);
    assert!(log.contains("bytes were lost on the way") || log.contains("bytes left out"));
    assert_eq!(json_of_logs(&case, &["far"])["logs"][0]["node"], "b");
}

#[test]
fn the_log_of_dflow_reports_events() {
    let case =
        Case::new("a: { command: [sh, -c, 'test -e MARK || { touch MARK; exit 4; }'], retries: 1 }", "{ o: a.out }");
    case.replace("test -e MARK", &format!("cd {}; test -e MARK", case.path("").display()));
    let log = |level: &str| {
        let _ = std::fs::remove_file(case.path("MARK"));
        let ran = case.finish(case.command(&[]).env("DFLOW_LOG", level).output().unwrap());
        ran.succeeded();
        ran.stderr
    };
    let info = log("info");
    for expected in ["the run begins", "the next attempt begins", "the run has ended"] {
        assert!(info.contains(expected), "{expected} is not in: {info}");
    }
    assert!(!info.contains("the attempt starts"), "{info}");
    let spilling = Case::new(
        "a: { program: dflow-probe, outputs: [o], params: { bytes: 8000000 } }
         b: { program: dflow-probe, inputs: { i: { from: a.o, gate: whole } }, outputs: [o] }",
        "{ o: b.o }",
    );
    let mut command = spilling.command(&["--memory", "4MiB"]);
    let ran = spilling.finish(command.env("DFLOW_LOG", "debug").output().unwrap());
    ran.succeeded();
    assert!(ran.stderr.contains("a window was written to disk"), "{}", ran.stderr);
    let debug = log("debug");
    for expected in ["its process runs", "the attempt starts", "the attempt has ended", "exit status 4"] {
        assert!(debug.contains(expected), "{expected} is not in: {debug}");
    }
    let trace = log("trace");
    for expected in ["a stream opens", "a message to the attempt"] {
        assert!(trace.contains(expected), "{expected} is not in: {trace}");
    }
}
