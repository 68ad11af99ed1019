//! Everything that can go wrong with a run on one machine, through the real `dflow`: each fault has a clear error, no byte
//! is lost, no output is half visible, and nothing is left behind.

use crate::nodes::is_launcher;
use crate::support::{Case, SmallDisk, eventually, test_bytes};
use std::process::Command;

const MIB: u64 = 1 << 20;

/// a writes, b copies and checks, and the copy is the output.
fn chain(a: &str, b: &str) -> Case {
    Case::new(
        &format!(
            "a: {{ program: dflow-probe, outputs: [o], {a} }}
             b: {{ program: dflow-probe, inputs: {{ i: a.o }}, outputs: [o], {b} }}"
        ),
        "{ o: b.o }",
    )
}

#[test]
fn a_failed_function_has_its_reason() {
    for (how, words) in [
        ("error", &["it was told to fail"][..]),
        ("exit", &["exit status 3"]),
        ("panic", &["exit status 101", "it was told to panic"]),
        ("kill", &["SIGKILL"]),
        ("abort", &["SIGABRT"]),
    ] {
        let case = chain(&format!("params: {{ bytes: 5000000, fail: {how}, fail_at: 3000000 }}"), "");
        case.run(&[]).failed("a", words);
        assert!(!case.path("out").exists(), "{how}");
        let case = chain("params: { bytes: 5000000 }", &format!("params: {{ fail: {how}, fail_at: 3000000 }}"));
        case.run(&[]).failed("b", words);
    }
}

#[test]
fn retries_keep_outputs_exactly_once() {
    for how in ["error", "exit", "kill", "kill-in-chunk", "abort"] {
        let case = chain(
            &format!(
                "params: {{ bytes: 6000000, fail: {how}, fail_at: 3000000, fail_attempts: 2 }}, retries: {{ count: 2, backoff: 1ms }}"
            ),
            "params: { check: true }",
        );
        let ran = case.run(&[]);
        ran.succeeded();
        assert_eq!(ran.attempts("a").len(), 3, "{how}");
        assert!(case.output("o") == test_bytes(6_000_000), "{how}: the output is wrong");
    }
}

#[test]
fn a_consumer_that_fails_reads_everything_again() {
    let case = chain(
        "params: { bytes: 12000000 }",
        "params: { check: true, fail: kill, fail_at: 5000000, fail_attempts: 2 }, retries: { count: 2, backoff: 1ms }",
    );
    let ran = case.run(&["--memory", "4MiB"]);
    ran.succeeded();
    assert_eq!(ran.attempts("a").len(), 1, "the producer has nothing to do with it");
    assert!(case.output("o") == test_bytes(12_000_000));
}

#[test]
fn a_function_that_hangs_is_ended_when_its_time_is_up() {
    for how in ["hang", "spin"] {
        let case = chain(&format!("params: {{ bytes: 5000000, fail: {how}, fail_at: 100 }}, timeout: 300ms"), "");
        case.run(&[]).failed("a", &["timed out", "300"]);
    }
}

#[test]
fn a_function_may_stop_reading_early() {
    // b never reads its input; a learns that it has no reader.
    let case = chain("params: { bytes: 100000000000 }", "params: { bytes: 1000, read: 0 }");
    let ran = case.run(&[]);
    ran.succeeded();
    assert_eq!(ran.attempts("a")[0]["end"], "unread");
    assert!(case.output("o") == test_bytes(1000));
}

#[test]
fn background_processes_of_a_function_end_with_it() {
    let case = chain("params: { bytes: 1000, fail: orphan }", "");
    case.run(&[]).succeeded();
}

