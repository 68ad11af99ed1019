//! The output directory: which files a run may replace, where it can be, and what a killed run leaves.

use crate::support::{Case, eventually};
use std::path::Path;
use std::process::{Command, Output};

fn hello() -> Case {
    Case::with_header("params: { word: hello }", "a: { command: [echo, '{params.word}'] }", "{ o: a.out }")
}

/// Runs shell commands in the directory of the case, in a separate mount namespace; `$D` runs dflow.
fn in_shell(case: &Case, script: &str) -> Output {
    let program = format!("{} run", env!("CARGO_BIN_EXE_dflow"));
    let shell = ["-m", "sh", "-ec", script];
    Command::new("unshare").args(shell).env("D", program).current_dir(case.dir.path()).output().unwrap()
}

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_hidden_neighbour_with_a_result_is_not_removed() {
    let case = hello();
    case.run(&[]).succeeded();
    std::fs::rename(case.path("out"), case.path(".out.bak")).unwrap();
    let script = "$D case.yaml -o out >/dev/null; cat .out.bak/o; ls -A";
    let text = said(&in_shell(&case, script));
    assert_eq!(text, "hello\n.out.bak\ncase.yaml\nout\n");
}

#[test]
fn foreign_files_and_results_of_other_calls_are_refused_before_anything_runs() {
    let case = hello();
    case.run(&[]).succeeded();
    let other = case.run(&["--param", "word=bye"]);
    other.refused(&["the parameter 'word' was 'hello', and is now 'bye'", "--overwrite"]);
    case.run(&["--param", "word=bye", "--overwrite"]).succeeded();
    assert_eq!(case.output("o"), b"bye\n");
    std::fs::write(case.path("out/notes.txt"), "mine").unwrap();
    case.replace("echo,", "touch, ran, ");
    case.run(&["--param", "word=bye"]).refused(&["1 file that dflow did not write: notes.txt"]);
    assert!(!Path::new("ran").exists() && !case.path("ran").exists());
    case.replace("touch, ran, ", "echo,");
    case.run(&["--param", "word=hello", "--overwrite"]).succeeded();
    assert_eq!((case.output("o"), case.output("notes.txt")), (b"hello\n".to_vec(), b"mine".to_vec()));
}

#[test]
fn a_mount_point_is_filled_from_within() {
    let case = hello();
    let script =
        "mkdir v; mount -t tmpfs t v; $D case.yaml -o v >/dev/null; $D case.yaml -o v >/dev/null; cat v/o; ls -A v";
    assert_eq!(said(&in_shell(&case, script)), "hello\n.dflow-result\no\n");
    // Also a bind mount of the same filesystem, which has the same device number.
    let script = "mkdir w x; mount --bind x w; $D case.yaml -o w >/dev/null; $D case.yaml -o w >/dev/null; ls -A w x";
    assert_eq!(said(&in_shell(&case, script)), "w:\n.dflow-result\no\n\nx:\n.dflow-result\no\n");
}

#[test]
fn an_output_directory_below_a_read_only_one() {
    let case = hello();
    let script = "mkdir -p ro/t; mount -t tmpfs t ro; mkdir ro/t; mount --bind ro/t ro/t; mount -o remount,ro,bind ro ro; \
                  $D case.yaml -o ro/t >/dev/null; cat ro/t/o; ! $D case.yaml -o ro/u 2>&1";
    let text = said(&in_shell(&case, script));
    assert!(text.starts_with("hello\n") && text.contains("ro/u") && text.contains("Read-only"), "{text}");
    assert!(text.contains("name another directory with --output"), "{text}");
}

#[test]
fn the_current_directory_shows_the_outputs() {
    let case = hello();
    let script = "mkdir q; cd q; $D ../case.yaml -o . >/dev/null; cat o; $D ../case.yaml -o ../q >/dev/null; ls -A";
    assert_eq!(said(&in_shell(&case, script)), "hello\n.dflow-result\no\n");
}

#[test]
fn finished_results_are_kept_where_they_cannot_be_published() {
    let case = Case::new("a: { command: [sh, -c, 'echo begun; read line < GATE; echo done'] }", "{ o: a.out }");
    let mut gate = case.gate();
    let running = case.spawn(&[]);
    eventually("nothing is written", || case.staged("o") > 0);
    std::fs::create_dir(case.path("out")).unwrap();
    std::fs::write(case.path("out/o"), "somebody's").unwrap();
    gate.open();
    let ran = case.finish(running.wait());
    assert_eq!(ran.code, Some(1), "{} {}", ran.stderr, ran.report);
    let kept = Path::new(ran.report["unpublished"].as_str().unwrap());
    assert_eq!(std::fs::read(kept.join("o")).unwrap(), b"begun\ndone\n");
    assert!(ran.stderr.contains(kept.to_str().unwrap()) && ran.stderr.contains("did not write: o"), "{}", ran.stderr);
    assert_eq!(case.output("o"), b"somebody's");
}

