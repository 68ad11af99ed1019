//! The environment that a program gets from the launcher, and the launcher's reports about it.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use dflow_launcher::{ContainmentChoice, Error, ExitStatus, Launcher, LauncherEvent, SpawnRequest};

use crate::harness::{exited, launcher, next, next_of_all, output, pipe, read_byte, shell, spawned};

under_each_containment!(
    statuses,
    end_of_the_output,
    all_of_the_output,
    output_that_is_not_read,
    usage,
    descriptors,
    nothing_else_is_open,
    environment_arguments_and_directory,
    large_environment,
    signals_and_session,
    limits_and_score,
    two_hundred_at_once,
    ids,
);

fn statuses(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    for (script, expected) in [
        ("exit 0", ExitStatus::Exited(0)),
        ("exit 3", ExitStatus::Exited(3)),
        ("kill -SEGV $$", ExitStatus::Signaled(libc::SIGSEGV)),
        ("kill -KILL $$", ExitStatus::Signaled(libc::SIGKILL)),
    ] {
        launcher.spawn(1, shell(script)).unwrap();
        assert!(spawned(&mut launcher) > 0);
        assert_eq!(exited(&mut launcher).0, expected, "{script}");
    }
}

fn end_of_the_output(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    launcher.spawn(1, shell("echo out; echo error >&2")).unwrap();
    assert_eq!(exited(&mut launcher).1, "out\nerror\n");

    let mut request = shell("seq 1 100000 >&2; echo last >&2");
    request.stderr_tail = 18;
    launcher.spawn(1, request).unwrap();
    assert!(matches!(next(&mut launcher), LauncherEvent::Spawned { id: 1, .. }));
    match next(&mut launcher) {
        LauncherEvent::Exited { stderr_tail, stderr_bytes, .. } => {
            assert_eq!(stderr_tail, b"99999\n100000\nlast\n");
            assert_eq!(stderr_bytes, 588_895 + 5);
        }
        event => panic!("{event:?}"),
    }

    // Redirected, it is not captured.
    let (reader, writer) = pipe();
    let mut request = shell("echo out; echo e >&2");
    request.fds.push((writer, 2));
    launcher.spawn(1, request).unwrap();
    assert_eq!(exited(&mut launcher).1, "out\n");
    assert_eq!(read_byte(&reader), b'e');
}

/// Collects the output of the only live attempt, until it has ended.
fn all_output(launcher: &mut Launcher) -> Vec<u8> {
    let mut output = Vec::new();
    loop {
        match next_of_all(launcher) {
            LauncherEvent::Output { id: 1, bytes } => output.extend(bytes),
            LauncherEvent::Spawned { .. } => {}
            LauncherEvent::Exited { stderr_bytes, .. } => {
                assert_eq!(stderr_bytes, output.len() as u64);
                return output;
            }
            event => panic!("{event:?}"),
        }
    }
}

