//! An attempt has ended when all of its processes have ended: every process of an attempt inherits one end of a pipe,
//! which must be closed at the moment when `Exited` arrives.

use std::os::fd::OwnedFd;

use dflow_launcher::{
    ContainmentChoice, ContainmentKind, ExitStatus, Launcher, LauncherEvent, MemoryLimits, SpawnRequest,
};

use crate::harness::{HOST, assert_closed, exited, launcher, next, pipe, read_byte, shell};

under_each_containment!(
    a_daemonised_grandchild_ends_with_the_attempt,
    kill_ends_a_loop_that_forks,
    kill_ends_a_chain_of_forks,
    kill_right_after_spawn,
    ending_attempts_leave_others_alone,
    containment_is_reported,
    a_memory_limit_is_enforced_or_said_not_to_be,
    a_limit_by_a_cgroup_leaves_others_alone,
);

/// Starts an attempt that holds a pipe as descriptor 7, and waits until it has written a byte there.
fn start(launcher: &mut Launcher, id: u64, mut request: SpawnRequest) -> OwnedFd {
    let (reader, writer) = pipe();
    request.fds.push((writer, 7));
    launcher.spawn(id, request).unwrap();
    read_byte(&reader);
    reader
}

/// A grandchild in a separate session whose parent has exited and that ignores SIGTERM and SIGHUP.
const DAEMONISED: &str = "(setsid sh -c 'trap \"\" TERM HUP INT; echo ready >&7; while :; do sleep 1000; done' &)";

fn a_daemonised_grandchild_ends_with_the_attempt(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let (stdin, writer) = pipe();
    let mut request = shell(&format!("{DAEMONISED}; read line; exit 7"));
    request.fds.push((stdin, 0));
    let held = start(&mut launcher, 1, request);
    drop(writer);
    assert_eq!(exited(&mut launcher).0, ExitStatus::Exited(7));
    assert_closed(held);
}

fn kill_ends_a_loop_that_forks(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let held = start(&mut launcher, 1, shell("while :; do sleep 1000 & echo >&7; done"));
    for _ in 0..50 {
        read_byte(&held);
    }
    launcher.kill(1).unwrap();
    assert_eq!(exited(&mut launcher).0, ExitStatus::Signaled(libc::SIGKILL));
    assert_closed(held);
}

fn kill_ends_a_chain_of_forks(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    // The main process is the first link of the chain and exits at once: the rest must be found.
    let (held, writer) = pipe();
    let mut request = SpawnRequest::new(HOST);
    request.args = vec!["chain".into()];
    request.fds.push((writer, 7));
    launcher.spawn(1, request).unwrap();
    assert_eq!(exited(&mut launcher).0, ExitStatus::Exited(0));
    assert_closed(held);
}

fn kill_right_after_spawn(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    for id in 0..20 {
        let (held, writer) = pipe();
        let mut request = shell(&format!("{DAEMONISED}; sleep 1000"));
        request.fds.push((writer, 7));
        launcher.spawn(id, request).unwrap();
        launcher.kill(id).unwrap();
        assert_eq!(exited(&mut launcher).0, ExitStatus::Signaled(libc::SIGKILL));
        assert_closed(held);
    }
}

fn ending_attempts_leave_others_alone(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let (stdin, writer) = pipe();
    let mut request = shell(&format!("{DAEMONISED}; read line; echo >&7; read line; exit 3"));
    request.fds.push((stdin, 0));
    let held = start(&mut launcher, 1, request);
    for id in 2..10 {
        let other = start(&mut launcher, id, shell(&format!("{DAEMONISED}; sleep 1000")));
        launcher.kill(id).unwrap();
        assert_eq!(exited(&mut launcher).0, ExitStatus::Signaled(libc::SIGKILL));
        assert_closed(other);
    }
    rustix::io::write(&writer, b"\n").unwrap();
    // Both processes of the first attempt are still there.
    read_byte(&held);
    rustix::io::write(&writer, b"\n").unwrap();
    assert_eq!(exited(&mut launcher).0, ExitStatus::Exited(3));
    assert_closed(held);
}

fn containment_is_reported(choice: ContainmentChoice) {
    let mut launcher = launcher(choice);
    let containment = launcher.containment().clone();
    let held = start(&mut launcher, 12, shell("echo >&7; sleep 1000"));
    match (choice, &containment.kind) {
        (ContainmentChoice::Cgroup, ContainmentKind::Cgroup { directory }) => {
            assert!(containment.describe().contains(directory.to_str().unwrap()));
            let attempt = directory.join("12");
            let procs = std::fs::read_to_string(attempt.join("cgroup.procs")).unwrap();
            assert!(procs.lines().count() >= 1, "nothing runs in it");
            launcher.kill(12).unwrap();
            exited(&mut launcher);
            assert!(!attempt.exists());
            launcher.shutdown().unwrap();
            assert!(!directory.exists());
        }
        (ContainmentChoice::Subreaper, ContainmentKind::Subreaper { .. }) => {
            assert!(containment.describe().contains("subreaper"));
            launcher.shutdown().unwrap();
        }
        other => panic!("{other:?}"),
    }
    assert_closed(held);
}

