//! Ctrl-C.

use std::process::Stdio;
use std::thread::yield_now;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Call, Directory};

const ENDLESS: &str = "\
workflow: endless
params: { mark: null }
functions:
  wait:
    command: [sh, -c, ': > \"$1\"; exec sleep 1000', sh, \"{params.mark}\"]
    outputs: [x]
    params: { mark: \"${params.mark}\" }
outputs: { x: wait.x }
";

#[test]
fn a_run_that_is_interrupted() {
    let directory = Directory::with(&[("endless.yaml", ENDLESS)]);
    let mark = directory.path("mark");
    let mut command = directory.command(&["run", "endless.yaml", "-p", &format!("mark={}", mark.display())]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The function says itself that it runs; a run that ends without it is caught below.
    while !mark.exists() && child.try_wait().unwrap().is_none() {
        yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let call = Call::from(child.wait_with_output().unwrap());
    assert_eq!(call.status, Some(130), "{call:#?}");
    assert!(call.err.starts_with("cancelled: "), "{}", call.err);
    assert!(call.out.contains("endless cancelled after "), "{}", call.out);
    assert!(!directory.path("dflow-out/endless").exists());
}
