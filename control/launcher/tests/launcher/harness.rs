//! Shared by the tests.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use dflow_launcher::{ContainmentChoice, ExitStatus, Launcher, LauncherEvent, LauncherOptions, SpawnRequest};
use rustix::event::{PollFd, PollFlags, Timespec};

/// The program that becomes the launcher.
pub const HOST: &str = env!("CARGO_BIN_EXE_launcher-test-host");

/// The time limit of a wait, after which the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn options(containment: ContainmentChoice) -> LauncherOptions {
    LauncherOptions { program: HOST.into(), containment, ..LauncherOptions::default() }
}

/// A launcher. Where the machine does not allow this containment, the test fails with the reason.
pub fn launcher(containment: ContainmentChoice) -> Launcher {
    Launcher::start(&options(containment)).unwrap_or_else(|error| {
        panic!("{error}\nThis test needs it; DFLOW_TEST_CGROUPS=none makes scripts/test skip such tests.")
    })
}

pub fn shell(script: &str) -> SpawnRequest {
    let mut request = SpawnRequest::new("/bin/sh");
    request.args = vec!["-c".into(), script.into()];
    request.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    request
}

/// Waits for the next event that is not about output.
pub fn next(launcher: &mut Launcher) -> LauncherEvent {
    loop {
        match next_of_all(launcher) {
            LauncherEvent::Output { .. } => {}
            event => return event,
        }
    }
}

/// Waits for the next event.
pub fn next_of_all(launcher: &mut Launcher) -> LauncherEvent {
    loop {
        match launcher.recv().unwrap() {
            Some(event) => return event,
            None => wait_readable(&*launcher),
        }
    }
}

/// The text of the failure of an attempt.
pub fn failure(launcher: &mut Launcher) -> String {
    match next(launcher) {
        LauncherEvent::SpawnFailed { error, .. } => error,
        event => panic!("{event:?}"),
    }
}

/// Waits for `Spawned` and returns the pid.
pub fn spawned(launcher: &mut Launcher) -> i32 {
    match next(launcher) {
        LauncherEvent::Spawned { pid, .. } => pid,
        event => panic!("{event:?}"),
    }
}

/// Waits for the end of the only live attempt, and returns its status and the captured output.
pub fn exited(launcher: &mut Launcher) -> (ExitStatus, String) {
    loop {
        match next(launcher) {
            LauncherEvent::Exited { status, stderr_tail, .. } => {
                return (status, String::from_utf8(stderr_tail).unwrap());
            }
            LauncherEvent::Spawned { .. } => {}
            event => panic!("{event:?}"),
        }
    }
}

/// Runs a program whose standard output is a file, and returns the contents of the file.
pub fn output(launcher: &mut Launcher, mut request: SpawnRequest) -> String {
    let mut file = tempfile::tempfile().unwrap();
    request.fds.push((file.try_clone().unwrap().into(), 1));
    launcher.spawn(1, request).unwrap();
    let (status, errors) = exited(launcher);
    assert!(status.success(), "{status}: {errors}");
    file.rewind().unwrap();
    io::read_to_string(file).unwrap()
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = io::pipe().unwrap();
    (reader.into(), writer.into())
}

/// Reads one byte; fails at the end.
pub fn read_byte(pipe: &OwnedFd) -> u8 {
    wait_readable(pipe);
    let mut byte = [0];
    assert_eq!(rustix::io::read(pipe, &mut byte), Ok(1));
    byte[0]
}

/// Asserts that at this moment no process holds the other end of the pipe.
pub fn assert_closed(pipe: OwnedFd) {
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    let mut rest = Vec::new();
    if let Err(error) = File::from(pipe).read_to_end(&mut rest) {
        panic!("something of the attempt still runs: {error}");
    }
}

pub fn wait_readable(fd: impl AsFd) {
    let timeout = Timespec { tv_sec: PATIENCE.as_secs().try_into().unwrap(), tv_nsec: 0 };
    let ready = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
    assert_eq!(ready, 1, "nothing happened for {PATIENCE:?}");
}
