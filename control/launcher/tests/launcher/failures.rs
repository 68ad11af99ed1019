//! Programs that cannot be started.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use dflow_launcher::{ContainmentChoice, Error, ExitStatus, Launcher, LauncherOptions, SpawnRequest};

use crate::harness::{HOST, exited, failure, launcher, options, pipe, shell};

under_each_containment!(programs_that_cannot_run, threads_are_refused);

fn programs_that_cannot_run(containment: ContainmentChoice) {
    let mut launcher = launcher(containment);
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    let mut error_of = |request: SpawnRequest| {
        launcher.spawn(1, request).unwrap();
        failure(&mut launcher)
    };

    let missing = directory.path().join("missing");
    let error = error_of(SpawnRequest::new(&missing));
    assert_eq!(
        error,
        format!("cannot run `{}`: there is no such file; is it installed on this machine?", missing.display())
    );

    let plain = file("plain", "#!/bin/sh\n", 0o644);
    let error = error_of(SpawnRequest::new(&plain));
    assert!(error.contains("it is not executable (mode 644)"), "{error}");

    let error = error_of(SpawnRequest::new(directory.path()));
    assert!(error.contains("it is a directory"), "{error}");

    let script = file("script", "#!/no/such/interpreter -x\n", 0o755);
    let error = error_of(SpawnRequest::new(script));
    assert!(error.contains("names the interpreter `/no/such/interpreter`, which does not exist"), "{error}");

    let text = file("text", "hello", 0o755);
    let error = error_of(SpawnRequest::new(text));
    assert!(error.contains("it is a text file without `#!`"), "{error}");

    let mut request = shell("");
    request.cwd = Some(Path::new("/no/such/directory").into());
    let error = error_of(request);
    assert!(error.contains("its working directory `/no/such/directory` cannot be entered"), "{error}");

    let mut request = shell("");
    request.oom_score_adj = Some(5000);
    let error = error_of(request);
    assert!(error.contains("oom_score_adj cannot be set"), "{error}");

    // A failure frees the id and closes the descriptors of the request.
    let (reader, writer) = pipe();
    let mut request = SpawnRequest::new(missing);
    request.fds.push((writer, 3));
    error_of(request);
    crate::harness::assert_closed(reader);
    launcher.spawn(1, shell("exit 4")).unwrap();
    assert_eq!(exited(&mut launcher).0, ExitStatus::Exited(4));
}

fn threads_are_refused(containment: ContainmentChoice) {
    let mut options = options(containment);
    options.arguments = vec!["threads".into()];
    match Launcher::start(&options) {
        Err(Error::Ended(status)) => assert_eq!(status, "exit status: 1"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_that_is_not_a_launcher() {
    let start = |program: &str| {
        Launcher::start(&LauncherOptions {
            program: program.into(),
            arguments: Vec::new(),
            ..LauncherOptions::default()
        })
    };
    assert!(matches!(start("/no/such/program"), Err(Error::Start { .. })));
    assert!(matches!(start("/bin/true"), Err(Error::Ended(_))));
}

#[test]
fn started_by_hand() {
    let output = Command::new(HOST).arg(dflow_launcher::ARGUMENT).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("standard input is not the socket of a daemon"), "{errors}");
}