#[test]
fn a_hostile_function_fails_alone() {
    for how in ["words", "messages", "packets"] {
        let case = Case::new(
            &format!(
                "bad: {{ program: dflow-probe, outputs: [o], env: {{ PROBE_HOSTILE: {how} }}, retries: {{ count: 3, backoff: 50ms }} }}
                 reader: {{ program: dflow-probe, inputs: {{ i: bad.o }}, outputs: [o] }}
                 good: {{ program: dflow-probe, outputs: [o], params: {{ bytes: 20000000, pause_us: 300 }} }}
                 copy: {{ program: dflow-probe, inputs: {{ i: good.o }}, outputs: [o], params: {{ check: true }} }}"
            ),
            "{ o: copy.o, bad: reader.o }",
        );
        let ran = case.run(&["--slots", "4"]);
        ran.failed("bad", &[]);
        // The others were not harmed before the run as a whole was given up, though one of them read from it.
        for name in ["good", "copy", "reader"] {
            for attempt in ran.attempts(name) {
                assert_ne!(attempt["end"], "failed", "{how}: {name}: {}", attempt["reason"]);
            }
        }
    }
}

#[test]
fn the_diamond_with_small_windows() {
    let case = Case::new(
        "a: { program: dflow-probe, outputs: [l, r], params: { bytes: 20000000 } }
         b: { program: dflow-probe, inputs: { i: a.l }, outputs: [o] }
         c: { program: dflow-probe, inputs: { i: a.r }, outputs: [o] }
         d: { program: dflow-probe, inputs: { x: b.o, y: c.o }, outputs: [o], params: { check: true, order: one-by-one } }",
        "{ o: d.o }",
    );
    for args in [&["--memory", "2MiB", "--window", "64KiB"][..], &["--memory", "1MiB", "--slots", "1"]] {
        let ran = case.run(args);
        ran.succeeded();
        assert_eq!(case.output("o").len(), 40_000_000);
        assert!(ran.report["memory"]["spilled_bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_long_stream_passes_through_a_small_budget() {
    let case = chain("params: { bytes: 100000000, chunk: 1000000 }", "params: { check: true }");
    for args in [&["--memory", "16MiB"][..], &["--memory", "16MiB", "--invocation", "control-flow"]] {
        let ran = case.run(args);
        ran.succeeded();
        assert!(ran.report["memory"]["peak_bytes"].as_u64().unwrap() <= 17 * MIB, "{}", ran.report["memory"]);
        assert_eq!(case.output("o").len(), 100_000_000);
    }
}

#[test]
fn a_program_that_is_missing_or_not_executable() {
    let case = Case::new("a: { program: no-such-program, outputs: [o] }", "{ o: a.o }");
    case.run(&[]).refused(&["'a'", "no-such-program", "install it"]);
    let case = Case::new("a: { program: ./plain-file, outputs: [o] }", "{ o: a.o }");
    std::fs::write(case.path("plain-file"), "hello").unwrap();
    case.run(&[]).refused(&["plain-file", "chmod +x"]);
    let case = Case::new("a: { command: [no-such-command] }", "{ o: a.out }");
    case.run(&[]).refused(&["no-such-command"]);
}

#[test]
fn a_program_that_is_not_a_function() {
    let case = Case::new("a: { program: /bin/true, outputs: [o] }", "{ o: a.o }");
    case.run(&[]).failed("a", &["command", "dflow_function::run"]);
}

#[test]
fn an_input_that_cannot_be_read() {
    let case = Case::with_header("inputs: [text]", "a: { command: [cat], inputs: [inputs.text] }", "{ o: a.out }");
    case.run(&["--input", "text=/nowhere/at/all"]).refused(&["'text'", "/nowhere/at/all", "No such file"]);
    case.run(&[]).refused(&["--input text="]);
    case.run(&["--input", "other=/dev/null"]).refused(&["other", "text"]);
    std::fs::create_dir(case.path("empty")).unwrap();
    let empty = format!("text={}", case.path("empty").display());
    case.run(&["--input", &empty]).refused(&["no files"]);
}

#[test]
fn an_output_directory_that_cannot_be_used() {
    let case = chain("params: { bytes: 1000 }", "");
    let other = case.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("mine"), "precious").unwrap();
    case.run(&["--output", other.to_str().unwrap()]).refused(&["did not write: mine", "--output", "--overwrite"]);
    assert_eq!(std::fs::read(other.join("mine")).unwrap(), b"precious");
    let file = case.path("other/mine/below");
    case.run(&["--output", file.to_str().unwrap()]).refused(&["mine"]);
    case.run(&["--output", "/proc/no/place"]).refused(&["/proc"]);
}

#[test]
fn a_second_run_replaces_the_first_ones_outputs() {
    let case = chain("params: { bytes: 1000 }", "");
    case.run(&[]).succeeded();
    case.run(&[]).succeeded();
    assert!(case.output("o") == test_bytes(1000));
    // A run that fails leaves the outputs of the one before.
    let text = std::fs::read_to_string(case.path("case.yaml")).unwrap();
    std::fs::write(case.path("case.yaml"), text.replace("bytes: 1000", "bytes: 1000, fail: error, fail_at: 500"))
        .unwrap();
    case.run(&[]).failed("a", &[]);
    assert!(case.output("o") == test_bytes(1000));
}

#[test]
fn a_full_output_disk() {
    let case = chain("params: { bytes: 8000000 }", "");
    let disk = SmallDisk::mount(&case.path("disk"), "1m");
    let out = case.path("disk/out");
    case.run(&["--output", out.to_str().unwrap()]).failed("output:o", &["No space left", "write"]);
    drop(disk);
}

#[test]
fn a_full_spill_disk() {
    // b waits for the whole output of a, which is larger than memory and disk together.
    let case = Case::new(
        "a: { program: dflow-probe, outputs: [o], params: { bytes: 30000000 } }
         b: { program: dflow-probe, inputs: { i: { from: a.o, gate: whole } }, outputs: [o] }",
        "{ o: b.o }",
    );
    let disk = SmallDisk::mount(&case.path("disk"), "4m");
    let ran = case.run(&["--memory", "4MiB", "--spill-dir", case.path("disk").to_str().unwrap()]);
    assert_eq!(ran.code, Some(1), "{}", ran.report);
    let reason = ran.report["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("no space left") && reason.contains("--spill-dir"), "{reason}");
    drop(disk);
}

#[test]
fn plain_io_spills_as_well() {
    let case = chain("params: { bytes: 30000000 }", "params: { check: true }");
    let ran = case.run(&["--memory", "4MiB", "--spill-io", "plain", "--invocation", "control-flow"]);
    ran.succeeded();
    assert!(ran.report["memory"]["spilled_bytes"].as_u64().unwrap() > 20 * MIB);
    assert!(case.output("o") == test_bytes(30_000_000));
}

#[test]
fn a_budget_that_is_too_small() {
    let case = chain("params: { bytes: 1000 }", "");
    case.run(&["--memory", "4KiB"]).refused(&["memory budget", "64 MiB"]);
}

#[test]
fn too_few_descriptors() {
    let functions: String = (0..40)
        .map(|index| {
            format!(
                "f{index}: {{ program: dflow-probe, outputs: [o], params: {{ bytes: 100000, pause_us: 100000 }} }}\n"
            )
        })
        .collect();
    let case = Case::new(&functions, "{}");
    let output = case.limited("ulimit -n 64", &["--slots", "40"]).output().unwrap();
    let ran = case.finish(output);
    assert_eq!(ran.code, Some(1), "{} {}", ran.stderr, ran.report);
    assert!(ran.report["error"]["reason"].as_str().unwrap().contains("ulimit -n"), "{}", ran.report["error"]);
}

#[test]
fn the_daemon_is_killed() {
    let case = chain("params: { bytes: 100000000000 }", "params: { pause_us: 1000 }");
    let mut daemon = case.spawn(&[]);
    eventually("the functions do not start", || {
        case.processes().iter().filter(|(_, name)| name.starts_with("dflow-probe")).count() == 2
    });
    daemon.kill();
    eventually("functions outlive the daemon", || case.processes().is_empty());
    // No output is visible. The next run works, and removes the unfinished files of the killed one.
    assert!(!case.path("out").exists());
    let text = std::fs::read_to_string(case.path("case.yaml")).unwrap();
    std::fs::write(case.path("case.yaml"), text.replace("bytes: 100000000000", "bytes: 1000")).unwrap();
    case.run(&[]).succeeded();
}

#[test]
fn the_launcher_is_killed() {
    let case = chain("params: { bytes: 100000000000 }", "params: { pause_us: 1000 }");
    let daemon = case.spawn(&[]);
    let mut launcher = None;
    eventually("the functions do not start", || {
        let processes = case.processes();
        launcher = processes.iter().map(|(pid, _)| *pid).find(|pid| is_launcher(*pid));
        processes.iter().filter(|(_, name)| name.starts_with("dflow-probe")).count() == 2 && launcher.is_some()
    });
    Command::new("kill").args(["-9", &launcher.unwrap().to_string()]).status().unwrap();
    let ran = case.finish(daemon.wait());
    assert_eq!(ran.code, Some(1), "{}", ran.report);
    assert!(ran.report["error"]["reason"].as_str().unwrap().contains("launcher"), "{}", ran.report["error"]);
}

#[test]
fn ctrl_c_ends_everything() {
    let case = chain("params: { bytes: 100000000000 }", "params: { pause_us: 1000 }");
    let daemon = case.spawn(&[]);
    eventually("the functions do not start", || {
        case.processes().iter().filter(|(_, name)| name.starts_with("dflow-probe")).count() == 2
    });
    Command::new("kill").args(["-INT", &daemon.id().to_string()]).status().unwrap();
    let ran = case.finish(daemon.wait());
    assert_eq!(ran.code, Some(130), "{}", ran.report);
    assert_eq!(ran.report["state"], "cancelled");
    assert!(!case.path("out").exists());
}

#[test]
fn a_command_that_fails_shows_its_errors() {
    let case = Case::new("a: { command: [sh, -c, 'echo one; echo oops >&2; exit 3'] }", "{ o: a.out }");
    case.run(&[]).failed("a", &["exit status 3", "oops"]);
    let case = Case::new("a: { command: [sh, -c, 'kill -SEGV $$'] }", "{ o: a.out }");
    case.run(&[]).failed("a", &["SIGSEGV"]);
}

#[test]
fn head_ends_an_endless_producer() {
    let case = Case::new(
        "a: { command: [yes, dflow] }
         b: { command: [head, -n, 1000], inputs: [a.out] }",
        "{ o: b.out }",
    );
    case.run(&[]).succeeded();
    assert_eq!(case.output("o"), b"dflow\n".repeat(1000));
}

/// Producers have the slots first. They must not fill the disk before their readers get one.
#[test]
fn producers_leave_their_slots_to_their_readers() {
    let case = Case::new(
        "a: { command: [head, -c, 600000000, /dev/zero] }
         b: { command: [head, -c, 600000000, /dev/zero] }
         c: { command: [tail, -c, 5], inputs: [a.out] }
         d: { command: [tail, -c, 5], inputs: [b.out] }",
        "{ c: c.out, d: d.out }",
    );
    // With much memory, windows are so large that a thread backs them.
    for memory in ["64MiB", "512MiB"] {
        for slots in ["1", "2"] {
            let ran = case.run(&["--slots", slots, "--memory", memory]);
            ran.succeeded();
            assert_eq!((case.output("c"), case.output("d")), (vec![0; 5], vec![0; 5]));
            let spilled = ran.report["memory"]["spilled_bytes"].as_u64().unwrap();
            assert!(spilled < 300_000_000, "{slots} slots, {memory}: {}", ran.report["memory"]);
        }
    }
}

#[test]
fn a_misspelt_parameter_of_a_function_is_named() {
    let case = Case::new("s: { program: dflow-probe, outputs: [o], params: { byte: 1000 } }", "{ o: s.o }");
    let ran = case.run(&[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let expected = "'s' has no parameter 'bytes'; did you mean 'byte'? Its parameters in the workflow file: byte";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
}
