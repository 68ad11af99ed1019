//! The programs without dflow: started by hand, on files and pipes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

const SPLIT: &str = env!("CARGO_BIN_EXE_wordcount-split");
const COUNT: &str = env!("CARGO_BIN_EXE_wordcount-count");
const MERGE: &str = env!("CARGO_BIN_EXE_wordcount-merge");

/// Runs a program in a temporary directory.
fn run(dir: &tempfile::TempDir, program: &str, arguments: &[&str]) -> Output {
    command(dir, program, arguments).stdin(Stdio::null()).output().unwrap()
}

fn command(dir: &tempfile::TempDir, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir.path()).env_remove("DFLOW_SOCKET");
    command
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn failed(output: &Output, status: i32, says: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{error}");
    for text in says {
        assert!(error.contains(text), "no '{text}' in: {error}");
    }
}

fn names(dir: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The workflow by hand: parts into a directory, records into files, a fan-in, the result on the standard output.
#[test]
fn the_whole_workflow_through_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text"), "to be or not to be ".repeat(30_000)).unwrap();
    succeeded(&run(&dir, SPLIT, &["--in", "text=text", "--out", "parts=parts", "--parts", "parts=2"]));
    let mut merge = vec!["--out=total=-".to_owned()];
    for part in ["00000", "00001"] {
        succeeded(&run(&dir, COUNT, &["--in", &format!("part=parts/{part}"), "--out", &format!("counts={part}")]));
        merge.push(format!("--in=counts={part}"));
    }
    let merge: Vec<&str> = merge.iter().map(String::as_str).collect();
    assert_eq!(succeeded(&run(&dir, MERGE, &merge)), "60000 be\n60000 to\n30000 not\n30000 or\n");
    assert_eq!(names(&dir), ["00000", "00001", "parts", "text"], "nothing temporary is left");
}

/// A pipe's bytes come through while it is open: the function does not wait for its end, and neither does its output.
#[test]
fn a_pipe_is_read_as_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command(&dir, SPLIT, &["--in", "text=-", "--out", "parts=parts", "--parts=parts=1"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than may wait for the function, more than a window, and more than the pipe holds.
    let block = "word ".repeat(20_000);
    for _ in 0..60 {
        stdin.write_all(block.as_bytes()).unwrap();
    }
    drop(stdin);
    succeeded(&child.wait_with_output().unwrap());
    let part = std::fs::read_to_string(dir.path().join("parts/00000")).unwrap();
    assert!(part == block.repeat(60), "{} bytes of {}", part.len(), block.len() * 60);
}

/// A reader that stops early ends the function, which is not a failure.
#[test]
fn a_closed_standard_output_ends_it_well() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text"), "x".repeat(1000)).unwrap();
    std::fs::write(dir.path().join("part"), (0..300_000).map(|word| letters(word) + " ").collect::<String>()).unwrap();
    succeeded(&run(&dir, COUNT, &["--in=part=part", "--out=counts=counts"]));
    let mut child = command(&dir, MERGE, &["--in=counts=counts", "--out=total=-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("1 "), "{line}");
    drop(stdout);
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(child.wait().unwrap().success(), "{error}");
    assert_eq!(error, "");
}

fn letters(mut number: u32) -> String {
    let mut word = String::from("w");
    loop {
        word.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
        if number == 0 {
            return word;
        }
    }
}

/// The output of a failed function does not replace a file.
#[test]
fn a_failure_leaves_the_earlier_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("records"), "no records at all").unwrap();
    std::fs::write(dir.path().join("total"), "earlier").unwrap();
    let output = run(&dir, MERGE, &["--in=counts=records", "--out=total=total"]);
    failed(&output, 1, &["wordcount-merge: ", "'counts'"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("total")).unwrap(), "earlier");
    assert_eq!(names(&dir), ["records", "total"]);
}

#[test]
fn errors_list_what_was_given_and_what_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text"), "a").unwrap();
    failed(&run(&dir, COUNT, &[]), 2, &["dflow run FILE", "wordcount-count --in NAME=FILE --out NAME=FILE", "--help"]);
    failed(&run(&dir, COUNT, &["text"]), 2, &["'text' is not one of its options"]);
    let output = run(&dir, COUNT, &["--in=text=text", "--out=counts=-"]);
    failed(&output, 1, &["needs the input 'part': add --in part=FILE; given: text"]);
    let output = run(&dir, COUNT, &["--in=part=text"]);
    failed(&output, 1, &["needs the output 'counts': add --out counts=FILE; given: none"]);
    let output = run(&dir, COUNT, &["--in=part=missing", "--out=counts=-"]);
    failed(&output, 1, &["'missing'", "'part'", "No such file"]);
    let output = run(&dir, COUNT, &["--in=part=text", "--out=counts=no/such/directory"]);
    failed(&output, 1, &["cannot write the output 'counts'", "No such file"]);
    let output = run(&dir, COUNT, &["--in=part=text", "--in=part=text", "--out=counts=-"]);
    failed(&output, 1, &["'part' is a list of streams"]);
    let output = run(&dir, COUNT, &["--in=part=text", "--out=counts=c", "--out=other=o"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not write the output 'other'"));
    assert_eq!(std::fs::read(dir.path().join("o")).unwrap(), b"");
    let help = succeeded(&run(&dir, COUNT, &["--help"]));
    assert!(["--in NAME=FILE", "--out NAME=DIR", "--param", "--keep"].iter().all(|it| help.contains(it)), "{help}");
}

/// Files that say they are empty are read to their end.
#[test]
fn a_file_whose_length_lies() {
    let dir = tempfile::tempdir().unwrap();
    succeeded(&run(&dir, SPLIT, &["--in=text=/proc/cpuinfo", "--out=parts=parts", "--parts=parts=1"]));
    assert!(std::fs::metadata(dir.path().join("parts/00000")).unwrap().len() > 100);
}
