//! `run --dry-run`.

use std::fs::read_dir;

use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::json;

use crate::harness::{Directory, SORTED};

const PARTS: &str = "\
workflow: parts
inputs: { logs: { parts: files }, rest: {} }
params: { mode: null }
functions:
  each: { command: [cat], foreach: inputs.logs, outputs: [x] }
  rest: { command: [cat], inputs: [inputs.rest], outputs: [x] }
  fast: { command: [cat], inputs: [rest.x], outputs: [x] }
  slow: { command: [cat], inputs: [rest.x], outputs: [x] }
  pick: { switch: params.mode, cases: { fast: fast, slow: slow } }
outputs: { all: each.x, one: [fast.x, slow.x] }
";

fn names(directory: &Directory) -> Vec<String> {
    let mut names: Vec<String> =
        read_dir(directory.path(".")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn prints_what_would_run_and_creates_nothing() {
    let directory = Directory::with(&[("sorted.yaml", SORTED), ("text", "b\na\n")]);
    let call = directory.call(&["run", "sorted.yaml", "-i", "text", "-p", "order=-r", "--dry-run"]);
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""), "{call:#?}");
    let sort = call.out.lines().find(|line| line.contains("1 instance")).unwrap().trim().rsplit(' ').next().unwrap();
    assert!(sort.ends_with("/sort"), "{}", call.out);
    assert_eq!(
        call.out,
        format!(
            "\
sorted: all checks passed
inputs
  text  1 file, 4 B
functions
  sort  1 instance  {sort}
outputs
  lines  sort.lines  dflow-out/sorted/lines
nothing was started
"
        )
    );
    assert_eq!(names(&directory), ["sorted.yaml", "text"]);
    let quiet = directory.call(&["run", "sorted.yaml", "-i", "text", "-p", "order=-r", "--dry-run", "-q"]);
    assert_eq!((quiet.status, quiet.out.as_str(), quiet.err.as_str()), (Some(0), "", ""));

    // A second run would replace the outputs of the first.
    assert_eq!(directory.call(&["run", "sorted.yaml", "-i", "text", "-p", "order=-r"]).status, Some(0));
    let call = directory.call(&["run", "sorted.yaml", "-i", "text", "-p", "order=-r", "--dry-run"]);
    assert!(call.out.contains("\noutputs, which replace dflow-out/sorted\n"), "{}", call.out);
}

#[test]
fn counts_parts_and_follows_switches() {
    let directory = Directory::with(&[("parts.yaml", PARTS), ("rest", "")]);
    std::fs::create_dir(directory.path("logs")).unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(directory.path("logs").join(name), "12").unwrap();
    }
    let args = "run parts.yaml -i logs=logs -i rest=rest -p mode=fast --dry-run --format json";
    let call = directory.call(&args.split(' ').collect::<Vec<_>>());
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""), "{call:#?}");
    let json = call.json();
    let instances = |name: &str| {
        let functions = json["functions"].as_array().unwrap();
        functions.iter().find(|function| function["name"] == name).unwrap()["instances"].clone()
    };
    assert_eq!(["each", "rest", "fast", "slow"].map(instances), [3, 1, 1, 0].map(|number| json!(number)));
    assert_eq!(json["inputs"][0], json!({ "name": "logs", "files": 3, "bytes": 6 }));
    let (all, one) = (&json["outputs"][0], &json["outputs"][1]);
    assert_eq!((&all["directory"], &one["sources"]), (&json!(true), &json!(["fast.x", "slow.x"])));
}

#[test]
fn finds_errors_that_would_prevent_a_run() {
    let directory = Directory::with(&[
        ("sorted.yaml", SORTED),
        ("text", ""),
        (
            "nothing.yaml",
            "workflow: none\nfunctions:\n  n: { command: [no-such-program] }\n  m: { command: [no-such-program, -x] }\n  \
             o: { command: [nor-this] }\n",
        ),
        ("none.yaml", "workflow: none\nfunctions: { n: { command: [no-such-program] } }\noutputs: { n: n.out }\n"),
    ]);
    let sorted = "run sorted.yaml -p order=-r --dry-run";
    for (args, expected) in [
        ("run none.yaml --dry-run", "no program 'no-such-program'"),
        ("run nothing.yaml --dry-run", "2 programs cannot run:\n  'n', 'm': there is no program 'no-such-program'"),
        ("run nothing.yaml --dry-run", "\n  'o': there is no program 'nor-this'"),
        ("run sorted.yaml -i text --dry-run", "--param order=VALUE"),
        (&format!("{sorted} -i none"), "none"),
        (&format!("{sorted} -i text --memory 1KiB"), "too small"),
        (&format!("{sorted} -i text --spill-dir none"), "none"),
        (&format!("{sorted} -i text -o text/out"), "text/out"),
    ] {
        let call = directory.call(&args.split(' ').collect::<Vec<_>>());
        assert_eq!((call.status, call.out.as_str()), (Some(2), ""), "{args}: {call:#?}");
        assert!(call.err.contains(expected), "{args}: {}", call.err);
        let call = directory.call(&[&args.split(' ').collect::<Vec<_>>()[..], &["--format", "json"]].concat());
        assert!(call.json()["error"]["reason"].is_string(), "{args}: {call:#?}");
    }
}

#[test]
fn does_not_open_a_pipe() {
    let directory = Directory::with(&[("sorted.yaml", SORTED)]);
    mkfifoat(CWD, directory.path("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    // It has no writer: a call that opens it never returns.
    let call = directory.call(&["run", "sorted.yaml", "-i", "pipe", "-p", "order=-r", "--dry-run"]);
    assert!(call.status == Some(0) && call.out.contains("  text  read until its end\n"), "{call:#?}");
}
