//! Where the data of inputs comes from: files, directories, pipes, and what the kernel makes up.

use crate::support::{Case, eventually};
use rustix::fs::{CWD, Mode, mkfifoat};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn copy() -> Case {
    Case::with_header("inputs: [a]", "n: { command: [cat], inputs: [inputs.a] }", "{ o: n.out }")
}

fn parts() -> Case {
    Case::with_header(
        "inputs: { a: { parts: files } }",
        "n: { command: [cat], foreach: inputs.a }
         m: { command: [cat], inputs: { i: n.out } }",
        "{ o: m.out }",
    )
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn pipe(case: &Case) -> PathBuf {
    let path = case.path("p");
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    path
}

#[test]
fn files_without_a_size_are_read_to_their_end() {
    for invocation in ["dataflow", "control-flow"] {
        let case = copy();
        let args = ["--invocation", invocation, "--input", "/proc/version", "--input", "/proc/filesystems"];
        case.run(&args).succeeded();
        let expected = [std::fs::read("/proc/version").unwrap(), std::fs::read("/proc/filesystems").unwrap()].concat();
        assert_eq!(String::from_utf8_lossy(&case.output("o")), String::from_utf8_lossy(&expected));
    }
    let case = parts();
    std::fs::write(case.path("file"), "file\n").unwrap();
    case.run(&["--input", &shown(&case.path("file")), "/proc/version"]).succeeded();
    assert!(case.output("o").starts_with(b"file\nLinux"));
}

#[test]
fn a_named_pipe_is_opened_once() {
    for invocation in ["dataflow", "control-flow"] {
        let case = copy();
        let path = pipe(&case);
        let mut writer = Command::new("sh").arg("-c").arg("seq 3 > \"$0\"").arg(&path).spawn().unwrap();
        case.run(&["--invocation", invocation, "--input", &shown(&path)]).succeeded();
        assert!(writer.wait().unwrap().success(), "its writer was killed");
        assert_eq!(case.output("o"), b"1\n2\n3\n");
    }
}

#[test]
fn the_run_waits_for_a_late_writer_and_ctrl_c_ends_the_wait() {
    let case = copy();
    let path = pipe(&case);
    let errors = case.path("errors");
    let start = || {
        let mut command = case.command(&["--overwrite", "--input", &shown(&path)]);
        command.stderr(File::create(&errors).unwrap());
        crate::support::Running::start(command)
    };
    let waiting = format!("note: waiting for a writer of {}", path.display());
    let said = || std::fs::read_to_string(&errors).unwrap();
    let running = start();
    eventually("it does not say that it waits", || said().contains(&waiting));
    Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert_eq!(case.finish(running.wait()).code, Some(130));
    let running = start();
    eventually("it does not say that it waits", || said().contains(&waiting));
    File::options().write(true).open(&path).unwrap().write_all(b"late").unwrap();
    let ran = case.finish(running.wait());
    ran.succeeded();
    assert_eq!(case.output("o"), b"late");
    assert_eq!(said().matches("waiting").count(), 1);
    assert!(ran.report["notes"][0].as_str().unwrap().contains("waiting for a writer"), "{}", ran.report["notes"]);
}

#[test]
fn a_result_is_an_input_without_its_manifest_and_omitted_entries_are_named() {
    let first = copy();
    std::fs::write(first.path("file"), "data\n").unwrap();
    first.run(&["--input", &shown(&first.path("file"))]).succeeded();
    let case = copy();
    let ran = case.run(&["--input", &shown(&first.path("out"))]);
    assert_eq!((ran.succeeded().stderr.as_str(), case.output("o")), ("", b"data\n".to_vec()));
    std::fs::write(first.path("out/.hidden"), "x").unwrap();
    std::fs::create_dir(first.path("out/sub")).unwrap();
    let ran = case.run(&["--input", &shown(&first.path("out"))]);
    assert_eq!(case.output("o"), b"data\n");
    let note = ".hidden (hidden), sub (a directory)";
    assert!(ran.succeeded().stderr.contains(note) && ran.report["notes"][0].as_str().unwrap().contains(note));
    std::os::unix::fs::symlink("nowhere", first.path("out/broken")).unwrap();
    case.run(&["--input", &shown(&first.path("out"))]).refused(&["broken is a link to nowhere", "remove the link"]);
}

#[test]
fn more_files_than_may_be_open() {
    let case = copy();
    let folder = case.path("many");
    std::fs::create_dir(&folder).unwrap();
    let mut expected = Vec::new();
    for number in 0..1500 {
        let text = format!("{number}\n");
        std::fs::write(folder.join(format!("{number:05}")), &text).unwrap();
        expected.extend(text.into_bytes());
    }
    let input = shown(&folder);
    for limits in ["ulimit -Sn 1024; ulimit -Hn 20000", "ulimit -n 256"] {
        let output = case.limited(limits, &["--input", &input]).output().unwrap();
        case.finish(output).succeeded();
        assert!(case.output("o") == expected, "{limits}");
    }
    // As parts of their own, of which most are waiting at any time.
    let case = parts();
    let folder = case.path("many");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..300 {
        std::fs::write(folder.join(format!("{number:05}")), format!("{number}\n")).unwrap();
    }
    let output = case.limited("ulimit -n 256", &["--input", &shown(&folder)]).output().unwrap();
    case.finish(output).succeeded();
    assert_eq!(case.output("o").iter().filter(|&&byte| byte == b'\n').count(), 300);
}

#[test]
fn a_file_that_grows_meanwhile_is_read_as_it_was_and_named() {
    let case = Case::with_header(
        "inputs: [a]",
        "n: { command: [sh, -c, 'read line < GATE; cat'], inputs: [inputs.a] }",
        "{ o: n.out }",
    );
    let mut gate = case.gate();
    std::fs::write(case.path("log"), "before\n").unwrap();
    let running = case.spawn(&["--input", &shown(&case.path("log"))]);
    eventually("the function does not start", || case.processes().iter().any(|(_, name)| name == "sh"));
    File::options().append(true).open(case.path("log")).unwrap().write_all(b"after\n").unwrap();
    gate.open();
    let ran = case.finish(running.wait());
    ran.succeeded();
    assert_eq!(case.output("o"), b"before\n");
    assert!(ran.stderr.contains("log grew from 7 to 13 bytes; the first 7 were read"), "{}", ran.stderr);
}

#[test]
fn patterns_and_several_values_of_one_option() {
    let case = copy();
    for name in ["b.txt", "a.txt"] {
        std::fs::write(case.path(name), name).unwrap();
    }
    let pattern = format!("a={}", shown(&case.path("*.txt")));
    case.run(&["--input", &pattern]).succeeded();
    assert_eq!(case.output("o"), b"a.txtb.txt");
    case.run(&["--overwrite", "--input", &shown(&case.path("b.txt")), &shown(&case.path("a.txt"))]).succeeded();
    assert_eq!(case.output("o"), b"b.txta.txt");
    let pattern = format!("a={}", shown(&case.path("*.gz")));
    case.run(&["--input", &pattern]).refused(&["no file matches the pattern", "*.gz"]);
}

#[test]
fn the_limit_of_the_size_of_files_is_named() {
    let case = copy();
    std::fs::write(case.path("large"), vec![b'x'; 90 << 20]).unwrap();
    let input = shown(&case.path("large"));
    let output = case.limited("ulimit -f 100", &["--input", &input]).output().unwrap();
    case.finish(output).refused(&["may write files of at most", "ulimit -f", "64 MiB"]);
    // In blocks of 512 bytes, 80 MiB: the run works, its output does not fit.
    let output = case.limited("ulimit -f 163840", &["--input", &input]).output().unwrap();
    case.finish(output).failed("output:o", &["may write files of at most 83886080 bytes", "ulimit -f"]);
    // A function is ended by the signal, as anywhere else.
    let writer = Case::new("a: { command: [dd, if=/dev/zero, of=/dev/shm/MARK, bs=1M, count=90] }", "{ o: a.out }");
    let file = tempfile::Builder::new().tempfile_in("/dev/shm").unwrap();
    writer.replace("/dev/shm/MARK", &shown(file.path()));
    let output = writer.limited("ulimit -f 163840", &[]).output().unwrap();
    writer.finish(output).failed("a", &["SIGXFSZ", "ulimit -f"]);
}

#[test]
fn a_workflow_from_standard_input() {
    let case = copy();
    std::fs::write(case.path("file"), "data").unwrap();
    let text = std::fs::read(case.path("case.yaml")).unwrap();
    let call = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dflow"));
        let command = command.args(args).current_dir(case.dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&text).unwrap();
        child.wait_with_output().unwrap()
    };
    for args in [&["check", "-"][..], &["graph", "-"], &["run", "-", "-i", "file", "-o", "out"]] {
        let output = call(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(case.output("o"), b"data");
    let output = call(&["run", "-", "-i", "-"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("named more than once"));
}
