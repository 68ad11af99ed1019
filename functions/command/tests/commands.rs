//! Existing programs as functions: real processes, a real store.

mod common;

use common::{Flow, Ports};
use dflow_function::{Error, Input, Output};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

const ADAPTER: &str = env!("CARGO_BIN_EXE_command-test-host");

fn flow() -> Flow {
    Flow::new(ADAPTER)
}

/// A stream of test bytes is this block over and over; a prime length, so that it meets every boundary differently.
fn block() -> Vec<u8> {
    (0..1_000_003u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)) as u8).collect()
}

fn write_test_bytes(out: &mut Output, length: usize) -> Result<(), Error> {
    let block = block();
    let mut left = length;
    while left > 0 {
        let part = left.min(block.len());
        out.write_all(&block[..part])?;
        left -= part;
    }
    Ok(())
}

fn check_test_bytes(input: &mut Input, length: usize) -> Result<(), Error> {
    let block = block();
    let mut have = 0;
    while let Some(mut chunk) = input.chunk()? {
        while !chunk.is_empty() {
            let expected = &block[have % block.len()..];
            let part = chunk.len().min(expected.len());
            if chunk[..part] != expected[..part] {
                return Err(Error::new(format!("a wrong byte behind {have}")));
            }
            have += part;
            chunk = &chunk[part..];
        }
    }
    if have == length { Ok(()) } else { Err(Error::new(format!("{have} bytes instead of {length}"))) }
}

#[test]
fn every_length_passes_through_a_program() {
    for length in [0, 1, 65_536, 1_048_577, 100_000_000] {
        let mut flow = flow();
        let (_, input) = flow.source(move |out| write_test_bytes(out, length));
        let (ports, output) = Ports::none().stdin(&[input]).stdout(&mut flow);
        let cat = flow.command(ports, &["cat"]);
        let sink = flow.sink(output, move |input| check_test_bytes(input, length));
        let outcomes = flow.run();
        outcomes.well(cat);
        outcomes.well(sink);
    }
}

#[test]
fn arguments_arrive_as_they_are() {
    let mut flow = flow();
    let input = flow.text("b 1\na 3\nc 2\n");
    let (ports, output) = Ports::none().stdin(&[input]).stdout(&mut flow);
    let sort = flow.command(ports, &["sort", "-k2,2"]);
    let sorted = flow.collect(output);
    let (ports, output) = Ports::none().stdout(&mut flow);
    let printf = flow.command(ports, &["printf", "%s|", "", "two words", "$HOME", "'"]);
    let printed = flow.collect(output);
    let outcomes = flow.run();
    outcomes.well(sort);
    outcomes.well(printf);
    assert_eq!(sorted.recv().unwrap(), "b 1\nc 2\na 3\n");
    assert_eq!(printed.recv().unwrap(), "|two words|$HOME|'|");
}

#[test]
fn a_program_may_stop_reading() {
    let mut flow = flow();
    let (endless, input) = flow.source(|out| {
        loop {
            out.write_all(b"line\n")?;
        }
    });
    let (ports, output) = Ports::none().stdin(&[input]).stdout(&mut flow);
    let head = flow.command(ports, &["head", "-n", "1"]);
    let first = flow.collect(output);
    let outcomes = flow.run();
    outcomes.well(head);
    outcomes.unread(endless);
    assert_eq!(first.recv().unwrap(), "line\n");
}

/// The adapter does not wait for input that the program no longer reads.
#[test]
fn a_program_may_end_before_its_input() {
    let mut flow = flow();
    let (ended, has_ended) = channel();
    let (source, input) = flow.source(move |out| {
        out.write_all(b"one\n")?;
        has_ended.recv()?;
        Ok(())
    });
    let (ports, output) = Ports::none().stdin(&[input]).stdout(&mut flow);
    let head = flow.command(ports, &["head", "-n", "1"]);
    let sink = flow.sink(output, move |input| {
        while input.chunk()?.is_some() {}
        ended.send(())?;
        Ok(())
    });
    let outcomes = flow.run();
    for function in [source, head, sink] {
        outcomes.well(function);
    }
}

#[test]
fn a_program_without_readers_gets_sigpipe() {
    let mut flow = flow();
    let (ports, output) = Ports::none().stdout(&mut flow);
    let yes = flow.command(ports, &["yes"]);
    let sink = flow.sink(output, |input| input.chunk().map(drop));
    let outcomes = flow.run();
    outcomes.well(sink);
    outcomes.unread(yes);
}

/// Even if it does not die of it and calls it a success.
#[test]
fn a_program_that_ignores_being_unread_is_unread() {
    let mut flow = flow();
    let (ports, output) = Ports::none().stdout(&mut flow);
    let stubborn = flow.command(ports, &["sh", "-c", "trap '' PIPE; while echo line; do :; done; exit 0"]);
    flow.sink(output, |input| input.chunk().map(drop));
    flow.run().unread(stubborn);
}

