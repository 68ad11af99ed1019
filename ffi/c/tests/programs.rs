//! Programs in C and C++ call the interface, rightly and wrongly, alone on files and pipes.

#[allow(dead_code, reason = "each test uses a part of it")]
#[path = "support/native.rs"]
mod native;

use native::Installed;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// Lines of different lengths, more than a window of them.
fn text() -> Vec<u8> {
    let mut text = Vec::new();
    for line in 0..200_000_u32 {
        writeln!(text, "line {line} {}", "x".repeat((line % 37) as usize)).unwrap();
    }
    text
}

struct Program {
    path: PathBuf,
    folder: PathBuf,
}

impl Program {
    fn call(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments).current_dir(&self.folder).env_remove("DFLOW_SOCKET");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.call(arguments).output().unwrap()
    }

    /// Runs it without an input; it must end with this status and this text on its standard error.
    fn ends(&self, arguments: &[&str], status: Option<i32>, text: &str) -> Output {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == status && stderr.contains(text), "{}: {stderr}", output.status);
        output
    }
}

fn all_calls(options: &[&str], static_library: bool) {
    let installed = Installed::new();
    let folder = installed.folder().to_owned();
    if static_library {
        std::fs::remove_file(folder.join("lib/libdflow.so")).unwrap();
    }
    let mut options = options.to_vec();
    options.extend(["-std=c11", "-pthread"]);
    let path = installed.compile("cc", &source("abi.c"), &options);
    let program = Program { path, folder: folder.clone() };
    let text = text();
    std::fs::write(folder.join("text"), &text).unwrap();
    program.ends(
        &[
            "--in",
            "in=text",
            "--in",
            "many=text",
            "--in",
            "many=text",
            "--in",
            "more=text",
            "--in",
            "more=text",
            "--out",
            "out=copy",
            "--param",
            "mode=all",
            "--param",
            "number=-42",
        ],
        Some(0),
        "",
    );
    assert!(std::fs::read(folder.join("copy")).unwrap() == text, "the copy differs");
}

#[test]
fn every_call_rightly_and_wrongly() {
    all_calls(&["-O1"], false);
}

#[test]
fn the_static_library_does_the_same() {
    let installed = Installed::new();
    let shared = installed.pkg_config(&["--libs"]);
    let all = installed.pkg_config(&["--static", "--libs"]);
    assert!(all.len() > shared.len() && all.contains(&"-lpthread".to_owned()), "{all:?}");
    all_calls(&["-lm"], true);
}

#[test]
fn every_call_under_the_address_sanitizer() {
    all_calls(&["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"], false);
}

#[test]
fn waiting_in_poll_for_a_pipe() {
    let installed = Installed::new();
    let path = installed.compile("cc", &source("abi.c"), &["-O1", "-pthread"]);
    let program = Program { path, folder: installed.folder().to_owned() };
    let mut child = program.call(&["--in", "in=-", "--out", "out=-", "--param", "mode=poll"]).spawn().unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for word in [b"one", b"two", b"six"] {
        // What comes back is awaited, so that the program has to wait for the next word.
        to.write_all(word).unwrap();
        let mut back = [0; 3];
        from.read_exact(&mut back).unwrap();
        assert_eq!(&back, word);
    }
    drop(to);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_interrupt_ends_a_wait_and_loses_nothing() {
    let installed = Installed::new();
    let path = installed.compile("cc", &source("abi.c"), &["-O1", "-pthread"]);
    let program = Program { path, folder: installed.folder().to_owned() };
    let mut child = program.call(&["--in", "in=-", "--out", "out=-", "--param", "mode=interrupt"]).spawn().unwrap();
    // The input ends only when the program says that it was interrupted.
    let mut back = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut back).unwrap();
    assert_eq!(&back, b"go");
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn failures_have_their_reason() {
    let installed = Installed::new();
    let path = installed.compile("cc", &source("abi.c"), &["-O1", "-pthread"]);
    let program = Program { path, folder: installed.folder().to_owned() };
    program.ends(&["--out", "out=x", "--param", "mode=fail"], Some(1), "abi: no such luck");
    program.ends(
        &["--out", "out=x", "--param", "mode=number"],
        Some(1),
        "the function has returned 17 without a reason",
    );
    assert!(!installed.folder().join("x").exists(), "a failed function has left an output");
    program.ends(&["--out", "out=x", "--param", "mode=return from a fork"], Some(0), "");
    assert_eq!(std::fs::read(installed.folder().join("x")).unwrap(), b"the parent");
    program.ends(&["--wrong"], Some(2), "'--wrong' is not one of its options");
    program.ends(&[], Some(2), "abi --in NAME=FILE --out NAME=FILE");
    assert!(String::from_utf8_lossy(&program.run(&["--help"]).stdout).contains("Usage: abi --in"));
    // A reader that has seen enough is no failure.
    let mut child = program.call(&["--out", "out=-", "--param", "mode=unread"]).spawn().unwrap();
    let mut some = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn exceptions_of_cpp_are_failures() {
    let installed = Installed::new();
    let path = installed.compile("c++", &source("throws.cpp"), &["-std=c++17", "-O1"]);
    let program = Program { path, folder: installed.folder().to_owned() };
    let call = |what: &str| program.run(&["--in", "in=text", "--out", "out=x", "--param", &format!("what={what}")]);
    std::fs::write(installed.folder().join("text"), "a text of twenty-nine letters").unwrap();
    for (what, reason) in [
        ("standard", "throws: what a pity"),
        ("number", "something that is not a std::exception"),
        ("dflow", "needs the input 'of another function'"),
    ] {
        let output = call(what);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(reason), "{}: {stderr}", output.status);
    }
    let output = call("raw");
    assert_eq!(output.status.code(), None, "an exception that reaches C ends the program by a signal");
    assert!(call("nothing").status.success());
    let records = std::fs::read(installed.folder().join("x")).unwrap();
    assert_eq!(records, b"\x0a\0\0\0a text of \x0a\0\0\0twenty-nin\x09\0\0\0e letters");
    let mut child = program.call(&["--out", "out=-", "--param", "what=unread"]).spawn().unwrap();
    let mut some = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
