//! All processes of an attempt that is stopped have time to clean up; those that remain after that are killed.

use std::os::fd::OwnedFd;
use std::time::Duration;

use dflow_launcher::{ContainmentChoice, ExitStatus, Launcher, LauncherEvent, LauncherOptions};

use crate::harness::{HOST, assert_closed, launcher, next, output, pipe, read_byte, shell};

under_each_containment!(
    a_program_cleans_up,
    background_processes_clean_up_as_well,
    what_cleans_up_is_not_asked_to_end,
    what_ignores_it_is_killed_when_the_grace_is_over,
    a_grace_can_be_shortened_but_not_prolonged,
    a_stopped_program_is_continued_so_that_it_can_end,
);

/// Far longer than any test takes: an attempt that ends under this grace has ended on its own.
const LONG: Duration = Duration::from_secs(3600);

/// A launcher with one attempt that has written a byte to descriptor 7; also returns the other ends of its descriptors
/// 7 and 8.
fn start(containment: ContainmentChoice, script: &str) -> (Launcher, OwnedFd, OwnedFd) {
    start_with(containment, |launcher, held, input| {
        let mut request = shell(script);
        request.fds.extend([(held, 7), (input, 8)]);
        launcher.spawn(1, request).unwrap();
    })
}

fn start_with(
    containment: ContainmentChoice,
    spawn: impl FnOnce(&mut Launcher, OwnedFd, OwnedFd),
) -> (Launcher, OwnedFd, OwnedFd) {
    let mut launcher = launcher(containment);
    let (reader, writer) = pipe();
    let (input, words) = pipe();
    spawn(&mut launcher, writer, input);
    read_byte(&reader);
    (launcher, reader, words)
}

/// Waits for a signal. A separate process writes the byte: a shell that has forked but not yet run a program still has
/// the handlers of its parent, and drops the signal.
const WAIT: &str = "sh -c 'printf r >&7; exec sleep 1000' & wait";

/// How the attempt ended, and whether it had to be killed.
fn end(launcher: &mut Launcher) -> (ExitStatus, bool) {
    loop {
        match next(launcher) {
            LauncherEvent::Exited { status, killed, .. } => return (status, killed),
            LauncherEvent::Spawned { .. } => {}
            event => panic!("{event:?}"),
        }
    }
}

fn a_program_cleans_up(containment: ContainmentChoice) {
    let (mut launcher, held, _words) = start(containment, &format!("trap 'printf c >&7; exit 5' TERM; {WAIT}"));
    launcher.stop(1, LONG).unwrap();
    assert_eq!(read_byte(&held), b'c');
    assert_eq!(end(&mut launcher), (ExitStatus::Exited(5), false));
    assert_closed(held);
}

fn background_processes_clean_up_as_well(containment: ContainmentChoice) {
    // In a separate session, without a parent, and it ends long after the main process.
    let script = format!("trap 'printf c >&7; head -c 1 <&8; printf d >&7; exit' TERM; {WAIT}");
    let request = |launcher: &mut Launcher, held: OwnedFd, input: OwnedFd| {
        let mut request = shell("(setsid sh -c \"$0\" &); exec sleep 1000");
        request.args.push(script.clone().into());
        request.fds.extend([(held, 7), (input, 8)]);
        launcher.spawn(1, request).unwrap();
    };
    let (mut launcher, held, words) = start_with(containment, request);
    launcher.stop(1, LONG).unwrap();
    assert_eq!(read_byte(&held), b'c');
    rustix::io::write(&words, b"w").unwrap();
    assert_eq!(read_byte(&held), b'd');
    assert_eq!(end(&mut launcher), (ExitStatus::Signaled(libc::SIGTERM), false));
    assert_closed(held);
}

fn what_cleans_up_is_not_asked_to_end(containment: ContainmentChoice) {
    let script = format!("trap 'sh -c \"printf c >&7; head -c 1 <&8; printf d >&7\"; exit 6' TERM; {WAIT}");
    let (mut launcher, held, words) = start(containment, &script);
    launcher.stop(1, LONG).unwrap();
    assert_eq!(read_byte(&held), b'c');
    // A second request does not send a second signal.
    launcher.stop(1, LONG / 2).unwrap();
    rustix::io::write(&words, b"w").unwrap();
    assert_eq!(read_byte(&held), b'd');
    assert_eq!(end(&mut launcher), (ExitStatus::Exited(6), false));
}

const DEAF: &str = "trap '' TERM; printf r >&7; while :; do sleep 1000; done";

fn what_ignores_it_is_killed_when_the_grace_is_over(containment: ContainmentChoice) {
    let (mut launcher, held, _words) = start(containment, DEAF);
    launcher.stop(1, Duration::from_millis(1500)).unwrap();
    assert_eq!(end(&mut launcher), (ExitStatus::Signaled(libc::SIGKILL), true));
    assert_closed(held);
}

fn a_grace_can_be_shortened_but_not_prolonged(containment: ContainmentChoice) {
    let (mut launcher, held, _words) = start(containment, DEAF);
    launcher.stop(1, LONG).unwrap();
    launcher.stop(1, Duration::from_millis(50)).unwrap();
    launcher.stop(1, LONG).unwrap();
    assert_eq!(end(&mut launcher), (ExitStatus::Signaled(libc::SIGKILL), true));
    assert_closed(held);
    let (mut launcher, held, _words) = start(containment, DEAF);
    launcher.stop(1, LONG).unwrap();
    launcher.kill(1).unwrap();
    assert_eq!(end(&mut launcher), (ExitStatus::Signaled(libc::SIGKILL), true));
    assert_closed(held);
}

fn a_stopped_program_is_continued_so_that_it_can_end(containment: ContainmentChoice) {
    let script = "trap 'exit 4' TERM; echo $$ >&7; kill -STOP $$; while :; do sleep 1000 & wait; done";
    let (reader, writer) = pipe();
    let mut launcher = launcher(containment);
    let mut request = shell(script);
    request.fds.push((writer, 7));
    launcher.spawn(1, request).unwrap();
    let pid = match next(&mut launcher) {
        LauncherEvent::Spawned { pid, .. } => pid,
        event => panic!("{event:?}"),
    };
    read_byte(&reader);
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
    };
    while !is_stopped() {
        std::thread::yield_now();
    }
    launcher.stop(1, LONG).unwrap();
    assert_eq!(end(&mut launcher), (ExitStatus::Exited(4), false));
}

/// The signals that a function ignores if its daemon was started by a shell after these commands.
fn ignored_after(words: &str) -> u64 {
    let options = LauncherOptions {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), format!("{words}; exec {HOST} __launcher").into()],
        containment: ContainmentChoice::Subreaper,
    };
    let mut launcher = Launcher::start(&options).unwrap();
    let status = output(&mut launcher, shell("cat /proc/self/status"));
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}

#[test]
fn functions_ignore_the_signals_that_the_daemon_ignores() {
    let bit = |signal: i32| 1u64 << (signal - 1);
    assert_eq!(ignored_after(":"), 0);
    assert_eq!(ignored_after("trap '' HUP"), bit(libc::SIGHUP));
    assert_eq!(ignored_after("trap '' INT QUIT PIPE CHLD"), bit(libc::SIGINT) | bit(libc::SIGQUIT));
}