/// An output without readers does not affect the bytes of the others.
#[test]
fn a_program_continues_while_one_of_its_outputs_has_a_reader() {
    const LENGTH: usize = 20_000_000;
    let mut flow = flow();
    let (_, input) = flow.source(|out| write_test_bytes(out, LENGTH));
    let (ports, output) = Ports::none().stdin(&[input]).stdout(&mut flow);
    let (ports, copy) = ports.output("copy", &mut flow);
    let tee = flow.command(ports, &["tee", "{out.copy}"]);
    let early = flow.sink(output, |input| input.chunk().map(drop));
    let all = flow.sink(copy, |input| check_test_bytes(input, LENGTH));
    let outcomes = flow.run();
    for function in [tee, early, all] {
        outcomes.well(function);
    }
}

#[test]
fn a_program_gets_sigpipe_when_none_of_its_outputs_has_a_reader() {
    let mut flow = flow();
    let (ports, output) = Ports::none().stdout(&mut flow);
    let (ports, copy) = ports.output("copy", &mut flow);
    let tee = flow.command(ports, &["sh", "-c", "yes | tee \"$1\"", "sh", "{out.copy}"]);
    flow.sink(output, |input| input.chunk().map(drop));
    flow.sink(copy, |input| input.chunk().map(drop));
    flow.run().unread(tee);
}

#[test]
fn status_and_signal_are_reported() {
    let mut flow = flow();
    let status = flow.command(Ports::none(), &["sh", "-c", "echo oops >&2; exit 3"]);
    let signal = flow.command(Ports::none(), &["sh", "-c", "kill -SEGV $$"]);
    let unknown = flow.command(Ports::none(), &["sh", "-c", "no-such-command-here"]);
    let (ports, output) = Ports::none().stdout(&mut flow);
    let partial = flow.command(ports, &["sh", "-c", "echo some; exit 1"]);
    let (ports, complete) = Ports::none().stdout(&mut flow);
    flow.command(ports, &["echo", "all"]);
    let outcomes = flow.run();
    assert_eq!(outcomes.reason(status), "`sh -c 'echo oops >&2; exit 3'` ended with exit status 3");
    assert!(outcomes.stderr(status).starts_with("oops\n"), "{}", outcomes.stderr(status));
    assert_eq!(outcomes.reason(signal), "`sh -c 'kill -SEGV $$'` was killed by SIGSEGV");
    assert!(outcomes.reason(unknown).contains("status 127: a shell reports"), "{}", outcomes.reason(unknown));
    assert_eq!(outcomes.reason(partial), "`sh -c 'echo some; exit 1'` ended with exit status 1");
    assert!(outcomes.is_finished(complete) && !outcomes.is_finished(output));
}

#[test]
fn an_exit_status_that_is_an_answer_says_how_to_accept_it() {
    let mut flow = flow();
    let grep = flow.command(Ports::none(), &["grep", "x", "/dev/null"]);
    let outcomes = flow.run();
    assert_eq!(
        outcomes.reason(grep),
        "`grep x /dev/null` ended with exit status 1: grep ends with 1 when no line matches: `success: [0, 1]` accepts that"
    );
}

#[test]
fn a_script_with_windows_line_ends_that_env_starts_is_explained() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tool");
    std::fs::write(&path, "#!/usr/bin/env sh\r\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let mut flow = flow();
    let tool = flow.command(Ports::none(), &[path.to_str().unwrap()]);
    let outcomes = flow.run();
    assert!(outcomes.reason(tool).contains("status 127") && outcomes.reason(tool).contains("Windows line ends"));
}

#[test]
fn what_cannot_be_executed_is_explained() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cases = [
        (folder.path().join("missing").to_str().unwrap().to_owned(), "there is no such file"),
        (file("plain", "text", 0o644), "chmod +x"),
        (file("no-interpreter", "#!/no/such/sh\n", 0o755), "the interpreter `/no/such/sh`, which does not exist"),
        (file("no-line", "echo\n", 0o755), "or name it in the command"),
        (file("windows", "#!/bin/sh\r\n", 0o755), "Windows line ends"),
        (folder.path().to_str().unwrap().to_owned(), "it is a directory"),
    ];
    // With and without a path, the program is started in different ways.
    for with_path in [false, true] {
        let mut flow = flow();
        let functions: Vec<_> = cases
            .iter()
            .map(|(path, _)| {
                let ports = if with_path { Ports::none().output("x", &mut flow).0 } else { Ports::none() };
                let arguments = [path.as_str(), "{out.x}"];
                flow.command(ports, if with_path { &arguments } else { &arguments[..1] })
            })
            .collect();
        let outcomes = flow.run();
        for ((path, expected), function) in cases.iter().zip(functions) {
            let reason = outcomes.reason(function);
            assert!(
                reason.starts_with("cannot run `") && reason.contains(path) && reason.contains(expected),
                "{reason}"
            );
        }
    }
}

