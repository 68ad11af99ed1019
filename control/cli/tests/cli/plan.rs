//! `plan`.

use serde_json::{Value, json};

use crate::harness::{Directory, SORTED};

const WORDS: &str = "\
workflow: words
inputs: { text: { expect: { size: 400MB } }, logs: { parts: files, expect: { size: 4MB, parts: 4 } } }
params: { mode: null }
functions:
  make: { program: make, inputs: [inputs.text], outputs: [out], expect: { time: 4s, output: 50% } }
  use: { program: use, inputs: [make.out], outputs: [out], expect: { time: 4s, output: 1kB } }
  each: { command: [x], foreach: inputs.logs }
  fast: { command: [x], inputs: [inputs.text] }
  pick: { switch: params.mode, cases: { fast: fast, slow: [] } }
outputs: { result: use.out }
";

/// A function of a plan.
fn of<'p>(plan: &'p Value, name: &str) -> &'p Value {
    plan["functions"].as_array().unwrap().iter().find(|function| function["name"] == name).unwrap()
}

#[test]
fn a_plan_for_people() {
    let directory = Directory::with(&[("w.yaml", WORDS)]);
    let args = "plan w.yaml --nodes a=1,b=1 --memory 1GiB --bandwidth 200MB/s -p mode=slow --place each=a,b --compare";
    let call = directory.call(&args.split(' ').collect::<Vec<_>>());
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""), "{call:#?}");
    for line in [
        "plan of words by the policy dflow: ends after 4.20 s, 193 MiB over the network\n",
        "\nnodes\n  a  1 slot  1.00 GiB for streams\n  b  1 slot  1.00 GiB for streams\n",
        // They overlap on two nodes, although 200 MB have to move for that.
        "make     a       0.000  4.000  █",
        "use      b       0.001  4.001  █",
        "\nbytes over the network\n  a to b  193 MiB\n",
        "  make  a        beside inputs.text: 381 MiB stay local\n",
        "than on a, where its input is\n",
        "  each  2 nodes  pinned by --place\n",
        "  fast  -        it does not run\n",
        "\npolicies\n  dflow        ends after 4.20 s  193 MiB over the network\n",
        "  one-node     ends after 8.20 s  1.91 MiB over the network\n",
    ] {
        assert!(call.out.contains(line), "{line:?} is not in\n{}", call.out);
    }
}