fn all_of_the_output(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    // Far more than the queues between launcher and daemon hold; the last line has no end.
    launcher.spawn(1, shell("seq 1 1000000 >&2; printf '\\000\\377' >&2")).unwrap();
    let mut expected: Vec<u8> = (1..=1_000_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    expected.extend([0, 255]);
    assert!(all_output(&mut launcher) == expected);
}

/// While the daemon reads nothing, the program blocks; it can be stopped, and others still start.
fn output_that_is_not_read(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    launcher.spawn(1, shell("exec yes >&2")).unwrap();
    let mut chatty = 0;
    while chatty < 1 << 20 {
        if let LauncherEvent::Output { bytes, .. } = next_of_all(&mut launcher) {
            chatty += bytes.len();
        }
    }
    launcher.spawn(2, shell("exit 6")).unwrap();
    loop {
        match next(&mut launcher) {
            LauncherEvent::Exited { id: 2, status, .. } => break assert_eq!(status, ExitStatus::Exited(6)),
            LauncherEvent::Spawned { id: 2, .. } => {}
            event => panic!("{event:?}"),
        }
    }
    launcher.kill(1).unwrap();
    assert!(matches!(next(&mut launcher), LauncherEvent::Exited { id: 1, .. }));
}

fn usage(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    launcher.spawn(1, shell("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")).unwrap();
    spawned(&mut launcher);
    match next(&mut launcher) {
        LauncherEvent::Exited { usage, out_of_memory, .. } => {
            assert!(usage.user + usage.system > Duration::ZERO, "{usage:?}");
            assert!(usage.max_rss > 100 << 10, "{usage:?}");
            assert!(!out_of_memory);
        }
        event => panic!("{event:?}"),
    }
}

fn descriptors(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    // From high to low, so that whatever their numbers in the launcher, some occupy the targets of others.
    let mut request = shell(
        "for fd in 3 4 5 6 7 8 9 200 1023; do printf $((fd % 256 % 10)) >/proc/self/fd/$fd; done; read line; exit $line",
    );
    let mut readers = Vec::new();
    for target in [1023, 200, 9, 8, 7, 6, 5, 4, 3] {
        let (reader, writer) = pipe();
        request.fds.push((writer, target));
        readers.push((reader, target));
    }
    let (stdin, writer) = pipe();
    request.fds.push((stdin, 0));
    rustix::io::write(&writer, b"42\n").unwrap();
    launcher.spawn(1, request).unwrap();
    assert_eq!(exited(&mut launcher), (ExitStatus::Exited(42), String::new()));
    for (reader, target) in readers {
        let digit = u8::try_from(target % 256 % 10).unwrap();
        assert_eq!(read_byte(&reader), b'0' + digit, "descriptor {target}");
    }
}

fn nothing_else_is_open(containment: ContainmentChoice) {
    // Descriptors that a careless parent of the daemon left open.
    let careless = rustix::io::dup(std::io::stderr()).unwrap();
    let mut launcher = launcher(containment);
    let mut request = SpawnRequest::new("/bin/ls");
    request.args = vec!["/proc/self/fd".into()];
    assert!(careless.as_fd().as_raw_fd() > 2);
    // ls reads the directory through descriptor 3.
    assert_eq!(output(&mut launcher, request), "0\n1\n2\n3\n");

    let mut request = SpawnRequest::new("/bin/cat");
    request.args = vec!["-".into()];
    assert_eq!(output(&mut launcher, request), "", "standard input is not empty");
}

fn environment_arguments_and_directory(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let mut request = SpawnRequest::new("/usr/bin/env");
    request.env = vec![("A".into(), "1".into()), ("EMPTY".into(), "".into()), ("LINES".into(), "a\nb=c".into())];
    assert_eq!(output(&mut launcher, request), "A=1\nEMPTY=\nLINES=a\nb=c\n");
    assert_eq!(output(&mut launcher, SpawnRequest::new("/usr/bin/env")), "");

    let mut request = SpawnRequest::new("/usr/bin/printf");
    request.args = ["[%s]", "a b", "", "$HOME"].map(Into::into).to_vec();
    assert_eq!(output(&mut launcher, request), "[a b][][$HOME]");

    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().canonicalize().unwrap();
    std::os::unix::fs::symlink("/bin/pwd", directory.join("here")).unwrap();
    let mut request = SpawnRequest::new("./here");
    request.cwd = Some(directory.clone());
    assert_eq!(output(&mut launcher, request), format!("{}\n", directory.display()));
}

fn large_environment(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let with = |count: usize, length: usize| {
        let mut request = SpawnRequest::new("/usr/bin/env");
        request.env = (0..count).map(|n| (format!("V{n}").into(), "x".repeat(length).into())).collect();
        request
    };
    // More than fits into a packet.
    let text = output(&mut launcher, with(10, 100_000));
    assert_eq!(text.len(), 10 * (100_000 + "V0=\n".len()));

    // More than the kernel takes in one string.
    launcher.spawn(1, with(1, 200_000)).unwrap();
    let error = crate::harness::failure(&mut launcher);
    assert!(error.contains("arguments and environment take 200017 bytes, more than the kernel"), "{error}");

    // More than the limit of a request.
    let error = launcher.spawn(1, with(90, 100_000)).unwrap_err();
    assert!(matches!(error, Error::RequestTooLarge(bytes) if bytes > 9_000_000), "{error}");
    assert_eq!(output(&mut launcher, with(1, 1)), "V0=x\n");
}

fn signals_and_session(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let mut request = SpawnRequest::new("/bin/grep");
    request.args = ["-E", "^Sig(Blk|Ign)", "/proc/self/status"].map(Into::into).to_vec();
    let none = "0000000000000000";
    assert_eq!(output(&mut launcher, request), format!("SigBlk:\t{none}\nSigIgn:\t{none}\n"));

    let request =
        shell("read pid name state parent group session rest </proc/$$/stat; echo $((group-$$)) $((session-$$))");
    assert_eq!(output(&mut launcher, request), "0 0\n");
}

fn limits_and_score(containment: ContainmentChoice) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let current = before.current.map(|current| current - 1);
    setrlimit(Resource::Nofile, Rlimit { current, ..before }).unwrap();
    let mut launcher = launcher(containment);
    setrlimit(Resource::Nofile, before).unwrap();
    if let Some(current) = current {
        assert_eq!(output(&mut launcher, shell("ulimit -Sn")), format!("{current}\n"));
    }

    let mut request = shell("cat /proc/self/oom_score_adj");
    request.oom_score_adj = Some(900);
    assert_eq!(output(&mut launcher, request), "900\n");
}

fn two_hundred_at_once(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    for id in 0..200 {
        launcher.spawn(id, SpawnRequest::new("/bin/true")).unwrap();
    }
    let mut exits = [false; 200];
    while exits.contains(&false) {
        launcher.flush().unwrap();
        match next(&mut launcher) {
            LauncherEvent::Exited { id, status, .. } => {
                assert!(status.success());
                assert!(!std::mem::replace(&mut exits[id as usize], true), "{id} ended twice");
            }
            LauncherEvent::Spawned { .. } => {}
            event => panic!("{event:?}"),
        }
    }
    let pid = launcher.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert_eq!(children, "", "children are left");
}

fn ids(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let (stdin, writer) = pipe();
    let mut request = shell("read line");
    request.fds.push((stdin, 0));
    launcher.spawn(u64::MAX, request).unwrap();
    assert!(matches!(launcher.spawn(u64::MAX, shell("")), Err(Error::IdInUse(u64::MAX))));
    drop(writer);
    assert_eq!(exited(&mut launcher).0, ExitStatus::Exited(1));
    launcher.kill(u64::MAX).unwrap();
    launcher.kill(7).unwrap();
    launcher.spawn(u64::MAX, shell("exit 5")).unwrap();
    assert_eq!(exited(&mut launcher).0, ExitStatus::Exited(5));
}
