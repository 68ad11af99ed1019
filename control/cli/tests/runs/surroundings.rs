//! The directory, environment and programs of functions: the same rules on every node.

use crate::nodes::Cluster;
use crate::support::{Case, Running};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes an executable script.
fn script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_function_runs_in_the_directory_of_the_workflow_file_on_every_node() {
    let case = Case::new(
        "here: { command: [./tools/show, data.txt] }
         there: { command: [./tools/show, data.txt] }
         below: { command: [./show, ../data.txt], dir: tools }",
        "{ here: here.out, there: there.out, below: below.out }",
    );
    script(&case.path("tools/show"), "pwd; echo $PWD; cat \"$1\"");
    std::fs::write(case.path("data.txt"), "data\n").unwrap();
    let cluster = Cluster::new(&["b"]);
    let mut command = cluster.command(&case, &["there=b"], &[]);
    // Neither the caller's directory nor the worker's matters.
    let ran = case.finish(command.current_dir("/usr").output().unwrap());
    ran.succeeded();
    let dir = std::fs::canonicalize(case.dir.path()).unwrap();
    let said = |dir: &Path| format!("{0}\n{0}\ndata\n", dir.display()).into_bytes();
    assert_eq!((case.output("here"), case.output("there")), (said(&dir), said(&dir)));
    assert_eq!(case.output("below"), said(&dir.join("tools")));
    assert_eq!(ran.attempts("there")[0]["node"], "b");
}

#[test]
fn a_missing_working_directory_is_named_before_anything_starts() {
    let case = Case::new("f: { command: [echo], dir: /no/such/directory }", "{ o: f.out }");
    case.run(&[]).refused(&["function 'f'", "/no/such/directory", "'dir: /PATH'"]);
    let cluster = Cluster::new(&["b"]);
    cluster.run(&case, &["f=b"], &[]).refused(&["node b", "function 'f'", "/no/such/directory", "copy the directory"]);
}

#[test]
fn the_environment_is_that_of_the_caller_except_for_variables_of_the_node() {
    let show = "printf '%s|' \"$CALL\" \"$FILE\" \"$OWN\" \"$HOME\" \"${OLDPWD-none}\" \"${DFLOW_LOG-none}\" \"${TMPDIR-none}\"";
    let case = Case::with_header(
        "env: { FILE: file, OWN: file }\nparams: { own: mine }",
        &format!(
            "here: {{ command: [sh, -c, '{}'], env: {{ OWN: \"${{params.own}}\" }} }}
             there: {{ command: [sh, -c, '{}'], env: {{ OWN: \"${{params.own}}\" }} }}",
            show.replace('\'', "''"),
            show.replace('\'', "''")
        ),
        "{ here: here.out, there: there.out }",
    );
    let mut cluster = Cluster::without_workers(&["a", "b"]);
    cluster.start_in("b", &[("HOME", "/home/b"), ("CALL", "of the worker"), ("TMPDIR", "/tmp")]);
    let mut command = cluster.command(&case, &["there=b"], &[]);
    command.env("HOME", "/home/a").env("CALL", "of the call").env("OLDPWD", "/").env("TMPDIR", "");
    case.finish(command.env("DFLOW_LOG", "error").output().unwrap()).succeeded();
    assert_eq!(String::from_utf8(case.output("here")).unwrap(), "of the call|file|mine|/home/a|none|none|none|");
    assert_eq!(String::from_utf8(case.output("there")).unwrap(), "of the call|file|mine|/home/b|none|none|/tmp|");
}

#[test]
fn a_program_is_looked_for_where_it_runs() {
    let case = Case::new("f: { command: [only-on-b] }", "{ o: f.out }");
    script(&case.path("bin/only-on-b"), "echo found");
    let path = format!("{}:/usr/bin:/bin", case.path("bin").display());
    let mut cluster = Cluster::without_workers(&["a", "b", "c"]);
    cluster.start_in("b", &[("PATH", &path)]);
    cluster.start_in("c", &[("PATH", "/usr/bin:/bin")]);
    cluster.run(&case, &["f=b"], &[]).succeeded();
    assert_eq!(case.output("o"), b"found\n");
    cluster.run(&case, &["f=c"], &[]).refused(&["node c", "function 'f'", "no program 'only-on-b' in /usr/bin, /bin"]);
}

#[test]
fn without_path_programs_are_searched_for_in_usr_bin_and_bin() {
    let case = Case::new("f: { command: [tool] }", "{ o: f.out }");
    script(&case.path("tool"), "echo wrong");
    for path in [None, Some(""), Some(":."), Some("relative")] {
        let mut command = case.command(&[]);
        match path {
            Some(path) => command.env("PATH", path),
            None => command.env_remove("PATH"),
        };
        let ran = case.finish(command.current_dir(case.dir.path()).output().unwrap());
        ran.refused(&["no program 'tool' in "]);
    }
    case.replace("[tool]", "[echo, right]");
    let mut command = case.command(&[]);
    case.finish(command.env_remove("PATH").output().unwrap()).succeeded();
    assert_eq!(case.output("o"), b"right\n");
}

#[test]
fn more_slots_than_there_are_is_a_note() {
    let case = Case::new("f: { command: [echo, hi], resources: { cpu: 8 } }", "{ o: f.out }");
    let ran = case.run(&["--slots", "2"]);
    ran.succeeded();
    let note = ran.report["notes"][0].as_str().unwrap();
    assert!(note.contains("'f' asks for cpu: 8") && note.contains("has 2 slots"), "{note}");
    assert!(ran.stderr.contains("'f' asks for cpu: 8"), "{}", ran.stderr);
    let mut cluster = Cluster::without_workers(&["a", "b"]);
    cluster.start("b", &["--slots", "3"]);
    let ran = cluster.run(&case, &["f=b"], &["--slots", "2"]);
    ran.succeeded();
    let notes = ran.report["notes"].as_array().unwrap();
    assert!(notes.len() == 1 && notes[0].as_str().unwrap().contains("node 'b' has 3 slots"), "{notes:?}");
    assert_eq!(ran.stderr.matches("asks for cpu").count(), 1, "{}", ran.stderr);
}

#[test]
fn a_worker_that_is_still_starting_is_waited_for() {
    let case = Case::new("f: { command: [echo, hi] }", "{ o: f.out }");
    let cluster = Cluster::without_workers(&["a", "b"]);
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let with = format!("b={address}");
    let args = ["--with", &with, "--place", "f=b"];
    cluster.run(&case, &[], &args).refused(&["node b", "--wait 30s"]);
    let mut run = cluster.command(&case, &[], &[&args[..], &["--wait", "60s"]].concat());
    let mut child = run.env("DFLOW_LOG", "debug").spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("not there yet")), "it has not tried to connect");
    let mut worker = Command::new(env!("CARGO_BIN_EXE_dflow"));
    worker.args(["worker", "--rdma", "off", "--listen", &address, "--identity"]).arg(cluster.identity("b"));
    worker.stdout(Stdio::null()).stderr(Stdio::null());
    let _worker = Running::start(worker);
    log.for_each(drop);
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(case.output("o"), b"hi\n");
}
