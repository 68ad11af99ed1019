//! No attempt outlives the daemon or the launcher.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use dflow_launcher::{ContainmentChoice, Error, LauncherEvent, MemoryLimits};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::harness::{HOST, assert_closed, exited, launcher, pipe, read_byte, shell, wait_readable};

under_each_containment!(
    a_drop_ends_everything,
    a_killed_daemon_ends_everything,
    a_killed_launcher_ends_everything,
    what_two_killed_processes_leave_ends_at_the_next_start,
    polite_signals_do_not_end_the_launcher,
    where_shutdown_is_forbidden_everything_ends,
);

/// A child and a daemonised grandchild, both of which hold descriptor 7; a line is written once both run.
const SCRIPT: &str = "(setsid sh -c 'trap \"\" TERM HUP; echo ready >&7; while :; do sleep 1000; done' &); sleep 1000";

fn a_drop_ends_everything(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let mut held = Vec::new();
    for id in 0..5 {
        let (reader, writer) = pipe();
        let mut request = shell(SCRIPT);
        request.fds.push((writer, 7));
        launcher.spawn(id, request).unwrap();
        read_byte(&reader);
        held.push(reader);
    }
    let pidfd = pidfd(launcher.pid());
    drop(launcher);
    held.into_iter().for_each(assert_closed);
    assert!(rustix::process::pidfd_send_signal(pidfd, Signal::TERM).is_err(), "the launcher still exists");
}

/// Makes shutdown(2) fail in this thread and in the processes that it starts.
fn forbid_shutdown() {
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
    let rules = [(libc::SYS_shutdown, Vec::new())].into_iter().collect();
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

fn where_shutdown_is_forbidden_everything_ends(containment: ContainmentChoice) {
    let (held, writer) = pipe();
    let sandboxed = std::thread::spawn(move || {
        forbid_shutdown();
        let mut launcher = launcher(containment);
        let mut request = shell(SCRIPT);
        request.fds.push((writer, 7));
        launcher.spawn(1, request).unwrap();
        // As in the daemon, the socket stays open although the launcher is dropped.
        let registered = launcher.as_fd().try_clone_to_owned().unwrap();
        read_byte(&held);
        launcher.shutdown().unwrap();
        drop(registered);
        held
    });
    assert_closed(sandboxed.join().unwrap());
}

/// A daemon in a separate process, with three attempts.
struct Daemon {
    process: Child,
    output: BufReader<File>,
    /// The launcher, then the attempts.
    pids: Vec<u32>,
}

impl Daemon {
    fn start(containment: ContainmentChoice) -> Self {
        // Fails if the machine does not allow this containment.
        drop(launcher(containment));
        let name = match containment {
            ContainmentChoice::Cgroup => "cgroup",
            _ => "subreaper",
        };
        let mut process = Command::new(HOST)
            .args(["daemon", name, SCRIPT])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = OwnedFd::from(process.stdout.take().unwrap());
        let mut output = BufReader::new(File::from(output));
        let mut pids = Vec::new();
        let mut ready = 0;
        while pids.len() < 4 || ready < 3 {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "the daemon ended");
            match line.trim_end() {
                "ready" => ready += 1,
                pid => pids.push(pid.parse().unwrap()),
            }
        }
        Self { process, output, pids }
    }

    /// Kills the daemon; after that only the attempts hold its output.
    fn kill(mut self) -> BufReader<File> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.output
    }
}

fn a_killed_daemon_ends_everything(containment: ContainmentChoice) {
    let daemon = Daemon::start(containment);
    let pidfds: Vec<_> = daemon.pids.iter().map(|&pid| pidfd(pid)).collect();
    let output = daemon.kill();
    for pidfd in pidfds {
        // The launcher is the first one, and ends last.
        wait_readable(pidfd);
    }
    assert_closed(output.into_inner().into());
}

fn a_killed_launcher_ends_everything(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let (held, writer) = pipe();
    let mut request = shell(SCRIPT);
    request.fds.push((writer, 7));
    request.memory_limit = Some(256 << 20);
    launcher.spawn(1, request).unwrap();
    read_byte(&held);
    kill_process(pid(launcher.pid()), Signal::KILL).unwrap();
    let memory = launcher.containment().memory.clone();
    let error = loop {
        match launcher.recv() {
            Ok(Some(LauncherEvent::Spawned { .. })) => {}
            Ok(None) => wait_readable(&launcher),
            Ok(event) => panic!("{event:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, Error::Ended(status) if status.contains("signal: 9")), "{error}");
    assert_closed(held);
    if let MemoryLimits::Version1 { directory } = memory {
        assert!(!directory.exists());
    }
    assert!(matches!(launcher.spawn(2, shell("")), Err(Error::Ended(_))));
    assert!(matches!(launcher.recv(), Err(Error::Ended(_))));
    assert!(launcher.shutdown().is_ok());
}

fn what_two_killed_processes_leave_ends_at_the_next_start(containment: ContainmentChoice) {
    let daemon = Daemon::start(containment);
    let pidfds: Vec<_> = daemon.pids.iter().map(|&pid| pidfd(pid)).collect();
    kill_process(pid(daemon.pids[0]), Signal::KILL).unwrap();
    let mut output = daemon.kill();
    // A launcher that has not exited yet still holds its lock, and is left alone.
    wait_readable(&pidfds[0]);
    let next = launcher(containment);
    // With cgroups, the next launcher has killed the remaining processes; subreapers do so independently of it.
    if containment == ContainmentChoice::Cgroup {
        assert_closed(output.into_inner().into());
    } else {
        pidfds.into_iter().for_each(wait_readable);
        let mut rest = Vec::new();
        wait_readable(output.get_ref());
        output.read_to_end(&mut rest).unwrap();
    }
    drop(next);
}

fn polite_signals_do_not_end_the_launcher(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::PIPE, Signal::USR1] {
        kill_process(pid(launcher.pid()), signal).unwrap();
    }
    launcher.spawn(1, shell("exit 9")).unwrap();
    assert_eq!(exited(&mut launcher).0, dflow_launcher::ExitStatus::Exited(9));
    launcher.shutdown().unwrap();
}

fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn pidfd(process: u32) -> OwnedFd {
    pidfd_open(pid(process), PidfdFlags::empty()).unwrap()
}
