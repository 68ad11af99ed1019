//! The command line of `run`.

use serde_json::{Value, json};

use crate::harness::{Directory, SORTED};

const FAILING: &str = "\
workflow: failing
functions:
  break: { command: [sh, -c, \"echo what a pity >&2; exit 3\"], outputs: [x] }
outputs: { x: break.x }
";

fn directory() -> Directory {
    Directory::with(&[("sorted.yaml", SORTED), ("failing.yaml", FAILING), ("text", "b\nc\na\n")])
}

#[test]
fn missing_inputs_and_params_are_listed_with_their_flags() {
    let directory = directory();
    let call = directory.call(&["run", "sorted.yaml"]);
    assert_eq!((call.status, call.out.as_str()), (Some(2), ""));
    assert_eq!(
        call.err,
        "\
error: the command line lacks 1 input and 1 parameter of workflow `sorted`
help: add --input text=PATH    a file, a directory of files, or - for standard input
help: add --param order=VALUE
"
    );
    let call = directory.call(&["run", "sorted.yaml", "--format", "json"]);
    assert_eq!(call.status, Some(2));
    assert_eq!(call.json()["error"]["help"][1], "add --param order=VALUE");
    assert!(call.err.starts_with("error: "), "{}", call.err);
}

#[test]
fn wrong_files_and_calls_start_nothing() {
    let directory = directory();
    std::fs::write(directory.path("wrong.yaml"), "workflow: w\nfunction: {}\n").unwrap();
    let json = directory.call(&["run", "wrong.yaml", "--format", "json"]).json();
    assert_eq!(json["error"]["diagnostics"][0]["line"], 2, "{json}");
    let run = ["run", "sorted.yaml", "-p", "order=-r"];
    for (more, expected) in [
        (&["-i", "text=none"][..], "none"),
        (&["-i", "txt=text"], "no input `txt`"),
        (&["-i", "text", "-p", "what=x"], "no parameter `what`"),
        (&["-i", "text", "--trace", "no/directory/trace.json"], "no/directory/trace.json"),
        (&["-i", "text", "--memory", "1KiB"], "too small"),
    ] {
        let call = directory.call(&[&run[..], more].concat());
        assert_eq!((call.status, call.out.as_str()), (Some(2), ""), "{call:#?}");
        assert!(call.err.contains(expected), "{}", call.err);
        assert!(!directory.path("dflow-out/sorted").exists());
    }
}

#[test]
fn a_run_for_a_person() {
    let directory = directory();
    let call = directory.call(&["run", "sorted.yaml", "-i", "text", "-p", "order=-r"]);
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""), "{call:#?}");
    assert_eq!(std::fs::read_to_string(directory.path("dflow-out/sorted/lines")).unwrap(), "c\nb\na\n");
    let lines: Vec<&str> = call.out.lines().collect();
    assert!(lines[1].starts_with("sort ") && lines[1].contains("6 B"), "{}", call.out);
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{}", call.out);
    assert!(lines.iter().any(|line| line.starts_with("sorted succeeded in ")), "{}", call.out);
    assert_eq!(*lines.last().unwrap(), "  lines  6 B  dflow-out/sorted/lines");
    assert!(!call.out.contains('\x1b'));

    let narrow = directory
        .call_with(&["run", "sorted.yaml", "-i", "text", "-p", "order=-r"], &[("COLUMNS", "70"), ("LC_ALL", "C")]);
    assert!(narrow.out.is_ascii(), "{}", narrow.out);
    assert!(narrow.out.lines().take(3).all(|line| line.len() <= 70), "{}", narrow.out);
}

