//! Early ends of runs: signals, time to clean up, time limits, and programs that live on.

use crate::support::{Case, Ran, Running, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// A shell that writes its process id to the file `mark`, waits, and runs a command at SIGTERM. A separate process waits: a
/// shell that has forked but not yet run a program drops signals for which it has a handler.
fn at_term(what: &str, settings: &str) -> Case {
    let case = Case::new(
        &format!(
            "a: {{ command: [sh, -c, 'trap \"{what}\" TERM; sh -c \"echo > HERE/mark; exec sleep 1000\" & wait; wait'], {settings} }}"
        ),
        "{ o: a.out }",
    );
    here(case)
}

/// Replaces HERE in the workflow file by the directory of the case.
fn here(case: Case) -> Case {
    let text = std::fs::read_to_string(case.path("case.yaml")).unwrap();
    let folder = case.path("").display().to_string();
    std::fs::write(case.path("case.yaml"), text.replace("HERE", folder.trim_end_matches('/'))).unwrap();
    case
}

fn started(case: &Case) {
    eventually("the function does not start", || case.path("mark").exists());
}

fn send(run: &Running, signal: Signal) {
    kill_process(Pid::from_raw(run.id().cast_signed()).unwrap(), signal).unwrap();
}

/// The run was cancelled by a signal, and its only function ended like this.
#[track_caller]
fn cancelled(ran: &Ran, code: i32, signal: &str, stopped: &str) {
    assert_eq!(ran.code, Some(code), "{}\n{}", ran.stderr, ran.report);
    assert_eq!(ran.report["state"], "cancelled");
    assert!(ran.report["cancelled_by"].as_str().unwrap().starts_with(signal), "{}", ran.report);
    assert_eq!(ran.attempts("a")[0]["stopped"], stopped, "{}", ran.report);
}

#[test]
fn each_signal_has_its_status_and_functions_clean_up() {
    for (signal, code, name) in
        [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM"), (Signal::HUP, 129, "SIGHUP")]
    {
        let case = at_term("echo clean > HERE/cleaned; exit 3", "grace: 1h");
        let run = case.spawn(&[]);
        started(&case);
        send(&run, signal);
        let ran = case.finish(run.wait());
        cancelled(&ran, code, name, "by-itself");
        assert_eq!(std::fs::read(case.path("cleaned")).unwrap(), b"clean\n");
    }
}

#[test]
fn a_function_that_does_not_clean_up_in_time_is_killed() {
    for settings in ["grace: 300ms", "grace: 0s"] {
        let case = at_term("", settings);
        let run = case.spawn(&[]);
        started(&case);
        send(&run, Signal::INT);
        cancelled(&case.finish(run.wait()), 130, "SIGINT", "killed");
    }
}

#[test]
fn a_second_signal_ends_everything_at_once() {
    let case = at_term("echo > HERE/told", "grace: 1h");
    // After its handler, the shell continues to wait for a process that gets no signal.
    case.replace("& wait; wait'", "& wait; exec sleep 1000'");
    for (first, second) in [(Signal::INT, Signal::INT), (Signal::TERM, Signal::INT)] {
        let run = case.spawn(&[]);
        started(&case);
        send(&run, first);
        eventually("the function is not told to end", || case.path("told").exists());
        send(&run, second);
        let (code, name) = if first == Signal::INT { (130, "SIGINT") } else { (143, "SIGTERM") };
        cancelled(&case.finish(run.wait()), code, name, "killed");
        ["mark", "told"].iter().for_each(|file| std::fs::remove_file(case.path(file)).unwrap());
    }
    let run = case.spawn(&[]);
    started(&case);
    send(&run, Signal::QUIT);
    cancelled(&case.finish(run.wait()), 131, "SIGQUIT", "killed");
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let case = here(Case::new(
        "a: { command: [sh, -c, 'grep SigIgn: /proc/self/status; echo > HERE/mark; read line < GATE'] }",
        "{ o: a.out }",
    ));
    let mut gate = case.gate();
    let run = Running::start(case.limited("trap '' HUP", &[]));
    started(&case);
    send(&run, Signal::HUP);
    // This signal is not ignored, and arrives after the ignored one.
    kill_process(Pid::from_raw(run.id().cast_signed()).unwrap(), Signal::CONT).unwrap();
    gate.open();
    case.finish(run.wait()).succeeded();
    let mask = String::from_utf8(case.output("o")).unwrap();
    let mask = u64::from_str_radix(mask.trim_start_matches("SigIgn:").trim(), 16).unwrap();
    assert_eq!(mask & 0x7fff_ffff, 1, "functions ignore SIGHUP, as under a shell, and nothing else");
}

#[test]
fn waiting_counts_only_towards_the_deadline() {
    let case = Case::new(
        "gen: { command: [sh, -c, 'echo one; sleep 1; echo two'] }
         a: { program: dflow-probe, inputs: { i: gen.out }, outputs: [o], timeout: 300ms }",
        "{ o: a.o }",
    );
    case.run(&[]).succeeded();
    assert_eq!(case.output("o"), b"one\ntwo\n");
    case.replace("timeout: 300ms", "deadline: 300ms");
    case.run(&[])
        .failed("a", &["missed its deadline", "within 300ms of its start", "waited", "for gen.out", "SIGTERM"]);
}

#[test]
fn a_timeout_reports_the_counted_time() {
    let case = Case::new(
        "gen: { command: [sh, -c, 'echo one; sleep 1; echo two'] }
         a: { program: dflow-probe, inputs: { i: gen.out }, outputs: [o], timeout: 300ms, params: { fail: hang, fail_at: 8 } }",
        "{ o: a.o }",
    );
    case.run(&[])
        .failed("a", &["it timed out: it computed for", "'timeout' is 300ms", "for gen.out, which does not count"]);
}

#[test]
fn a_function_that_ended_while_dflow_was_stopped_is_not_timed_out() {
    let case = here(Case::new(
        "a: { command: [sh, -c, 'echo > HERE/mark; read line < GATE; echo done'], timeout: 2s }",
        "{ o: a.out }",
    ));
    let mut gate = case.gate();
    let run = case.spawn(&[]);
    started(&case);
    send(&run, Signal::STOP);
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", run.id())).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
    };
    eventually("dflow does not stop", is_stopped);
    gate.open();
    // Longer than the limit, whose clock must not run in this time.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    send(&run, Signal::CONT);
    case.finish(run.wait()).succeeded();
}

#[test]
fn a_function_that_lives_on_without_its_channel_is_ended() {
    for (how, words) in [
        ("close", &["it closed its channel to dflow, and it did not end within 1s"][..]),
        ("shut-read", &["it closed its channel to dflow"]),
        ("shut-write", &["it closed its channel to dflow"]),
        ("done", &["its work was done, but it did not end within 1s", "SIGTERM"]),
        ("failed", &["it gave up", "did not end within 1s"]),
        ("silent", &["it has not become a dflow function within 400ms", "dflow_function::run", "start_timeout"]),
    ] {
        let settings = format!("outputs: [o], env: {{ PROBE_HOSTILE: {how} }}, grace: 1s, start_timeout: 400ms");
        // Only the silent one misses its start timeout.
        let settings = if how == "silent" { settings } else { settings.replace("400ms", "60s") };
        let case = Case::new(&format!("a: {{ program: dflow-probe, {settings} }}"), "{ o: a.o }");
        case.run(&[]).failed("a", words);
    }
}

#[test]
fn a_program_that_is_not_a_function_and_does_not_end() {
    let case = here(Case::new("a: { program: HERE/script, outputs: [o], start_timeout: 300ms }", "{ o: a.o }"));
    let script = case.path("script");
    std::fs::write(&script, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    case.run(&[]).failed("a", &["it has not become a dflow function within 300ms", "under 'command'"]);
}

#[test]
fn a_process_that_holds_the_output_of_a_program_that_has_ended_is_named_and_holds_no_slot() {
    // `b` can only start after `a`, in its slot, and `a` only end after `b` has started.
    let case = here(Case::new(
        "a: { command: [sh, -c, 'sh -c \"read line < GATE\" & echo done'], timeout: 1s }
         b: { command: [sh, -c, 'echo > HERE/mark; cat'], inputs: [a.out] }",
        "{ b: b.out }",
    ));
    let mut gate = case.gate();
    let run = case.spawn(&["--slots", "1"]);
    started(&case);
    gate.open();
    let ran = case.finish(run.wait());
    ran.succeeded();
    assert_eq!(case.output("b"), b"done\n");
    let held = ran.attempts("a")[0]["held_open_by"].as_str().unwrap();
    assert!(held.starts_with("process ") && held.ends_with(" (sh)"), "{held}");
    assert!(ran.stderr.contains(&format!("`a` has ended; {held} holds its output")), "{}", ran.stderr);
}

#[test]
fn the_time_of_a_command_is_that_of_its_program() {
    // The adapter waits for more input all the time, but the program computes, which counts.
    let case = Case::new(
        "gen: { command: [sh, -c, 'echo one; sleep 1000'] }
         a: { command: [sh, -c, 'read line; while :; do :; done'], inputs: [gen.out], timeout: 300ms }",
        "{ o: a.out }",
    );
    case.run(&["--slots", "2"]).failed("a", &["it timed out: it computed for"]);
    // The program waits for input, which does not count.
    let case = Case::new(
        "gen: { command: [sh, -c, 'echo one; sleep 1; echo two'] }
         a: { command: [sh, -c, 'read line; read line; echo $line'], inputs: [gen.out], timeout: 300ms }",
        "{ o: a.out }",
    );
    case.run(&["--slots", "2"]).succeeded();
}