#[test]
fn an_output_that_is_removed_while_the_run_goes_on_is_missed() {
    let case = Case::new(
        "a: { command: [sh, -c, 'echo begun; read line < GATE; echo done'] }
         b: { command: [echo, other] }",
        "{ o: a.out, p: b.out }",
    );
    let mut gate = case.gate();
    let running = case.spawn(&[]);
    let staged = |output: &str| {
        let folders = std::fs::read_dir(case.dir.path()).unwrap().flatten();
        folders.map(|folder| folder.path().join("new").join(output)).find(|path| path.exists())
    };
    eventually("nothing is written", || case.staged("o") > 0);
    std::fs::remove_file(staged("o").unwrap()).unwrap();
    gate.open();
    let ran = case.finish(running.wait());
    assert_eq!(ran.code, Some(1), "{} {}", ran.stderr, ran.report);
    assert!(ran.stderr.contains("the output 'o' was removed while the run went on"), "{}", ran.stderr);
    let kept = Path::new(ran.report["unpublished"].as_str().unwrap());
    assert_eq!(std::fs::read(kept.join("p")).unwrap(), b"other\n");
    assert!(!case.path("out").exists());
}

#[test]
fn leftovers_of_a_killed_run_are_named_and_removed_by_another_run() {
    let case = Case::new("a: { command: [sh, -c, 'echo begun; read line < GATE'] }", "{ o: a.out }");
    let mut gate = case.gate();
    let killed = case.path("dflow-out/killed").display().to_string();
    let mut running = case.spawn(&["--output", &killed]);
    let staged = || {
        let folders = std::fs::read_dir(case.path("dflow-out")).into_iter().flatten().flatten();
        folders.filter(|folder| folder.path().join("new/o").exists()).count()
    };
    eventually("nothing is written", || staged() == 1);
    running.kill();
    eventually("functions outlive the daemon", || case.processes().is_empty());
    let doctor = Command::new(env!("CARGO_BIN_EXE_dflow")).arg("doctor").current_dir(case.dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&doctor.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("is what a killed run has left"), "{text}");
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_dflow"));
    let asked = doctor.args(["doctor", "--output", &killed]).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&asked.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("is what a killed run has left"), "{text}");
    let next = case.spawn(&["--output", case.path("dflow-out/other").to_str().unwrap()]);
    gate.open();
    case.finish(next.wait()).succeeded();
    assert_eq!(std::fs::read_dir(case.path("dflow-out")).unwrap().count(), 1);
}

#[test]
fn a_single_output_to_standard_output() {
    let case = hello();
    let text = said(&in_shell(&case, "$D case.yaml -o - 2>err; grep -c succeeded err; ls"));
    assert_eq!(text, "hello\n1\ncase.yaml\nerr\n");
    // A reader that stops after the first line does not fail the run.
    let many = Case::new("a: { command: [seq, 1000000] }", "{ o: a.out }");
    let script =
        "($D case.yaml -o - 2>err; echo $? >status) | head -n 1; while ! test -s status; do :; done; cat status";
    assert_eq!(said(&in_shell(&many, script)), "1\n0\n");
    // Nothing of a failed attempt is written.
    let retried = Case::new(
        "a: { command: [sh, -c, 'echo once; test -e second && exit; touch second; exit 1'], retries: { count: 1, backoff: 1ms } }",
        "{ o: a.out }",
    );
    assert_eq!(said(&in_shell(&retried, "$D case.yaml -o - 2>/dev/null")), "once\n");
    let failing = Case::new("a: { command: [sh, -c, 'echo once; exit 1'] }", "{ o: a.out }");
    assert_eq!(said(&in_shell(&failing, "! $D case.yaml -o - 2>/dev/null")), "");
}

#[test]
fn standard_output_takes_one_output() {
    let two = Case::new("a: { command: [echo, a] }\n b: { command: [echo, b] }", "{ o: a.out, p: b.out }");
    let output = in_shell(&two, "$D case.yaml -o -");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && text.contains("2: 'o', 'p'"), "{text}");
    let parts = Case::new(
        "a: { program: dflow-probe, outputs: { o: { partition: 3 } }, params: { bytes: 10, parts: 3 } }",
        "{ o: a.o }",
    );
    let output = in_shell(&parts, "$D case.yaml -o -");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && text.contains("'o', which is a directory of parts"), "{text}");
    let json = in_shell(&two, "$D case.yaml -o - --format json");
    assert_eq!(json.status.code(), Some(2));
}