#[test]
fn inputs_and_outputs_by_path() {
    let mut flow = flow();
    let (a, b) = (flow.text("1\n2\n"), flow.text("one\ntwo\n"));
    let (ports, output) = Ports::none().input("a", &[a]).input("b", &[b]).stdout(&mut flow);
    let paste = flow.command(ports, &["paste", "-d=", "{in.a}", "{in.b}"]);
    let pasted = flow.collect(output);

    let same = Ports::none().input("a", &[a]).input("b", &[a]);
    let same = flow.command(same, &["diff", "{in.a}", "{in.b}"]);
    let different = Ports::none().input("a", &[a]).input("b", &[b]);
    let different = flow.command(different, &["diff", "{in.a}", "{in.b}"]);

    let (ports, sorted) = Ports::none().input("b", &[b]).output("sorted", &mut flow);
    let sort = flow.command(ports, &["sort", "-r", "--output={out.sorted}", "{in.b}"]);
    let sorted = flow.collect(sorted);

    let outcomes = flow.run();
    for function in [paste, same, sort] {
        outcomes.well(function);
    }
    assert_eq!(
        outcomes.reason(different),
        "`diff {in.a} {in.b}` ended with exit status 1: diff ends with 1 when its inputs differ: `success: [0, 1]` accepts that"
    );
    // Its standard output, which is not an output of the function.
    assert!(outcomes.stderr(different).contains("< 1\n"), "{}", outcomes.stderr(different));
    assert_eq!(pasted.recv().unwrap(), "1=one\n2=two\n");
    assert_eq!(sorted.recv().unwrap(), "two\none\n");
}

#[test]
fn lists_of_streams() {
    let mut flow = flow();
    let parts = [flow.text("a\nd\n"), flow.text(""), flow.text("b\ne"), flow.text("c\n")];
    let (ports, output) = Ports::none().stdin(&parts).stdout(&mut flow);
    let cat = flow.command(ports, &["cat"]);
    let joined = flow.collect(output);

    let (ports, output) = Ports::none().input("parts", &parts).stdout(&mut flow);
    let merge = flow.command(ports, &["sort", "-m", "{in.parts}"]);
    let merged = flow.collect(output);

    let (ports, output) = Ports::none().input("parts", &parts).kept().stdout(&mut flow);
    let tail = flow.command(ports, &["tail", "-q", "-c", "2", "{in.parts}"]);
    let tails = flow.collect(output);

    let (ports, output) = Ports::none().input("none", &[]).stdout(&mut flow);
    let none = flow.command(ports, &["echo", "{in.none}", "end"]);
    let nothing = flow.collect(output);

    let outcomes = flow.run();
    for function in [cat, merge, tail, none] {
        outcomes.well(function);
    }
    assert_eq!(joined.recv().unwrap(), "a\nd\nb\nec\n");
    assert_eq!(merged.recv().unwrap(), "a\nb\nc\nd\ne\n");
    assert_eq!(tails.recv().unwrap(), "d\n\nec\n");
    assert_eq!(nothing.recv().unwrap(), "end\n");
}

#[test]
fn a_list_may_be_too_long_for_paths() {
    let mut flow = flow();
    let part = flow.text("x");
    let parts = vec![part; 1];
    let many: Vec<_> = (0..1025).map(|_| flow.source(|_| Ok(())).1).collect();
    let too_many = flow.command(Ports::none().input("parts", &many), &["cat", "{in.parts}"]);
    let fine = flow.command(Ports::none().input("parts", &parts), &["cat", "{in.parts}"]);
    let outcomes = flow.run();
    outcomes.well(fine);
    assert!(outcomes.reason(too_many).contains("has 1025 streams, and 1024 paths"), "{}", outcomes.reason(too_many));
}

