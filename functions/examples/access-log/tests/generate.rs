//! The generator as a program: the size of its output, and its errors.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

fn generate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_access-log-generate")).args(arguments).output().unwrap()
}

#[test]
fn writes_as_many_lines_as_asked_for() {
    for lines in [0, 1, 5000] {
        let output = generate(&["--lines", &lines.to_string(), "--seed", "3"]);
        assert!(output.status.success());
        assert_eq!(output.stdout.iter().filter(|&&byte| byte == b'\n').count(), lines);
        assert!(output.stdout.is_empty() || output.stdout.ends_with(b"\n"));
    }
}

#[test]
fn writes_at_least_as_many_bytes_as_asked_for_and_no_line_more() {
    for bytes in [1, 300_000, 1 << 20] {
        let log = generate(&["--bytes", &bytes.to_string()]).stdout;
        let last = log.split_inclusive(|&byte| byte == b'\n').next_back().unwrap();
        assert!(log.len() >= bytes && log.len() - last.len() < bytes, "{} for {bytes}", log.len());
        assert!(log.ends_with(b"\n"));
    }
}

#[test]
fn the_output_file_equals_the_standard_output() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let arguments = ["--lines", "100", "--seed", "9"];
    let path = ["--output", file.path().to_str().unwrap()];
    assert!(generate(&[arguments.as_slice(), &path].concat()).stdout.is_empty());
    assert_eq!(std::fs::read(file.path()).unwrap(), generate(&arguments).stdout);
}

#[test]
fn a_reader_may_stop_early() {
    let mut generator = Command::new(env!("CARGO_BIN_EXE_access-log-generate"))
        .args(["--lines", "1000000000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(generator.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = generator.wait_with_output().unwrap();
    assert!(line.ends_with('\n') && output.status.success() && output.stderr.is_empty());
}

#[test]
fn a_wrong_call_is_explained() {
    let failures: [(&[&str], i32, &str); 4] = [
        (&[], 2, "--lines"),
        (&["--lines", "1", "--bytes", "1"], 2, "cannot be used with"),
        (&["--bytes", "12 parsecs"], 2, "parsecs"),
        (&["--lines", "1", "--output", "/nowhere/access.log"], 1, "/nowhere/access.log"),
    ];
    for (arguments, status, message) in failures {
        let output = generate(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(status) && stderr.contains(message), "{arguments:?}: {stderr}");
    }
}
