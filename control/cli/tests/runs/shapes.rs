//! Shapes of workflows, invoked by data, by control flow and with one slot.

use crate::support::{Case, switch_on_what_was_written, test_bytes};

const WAYS: [&[&str]; 3] = [&[], &["--slots", "1"], &["--invocation", "control-flow"]];

#[test]
fn a_switch_runs_what_it_chooses() {
    let case = switch_on_what_was_written();
    for way in WAYS {
        let ran = case.run(&[way, &["--overwrite"]].concat());
        ran.succeeded();
        assert_eq!(case.output("o"), b"was-small\n");
        assert!(ran.attempts("l").is_empty(), "what was not chosen was started");
        case.run(&[way, &["--overwrite", "--param", "mode=large"]].concat()).succeeded();
        assert_eq!(case.output("o"), b"was-large\n");
    }
    let ran = case.run(&["--overwrite", "--param", "mode=other"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.report["error"]["reason"].as_str().unwrap().contains("`other`"), "{}", ran.report["error"]);
}

#[test]
fn the_first_k_of_n_win_and_the_others_are_ended() {
    let case = Case::new(
        "a: { command: [echo, a] }
         b: { program: dflow-probe, outputs: [out], params: { fail: hang } }
         c: { command: [echo, c] }
         m: { command: [cat], inputs: { i: { from: [a.out, b.out, c.out], need: 2, gate: whole } } }",
        "{ o: m.out }",
    );
    let ran = case.run(&["--slots", "4"]);
    ran.succeeded();
    assert_eq!(case.output("o"), b"a\nc\n");
    assert_eq!(ran.attempts("b")[0]["end"], "unread");
}

#[test]
fn a_candidate_that_fails_leaves_the_race_to_the_others() {
    let case = Case::new(
        "a: { command: [sh, -c, 'exit 3'] }
         b: { command: [echo, b] }
         m: { command: [cat], inputs: { i: { from: [a.out, b.out], need: 1, gate: whole } } }",
        "{ o: m.out }",
    );
    for way in WAYS {
        case.run(way).succeeded();
        assert_eq!(case.output("o"), b"b\n");
    }
    case.replace("[echo, b]", "[sh, -c, 'echo b; exit 4']");
    case.run(&[]).failed("m", &["needs 1 stream, and 0 are left", "`a` failed", "status 3", "`b` failed", "status 4"]);
}

#[test]
fn an_empty_directory_is_a_foreach_without_instances() {
    let case = Case::with_header(
        "inputs: { files: { parts: files } }",
        "each: { command: [cat], foreach: inputs.files }
         all: { command: [cat], inputs: [each.out] }
         none: { command: [sh, -c, 'echo $#', sh, '{in.out}'], inputs: [each.out] }",
        "{ parts: each.out, all: all.out, none: none.out }",
    );
    let folder = case.path("empty");
    std::fs::create_dir(&folder).unwrap();
    let input = format!("files={}", folder.display());
    for way in WAYS {
        let ran = case.run(&[way, &["--input", &input]].concat());
        ran.succeeded();
        assert!(ran.stderr.contains("the input 'files' has no files"), "{}", ran.stderr);
        assert_eq!((case.output("all"), case.output("none")), (Vec::new(), b"0\n".to_vec()));
        assert_eq!(std::fs::read_dir(case.path("out/parts")).unwrap().count(), 0);
    }
}

#[test]
fn each_instance_of_a_foreach_over_files_knows_its_file() {
    let case = Case::with_header(
        "inputs: { files: { parts: files } }",
        "each: { command: [sh, -c, 'cat >/dev/null; echo $DFLOW_PART ${DFLOW_PART_FILE##*/}'], foreach: inputs.files }
         next: { command: [sh, -c, 'cat; echo ${DFLOW_PART_FILE##*/}'], foreach: each }
         all: { command: [sh, -c, 'cat; echo none $DFLOW_PART$DFLOW_PART_FILE'], inputs: [next] }",
        "{ all: all.out }",
    );
    let folder = case.path("reads");
    std::fs::create_dir(&folder).unwrap();
    for name in ["b.fq", "a 1.fq"] {
        std::fs::write(folder.join(name), "x").unwrap();
    }
    let input = format!("files={}", folder.display());
    for way in WAYS {
        case.run(&[way, &["--input", &input]].concat()).succeeded();
        let text = String::from_utf8(case.output("all")).unwrap();
        assert_eq!(text, "0 a 1.fq\na 1.fq\n1 b.fq\nb.fq\nnone\n");
    }
}

#[test]
fn an_output_that_no_chosen_function_writes_is_noted() {
    let case = Case::with_header(
        "params: { mode: a }",
        "route: { switch: '${params.mode}', cases: { a: [a], b: [b] } }
         a: { command: [echo, a] }
         b: { command: [echo, b] }
         after: { command: [cat], inputs: [b] }",
        "{ one: a.out, other: after.out, both: [a.out, b.out] }",
    );
    for way in WAYS {
        let ran = case.run(way);
        ran.succeeded();
        let note = "the output 'other' was not written: no switch has chosen a function that writes it (after.out)";
        assert!(ran.stderr.contains(&format!("note: {note}")), "{}", ran.stderr);
        assert_eq!(ran.report["notes"].as_array().unwrap().len(), 1, "{}", ran.report["notes"]);
        assert!(!case.path("out/other").exists());
        assert_eq!((case.output("one"), case.output("both")), (b"a\n".to_vec(), b"a\n".to_vec()));
    }
}

#[test]
fn names_as_published_workflows_have_them() {
    let long = "x".repeat(255);
    let case = Case::new(
        &format!(
            "mProject_00000001: {{ command: [sh, -c, 'echo $0 >{{out.report.tsv}}; echo log', hi], outputs: {{ report.tsv: , log: {{ stdout: true }} }} }}
             mDiff.fit-2: {{ command: [tr, h, H], inputs: [mProject_00000001.report.tsv], outputs: [{long}] }}"
        ),
        &format!("{{ report.tsv: mProject_00000001.report.tsv, Result: mDiff.fit-2.{long}, {long}: mDiff.fit-2 }}"),
    );
    case.run(&[]).succeeded();
    assert_eq!(case.output("report.tsv"), b"hi\n");
    assert_eq!(case.output("Result"), b"Hi\n");
    assert_eq!(case.output(&long), b"Hi\n");
}

/// As many as there may be, so that what the functions are told of them does not fit into one packet.
#[test]
fn a_function_with_thousands_of_inputs_and_outputs() {
    const COUNT: usize = 16_384;
    let list = |item: &dyn Fn(usize) -> String| (0..COUNT).map(item).collect::<Vec<_>>().join(", ");
    let outputs = list(&|n| format!("an-output-with-a-long-name.{n}.tsv"));
    let inputs = list(&|n| format!("an-input-with-a-long-name.{n}: w.an-output-with-a-long-name.{n}.tsv"));
    let case = Case::new(
        &format!(
            "w: {{ program: dflow-probe, outputs: [{outputs}], params: {{ bytes: 10 }} }}
             r: {{ program: dflow-probe, inputs: {{ {inputs} }}, outputs: [o], params: {{ check: true }} }}"
        ),
        "{ o: r.o }",
    );
    case.run(&[]).succeeded();
    assert_eq!(case.output("o").len(), 10 * COUNT);
}

#[test]
fn parts_that_are_discovered_have_instances_of_their_own() {
    let case = Case::new(
        "a: { program: dflow-probe, outputs: { o: { partition: discovered } }, params: { bytes: 300000, parts: 5 } }
         b: { program: dflow-probe, foreach: a.o, outputs: [n], params: { check: true } }
         c: { program: dflow-probe, inputs: { i: b.n }, outputs: [o] }",
        "{ o: c.o, parts: b.n }",
    );
    for way in WAYS {
        case.run(way).succeeded();
        assert_eq!(case.output("o").len(), 5 * 300_000);
        for part in 0..5 {
            assert!(case.output(&format!("parts/{part:05}")) == test_bytes(300_000), "part {part}");
        }
    }
}

#[test]
fn every_reader_of_a_stream_gets_all_of_it() {
    let readers: String = (0..6)
        .map(|index| {
            format!(
                "r{index}: {{ program: dflow-probe, inputs: {{ i: a.o }}, outputs: [o], params: {{ check: true }} }}\n"
            )
        })
        .collect();
    let outputs: String = (0..6).map(|index| format!("o{index}: r{index}.o, ")).collect();
    let case = Case::new(
        &format!("a: {{ program: dflow-probe, outputs: [o], params: {{ bytes: 3000000 }} }}\n{readers}"),
        &format!("{{ {outputs} }}"),
    );
    for way in WAYS {
        case.run(&[way, &["--memory", "8MiB"]].concat()).succeeded();
        for index in 0..6 {
            assert!(case.output(&format!("o{index}")) == test_bytes(3_000_000), "reader {index}");
        }
    }
}
