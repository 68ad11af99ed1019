//! `check`, `graph` and `schema`.

use serde_json::json;

use crate::harness::{Directory, SORTED};

const WRONG: &str = "workflow: w\nfunctions:\n  a: { porgram: x }\n  b: { program: y, inputs: { i: c.out } }\n";

#[test]
fn a_correct_file() {
    let directory = Directory::with(&[("my flow.yaml", SORTED)]);
    let call = directory.call(&["check", "my flow.yaml"]);
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""));
    assert_eq!(
        call.out,
        "\
my flow.yaml: correct: workflow `sorted` with 1 function, 1 input, 1 output
  --param prefix=… is optional, default \"x\"
run it with: dflow run 'my flow.yaml' --input text=PATH --param order=VALUE
"
    );
    let json = directory.call(&["check", "my flow.yaml", "--format", "json"]).json();
    assert_eq!((&json["ok"], &json["functions"], &json["errors"]), (&json!(true), &json!(["sort"]), &json!([])));
    assert_eq!(json["params"], json!({ "order": null, "prefix": "x" }));
}

#[test]
fn a_wrong_file() {
    let directory = Directory::with(&[("w.yaml", WRONG)]);
    let call = directory.call(&["check", "w.yaml"]);
    assert_eq!((call.status, call.out.as_str()), (Some(2), ""));
    assert!(call.err.contains("w.yaml:3:8") && call.err.contains("porgram"), "{}", call.err);

    let call = directory.call(&["check", "w.yaml", "--format", "json"]);
    assert_eq!((call.status, call.err.as_str()), (Some(2), ""));
    let json = call.json();
    assert_eq!(
        (&json["ok"], &json["errors"][0]["line"], &json["errors"][0]["column"]),
        (&json!(false), &json!(3), &json!(8))
    );
    assert!(json["errors"].as_array().unwrap().len() >= 2, "{json}");
}

#[test]
fn a_missing_file() {
    let call = Directory::with(&[]).call(&["check", "none.yaml"]);
    assert_eq!(call.status, Some(2));
    assert!(call.err.contains("cannot read the workflow file none.yaml"), "{}", call.err);
}

#[test]
fn graphs() {
    let directory = Directory::with(&[("sorted.yaml", SORTED), ("w.yaml", WRONG)]);
    let call = directory.call(&["graph", "sorted.yaml"]);
    assert_eq!(call.status, Some(0));
    assert!(call.out.starts_with("flowchart LR\n") && call.out.contains("\"sort\""), "{}", call.out);
    let call = directory.call(&["graph", "sorted.yaml", "--format", "dot"]);
    assert!(call.out.starts_with("digraph \"sorted\" {\n"), "{}", call.out);
    let call = directory.call(&["graph", "w.yaml"]);
    assert_eq!((call.status, call.out.as_str()), (Some(2), ""));
    assert!(call.err.contains("porgram"), "{}", call.err);
}

#[test]
fn the_schema() {
    let call = Directory::with(&[]).call(&["schema"]);
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""));
    assert_eq!(call.json()["title"], "dflow workflow");
}