#[test]
fn a_quiet_run_prints_errors_only() {
    let directory = directory();
    let run = ["run", "sorted.yaml", "-i", "text", "-p", "order=-r", "--quiet"];
    let call = directory.call(&run);
    assert_eq!((call.status, call.out.as_str(), call.err.as_str()), (Some(0), "", ""), "{call:#?}");
    assert_eq!(std::fs::read_to_string(directory.path("dflow-out/sorted/lines")).unwrap(), "c\nb\na\n");
    let call = directory.call(&[&run[..], &["--format", "json"]].concat());
    assert_eq!((&call.json()["state"], call.err.as_str()), (&json!("succeeded"), ""));

    let call = directory.call(&["run", "failing.yaml", "-q"]);
    assert_eq!((call.status, call.out.as_str()), (Some(1), ""), "{call:#?}");
    assert!(call.err.starts_with("error: break failed: ") && call.err.contains("what a pity"), "{}", call.err);
    let call = directory.call(&["run", "sorted.yaml", "-q"]);
    assert_eq!((call.status, call.out.as_str()), (Some(2), ""), "{call:#?}");
    assert!(call.err.starts_with("error: the command line lacks"), "{}", call.err);
}

#[test]
fn a_run_for_a_program() {
    let directory = directory();
    let args = "run sorted.yaml -i text -p order=-r -o out --format json --trace trace.json --slots 1 --memory 16MiB \
                --spin 0 --spill-io plain --containment subreaper --invocation control-flow";
    let call = directory.call(&args.split_whitespace().collect::<Vec<_>>());
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""), "{call:#?}");
    let report = call.json();
    assert_eq!((&report["state"], &report["slots"]), (&json!("succeeded"), &json!(1)));
    assert_eq!((&report["memory"]["budget_bytes"], &report["invocation"]), (&json!(16 << 20), &json!("control-flow")));
    assert_eq!(report["outputs"][0]["bytes"], 6);
    assert_eq!(std::fs::read_to_string(directory.path("out/lines")).unwrap(), "c\nb\na\n");

    let trace: Value = serde_json::from_slice(&std::fs::read(directory.path("trace.json")).unwrap()).unwrap();
    let running = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["name"] == "running").count();
    assert_eq!(running, 2, "the function and the output");
}

#[test]
fn a_run_that_fails() {
    let directory = directory();
    let call = directory.call(&["run", "failing.yaml"]);
    assert_eq!(call.status, Some(1), "{call:#?}");
    assert!(call.out.contains("failing failed after "), "{}", call.out);
    assert!(call.err.starts_with("error: break failed: ") && call.err.contains("what a pity"), "{}", call.err);
    assert!(call.err.contains("help: ") && !call.err.contains("retries: 3"), "{}", call.err);
    assert!(!directory.path("dflow-out/failing").exists());

    let call = directory.call(&["run", "failing.yaml", "--format", "json"]);
    assert_eq!(call.status, Some(1));
    let report = call.json();
    assert_eq!((&report["state"], &report["error"]["instance"]), (&json!("failed"), &json!("break")));
}

#[test]
fn the_doctor() {
    let directory = Directory::with(&[]);
    let call = directory.call(&["doctor", "--format", "json"]);
    let json = call.json();
    assert_eq!(call.status, Some(if json["ok"] == true { 0 } else { 1 }), "{json}");
    assert!(json["findings"].as_array().unwrap().iter().all(|finding| finding["topic"].is_string()), "{json}");
    let call = directory.call(&["doctor", "--memory", "1KiB"]);
    assert_eq!(call.status, Some(1), "{}", call.out);
    assert!(call.out.contains("bad"), "{}", call.out);
}

#[test]
fn logs_that_do_not_exist_are_errors() {
    let workflow = "workflow: w\nfunctions: { f: { command: [sh, -c, 'echo x >&2'] } }\noutputs: [f.out]\n";
    let directory = Directory::with(&[("w.yaml", workflow)]);
    let call = directory.call(&["logs", "--list", "--logs", "nodir"]);
    assert_eq!(call.status, Some(2), "{call:?}");
    assert!(call.err.contains("there is no directory nodir"), "{}", call.err);
    assert_eq!(directory.call(&["run", "w.yaml", "--logs", "runs"]).status, Some(0));
    let call = directory.call(&["logs", "--logs", "runs", "f", "--attempt", "9"]);
    assert_eq!(call.status, Some(2), "{call:?}");
    assert!(call.err.contains("no attempt 9 was made of f") && call.err.contains("--attempt 1"), "{}", call.err);
    assert_eq!(directory.call(&["logs", "--logs", "runs", "f", "--attempt", "1"]).out, "x\n");
}