#[test]
fn cgroups_that_a_function_made_are_removed() {
    let mut launcher = launcher(ContainmentChoice::Cgroup);
    let ContainmentKind::Cgroup { directory } = launcher.containment().kind.clone() else { panic!() };
    let attempt = directory.join("1");
    let mut request =
        shell(&format!("mkdir -p $D/a/b $D/c && echo 0 >$D/a/b/cgroup.procs && {DAEMONISED}; read line; exit 6"));
    request.env.push(("D".into(), attempt.clone().into()));
    let (stdin, writer) = pipe();
    request.fds.push((stdin, 0));
    let held = start(&mut launcher, 1, request);
    assert!(attempt.join("a/b").exists());
    drop(writer);
    assert_eq!(exited(&mut launcher), (ExitStatus::Exited(6), String::new()));
    assert_closed(held);
    assert!(!attempt.exists());
}

#[test]
fn a_function_that_kills_its_reaper_ends_with_it() {
    let mut launcher = launcher(ContainmentChoice::Subreaper);
    let (stdin, writer) = pipe();
    let mut request = shell(&format!("{DAEMONISED}; read line; kill -KILL $PPID; sleep 1000"));
    request.fds.push((stdin, 0));
    let held = start(&mut launcher, 1, request);
    let other = start(&mut launcher, 2, shell("echo >&7; sleep 1000"));
    drop(writer);
    assert_eq!(exited(&mut launcher).0, ExitStatus::Signaled(libc::SIGKILL));
    assert_closed(held);
    // The other attempt is not affected.
    launcher.kill(2).unwrap();
    assert_eq!(exited(&mut launcher).0, ExitStatus::Signaled(libc::SIGKILL));
    assert_closed(other);
}

/// How the only live attempt has ended, and whether because of its memory limit.
fn ended(launcher: &mut Launcher) -> (u64, ExitStatus, bool) {
    loop {
        match next(launcher) {
            LauncherEvent::Spawned { .. } => {}
            LauncherEvent::Exited { id, status, out_of_memory, .. } => return (id, status, out_of_memory),
            event => panic!("{event:?}"),
        }
    }
}

fn a_memory_limit_is_enforced_or_said_not_to_be(choice: ContainmentChoice) {
    let mut launcher = launcher(choice);
    let containment = launcher.containment().clone();
    let limited = containment.memory_limits();
    eprintln!("{}", containment.describe());
    // A child exceeds the limit, not the main process, which would continue.
    let then = if limited { "sleep 1000" } else { "exit 0" };
    let mut request = shell(&format!("head -c 64M /dev/zero | tail -c 64M | wc -c >&2; {then}"));
    request.memory_limit = Some(16 << 20);
    launcher.spawn(1, request).unwrap();
    let (_, status, out_of_memory) = ended(&mut launcher);
    assert_eq!(out_of_memory, limited);
    assert_eq!(status.success(), !limited);
    // The same program with enough memory.
    let mut request = shell("head -c 64M /dev/zero | tail -c 64M | wc -c >&2; exit 0");
    request.memory_limit = Some(256 << 20);
    launcher.spawn(2, request).unwrap();
    assert_eq!(ended(&mut launcher), (2, ExitStatus::Exited(0), false));
    launcher.shutdown().unwrap();
    if let MemoryLimits::Version1 { directory } = containment.memory {
        assert!(!directory.exists());
    }
}

fn a_limit_by_a_cgroup_leaves_others_alone(choice: ContainmentChoice) {
    let mut launcher = launcher(choice);
    let described = launcher.containment().describe();
    assert!(launcher.containment().memory_limits(), "this test needs cgroups that limit memory; here {described}");
    let (stdin, writer) = pipe();
    let mut other = shell("echo >&7; read line; exit 5");
    other.fds.push((stdin, 0));
    other.memory_limit = Some(64 << 20);
    let held = start(&mut launcher, 1, other);
    let (greedy_stdin, go) = pipe();
    let mut request =
        shell(&format!("{DAEMONISED}; read line; head -c 64M /dev/zero | tail -c 64M >/dev/null; sleep 1000"));
    request.fds.push((greedy_stdin, 0));
    request.memory_limit = Some(16 << 20);
    let greedy = start(&mut launcher, 2, request);
    drop(go);
    let (id, status, out_of_memory) = ended(&mut launcher);
    assert_eq!((id, status, out_of_memory), (2, ExitStatus::Signaled(libc::SIGKILL), true));
    assert_closed(greedy);
    rustix::io::write(&writer, b"\n").unwrap();
    assert_eq!(ended(&mut launcher), (1, ExitStatus::Exited(5), false));
    assert_closed(held);
}
