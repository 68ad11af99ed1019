//! The program that the integration tests start: a launcher, a daemon that can be killed, or a program that forks
//! endlessly.

use std::error::Error;
use std::os::fd::AsFd;
use std::process::ExitCode;

use dflow_launcher::{ARGUMENT, ContainmentChoice, Launcher, LauncherEvent, LauncherOptions, SpawnRequest};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [ARGUMENT] => Ok(dflow_launcher::serve()),
        ["threads", ..] => {
            std::thread::spawn(|| std::thread::sleep(std::time::Duration::MAX));
            Ok(dflow_launcher::serve())
        }
        ["daemon", "cgroup", script] => daemon(ContainmentChoice::Cgroup, script),
        ["daemon", "subreaper", script] => daemon(ContainmentChoice::Subreaper, script),
        ["chain"] => chain(),
        _ => Err("unknown arguments".into()),
    }
}

/// Runs `script` in three attempts, each with a copy of standard output as descriptor 7, prints their pids and that of
/// the launcher, and then waits to be killed.
fn daemon(containment: ContainmentChoice, script: &str) -> Result<ExitCode, Box<dyn Error>> {
    let options = LauncherOptions { containment, ..LauncherOptions::default() };
    let mut launcher = Launcher::start(&options)?;
    for id in 0..3 {
        let mut request = SpawnRequest::new("/bin/sh");
        request.args = vec!["-c".into(), script.into()];
        request.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        request.fds.push((std::io::stdout().as_fd().try_clone_to_owned()?, 7));
        launcher.spawn(id, request)?;
    }
    println!("{}", launcher.pid());
    let mut spawned = 0;
    while spawned < 3 {
        match launcher.recv()? {
            Some(LauncherEvent::Spawned { pid, .. }) => {
                println!("{pid}");
                spawned += 1;
            }
            Some(other) => return Err(format!("{other:?}").into()),
            None => std::thread::yield_now(),
        }
    }
    loop {
        std::thread::park();
    }
}

/// Each process forks the next one and exits, so that a process that has been found has usually ended already.
fn chain() -> ! {
    loop {
        // SAFETY: this process has one thread.
        if unsafe { libc::fork() } > 0 {
            std::process::exit(0);
        }
    }
}