#[test]
fn a_plan_for_programs() {
    let directory = Directory::with(&[("w.yaml", WORDS), ("book", "four"), ("x", "1"), ("y", "22")]);
    let args = "plan --nodes a=4 --nodes b=2,c=1 --json -p mode=fast -i text=book -i logs=x logs=y w.yaml";
    let call = directory.call(&args.split(' ').collect::<Vec<_>>());
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""), "{call:#?}");
    let plan = call.json();
    assert_eq!((&plan["workflow"], &plan["policy"]), (&json!("words"), &json!("dflow")));
    assert_eq!(plan["nodes"][2]["name"], "c");
    let instances = plan["instances"].as_array().unwrap();
    let names: Vec<&str> = instances.iter().map(|instance| instance["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["make", "use", "each[0]", "each[1]", "fast"]);
    assert_eq!(instances[0]["bytes_read"], 4, "the size of the file");
    assert_eq!((&instances[2]["bytes_read"], &instances[3]["bytes_read"]), (&json!(1), &json!(2)));
    assert_eq!(of(&plan, "each")["nodes"], json!(["a", "b"]));
    assert_eq!(of(&plan, "each")["reason"], "spread-unknown");
    assert_eq!(of(&plan, "make")["reason"], "beside-input");
    assert!(plan["end_ns"].as_u64().unwrap() >= 4_000_000_000);
    assert!(plan.get("profiles").is_none() && plan.get("policies").is_none());
}

#[test]
fn links_and_policies_change_the_plan() {
    let directory = Directory::with(&[("w.yaml", WORDS)]);
    let plan = |more: &str| {
        let args = format!("plan w.yaml --nodes a=1,b=1 -p mode=slow --place each=a --format json {more}");
        directory.call(&args.split_whitespace().collect::<Vec<_>>()).json()
    };
    assert_eq!(of(&plan("--bandwidth 1GB/s"), "use")["nodes"], json!(["b"]));
    // 200 MB would take 200 s.
    assert_eq!(of(&plan("--bandwidth 1MB/s"), "use")["nodes"], json!(["a"]));
    assert_eq!(of(&plan("--bandwidth 1GB/s --link b:a=1MB/s,1ms"), "use")["nodes"], json!(["a"]));
    assert_eq!(of(&plan("--bandwidth 1MB/s --policy round-robin"), "use")["nodes"], json!(["b"]));
    assert_eq!(of(&plan("--policy round-robin"), "use")["why"], "chosen by the policy round-robin");
}

#[test]
fn profiles_are_learned_from_runs() {
    let directory = Directory::with(&[("sorted.yaml", SORTED), ("text", "b\na\n")]);
    let records = directory.path("records");
    let env = [("DFLOW_LOGS", records.to_str().unwrap())];
    let profile = || {
        let call = directory.call_with(&["plan", "sorted.yaml", "--profile", "--json", "-i", "text"], &env);
        assert_eq!(call.status, Some(0), "{call:#?}");
        (call.json()["profiles"][0].clone(), call.err)
    };
    assert_eq!(profile().0["from"], "assumed");
    for runs in 1..=2 {
        let run = directory.call_with(&["run", "sorted.yaml", "-i", "text", "-p", "order=-r", "-q"], &env);
        assert_eq!(run.status, Some(0), "{run:#?}");
        let (profile, notes) = profile();
        assert_eq!((&profile["learned_runs"], notes.as_str()), (&json!(runs), ""));
        assert_eq!(
            (&profile["measured_at_input_bytes"], &profile["other_outputs"]),
            (&json!(4), &json!({ "share_of_input": 1.0 }))
        );
        assert!(profile["time_ns"].as_u64().unwrap() > 0, "{profile}");
    }
    // A file that is not one is named, and replaced by the next run.
    let file = records.join("profiles/sorted.json");
    std::fs::write(&file, "{").unwrap();
    let (broken, notes) = profile();
    assert!(
        broken["from"] == "assumed" && notes.contains("does not hold profiles of the workflow 'sorted'"),
        "{notes}"
    );
    assert_eq!(
        directory.call_with(&["run", "sorted.yaml", "-i", "text", "-p", "order=-r", "-q"], &env).status,
        Some(0)
    );
    assert_eq!(profile().0["learned_runs"], 1);
    let text = directory.call_with(&["plan", "sorted.yaml", "--profile"], &env).out;
    assert!(text.contains("\nprofiles\n") && text.contains("learned from 1 run\n"), "{text}");
}

#[test]
fn a_run_that_fails_teaches_nothing() {
    let failing = "workflow: failing\nfunctions:\n  a: { command: [cat, none], inputs: [] }\n  b: { command: [\"true\"], outputs: [] }\n";
    let directory = Directory::with(&[("failing.yaml", failing)]);
    let records = directory.path("records");
    let run = directory.call_with(&["run", "failing.yaml", "-q"], &[("DFLOW_LOGS", records.to_str().unwrap())]);
    assert_eq!(run.status, Some(1), "{run:#?}");
    assert!(!records.join("profiles").exists());
}

#[test]
fn wrong_calls() {
    let directory = Directory::with(&[("w.yaml", WORDS)]);
    for (args, expected) in [
        ("--nodes a", "a node is NAME=SLOTS"),
        ("--nodes a=0", "at least one slot"),
        ("--nodes a=1,a=2", "names the node 'a' twice"),
        ("--nodes a=1,b=1 --place make=c", "the nodes of this run are 'a', 'b'"),
        ("--nodes a=1,b=1 --place mke=a", "'mke'"),
        ("--nodes a=1,b=1 --place make=a --place make=b", "the function 'make' twice"),
        ("--nodes a=1,b=1 --link a:c=1MB/s,1ms", "--link names the node 'c'"),
        ("--nodes a=1,b=1 --link a=1MB/s", "a link is NAME:NAME="),
        ("--bandwidth 0", "at least 1B/s"),
        ("--policy best", "possible values: dflow, heft, faasflow, round-robin, one-node"),
        ("-i text=none", "none"),
        ("-i nothing=w.yaml", "has no input `nothing`"),
        ("-p mde=fast", "did you mean"),
    ] {
        let args = format!("plan w.yaml {args}");
        let call = directory.call(&args.split(' ').collect::<Vec<_>>());
        assert_eq!((call.status, call.out.as_str()), (Some(2), ""), "{args}: {call:#?}");
        assert!(call.err.contains(expected), "{args}: {}", call.err);
    }
    let call = directory.call(&["plan", "w.yaml", "--json", "--bandwidth", "0"]);
    assert!(call.json()["error"]["reason"].is_string(), "{call:#?}");
}