/// A kept input is a regular file, which can be read as often as one likes.
#[test]
fn a_kept_input_can_be_read_again() {
    const TWICE: [&str; 4] = ["sh", "-c", "test -f \"$1\" && cat \"$1\" \"$1\"", "sh"];
    let mut flow = flow();
    let text = flow.text("1\n2\n");
    let (ports, output) = Ports::none().input("text", &[text]).kept().stdout(&mut flow);
    let path = flow.command(ports, &[&TWICE[..], &["{in.text}"]].concat());
    let by_path = flow.collect(output);

    let more = flow.text("3\n");
    let (ports, output) = Ports::none().stdin(&[text, more]).kept().stdout(&mut flow);
    let stdin = flow.command(ports, &[&TWICE[..], &["/dev/stdin"]].concat());
    let by_stdin = flow.collect(output);

    let (ports, output) = Ports::none().input("text", &[text]).kept().stdout(&mut flow);
    let named = flow.command(ports, &["tac", "{in.text}", "{in.text}"]);
    let by_name = flow.collect(output);

    let refused = flow.command(Ports::none().input("text", &[text]), &["cat", "{in.text}", "{in.text}"]);
    let outcomes = flow.run();
    for function in [path, stdin, named] {
        outcomes.well(function);
    }
    assert_eq!(by_path.recv().unwrap(), "1\n2\n1\n2\n");
    assert_eq!(by_stdin.recv().unwrap(), "1\n2\n3\n1\n2\n3\n");
    assert_eq!(by_name.recv().unwrap(), "2\n1\n2\n1\n");
    assert!(outcomes.reason(refused).contains("name the input 'text' 2 times"), "{}", outcomes.reason(refused));
}

#[test]
fn a_kept_input_needs_a_folder_to_lie_in() {
    let mut flow = flow();
    let text = flow.text("1\n");
    let ports = Ports::none().input("text", &[text]).kept().env("TMPDIR", "/no/such/directory");
    let command = flow.command(ports, &["cat", "{in.text}"]);
    let outcomes = flow.run();
    let reason = outcomes.reason(command);
    assert!(reason.contains("in /no/such/directory") && reason.contains("set TMPDIR"), "{reason}");
}

/// As in a shell's pipeline, the end of an output is the end of the last process that has it open.
#[test]
fn an_output_ends_with_its_last_writer() {
    let mut flow = flow();
    let (left, has_left) = channel();
    let (_, input) = flow.source(move |out| {
        // The program itself has ended, or is about to: nothing but its child is left to read this.
        has_left.recv()?;
        out.write_all(b"late\n")
    });
    let (ports, output) = Ports::none().stdin(&[input]).stdout(&mut flow);
    let command = flow.command(ports, &["sh", "-c", "exec 3<&0; cat <&3 & echo early"]);
    let sink = flow.sink(output, move |input| {
        let mut text = Vec::new();
        while let Some(chunk) = input.chunk()? {
            text.extend_from_slice(chunk);
            if text == b"early\n" {
                left.send(())?;
            }
        }
        if text == b"early\nlate\n" { Ok(()) } else { Err(Error::new(String::from_utf8_lossy(&text))) }
    });
    let outcomes = flow.run();
    outcomes.well(command);
    outcomes.well(sink);
}

/// The program inherits neither the adapter's descriptors, nor its socket, nor its disposition of SIGPIPE.
#[test]
fn a_program_inherits_nothing_but_its_ports() {
    const LOOK: &str = "ls /proc/self/fd | sort -n; echo; grep SigIgn /proc/self/status; env | grep -c DFLOW_ || true";
    let by_itself = Command::new("sh").args(["-c", LOOK]).stdin(Stdio::null()).output().unwrap().stdout;
    let by_itself = String::from_utf8(by_itself).unwrap();
    let mut flow = flow();
    let (ports, output) = Ports::none().stdout(&mut flow);
    let plain = flow.command(ports, &["sh", "-c", LOOK]);
    let from_plain = flow.collect(output);
    let text = flow.text("");
    let (ports, output) = Ports::none().input("a", &[text]).stdout(&mut flow);
    let (ports, _) = ports.output("b", &mut flow);
    let paths = flow.command(ports, &["sh", "-c", &format!("ls -L \"$@\" >&2; {LOOK}"), "sh", "{in.a}", "{out.b}"]);
    let from_paths = flow.collect(output);
    let outcomes = flow.run();
    outcomes.well(plain);
    outcomes.well(paths);
    assert_eq!(from_plain.recv().unwrap(), by_itself);
    let (_, ignored) = by_itself.split_once("SigIgn:\t").unwrap();
    let ignored = u64::from_str_radix(ignored.lines().next().unwrap(), 16).unwrap();
    assert_eq!(ignored & (1 << (13 - 1)), 0, "SIGPIPE is ignored");
    assert!(by_itself.ends_with("\n0\n"), "{by_itself}");
    // Two descriptors more, and those are the ports.
    let (own, with_paths) = (lines(&by_itself), lines(&from_paths.recv().unwrap()));
    let ports: BTreeSet<String> = with_paths.difference(&own).map(|number| format!("/dev/fd/{number}")).collect();
    assert_eq!(ports, lines(outcomes.stderr(paths)));
    assert_eq!(ports.len(), 2);
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}
