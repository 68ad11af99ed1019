//! Files with errors: for each kind of mistake, the place and the message of the error.

use dflow_workflow::{Diagnostics, Workflow, limits};

fn errors(text: &str) -> Diagnostics {
    Workflow::parse("w.yaml", text).expect_err("the file is wrong")
}

/// Expects exactly one error, at `place` ("line:column"), whose texts contain all of `parts`.
fn expect(text: &str, place: &str, parts: &[&str]) {
    let diagnostics = errors(text);
    let list: Vec<_> = diagnostics.iter().collect();
    let [error] = list[..] else { panic!("one error was expected in\n{text}\n{diagnostics}") };
    assert_eq!(error.location().map(|it| it.to_string()).as_deref(), Some(place), "in\n{text}\n{diagnostics}");
    let said =
        std::iter::once(error.message()).chain([error.label()]).chain(error.help()).collect::<Vec<_>>().join("\n");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in\n{said}\nof\n{text}\n{diagnostics}");
    }
}

/// A file with these functions, which start in line 5.
fn functions(functions: &str) -> String {
    format!(
        "workflow: w\ninputs: {{ text: {{}}, files: {{ parts: files }} }}\nparams: {{ top: 10 }}\nfunctions:\n{functions}"
    )
}

/// Expects one error in a file with these functions.
fn expect_in(text: &str, place: &str, parts: &[&str]) {
    expect(&functions(text), place, parts);
}

#[test]
fn yaml_syntax() {
    expect("workflow: w\nfunctions:\n\ta: {}\n", "3:2", &["not valid YAML", "spaces"]);
    expect("workflow: w: x\nfunctions: {}\n", "1:12", &["not valid YAML", "must be quoted"]);
    expect("workflow: [w\n", "1:11", &["not valid YAML", "unclosed"]);
    expect("workflow: \"w\n", "2:1", &["not valid YAML", "quote"]);
    expect_in("  a: { command: [cat, -] }\n", "5:23", &["not valid YAML", "`\"-\"`"]);
    expect_in("  a: { command: [awk, \"-F,\" x] }\n", "5:29", &["not valid YAML", "comma is missing"]);
    expect_in("  a: { command: [grep, \"\\d\"] }\n", "5:24", &["not valid YAML", "single quotes"]);
    expect("workflow: *w\nfunctions: {}\n", "1:11", &["not valid YAML", "&name"]);
    expect("workflow: w\n---\nworkflow: v\n", "2:1", &["second YAML document"]);
    expect("workflow: !!str w\nfunctions: {}\n", "1:11", &["no tags"]);
    expect("", "1:1", &["empty", "`workflow: NAME`"]);
    expect("# nothing\n", "1:1", &["empty"]);
    expect("- a\n", "1:1", &["expected a workflow, found a list"]);
    expect("workflow: w\nfunctions: {}\n? [a]\n: b\n", "3:3", &["key must be text"]);
    expect(&format!("{}{}", "[".repeat(60), "]".repeat(60)), "1:33", &["nested 32 deep"]);
}

#[test]
fn aliases_cannot_grow_without_limit() {
    let mut text = String::from("workflow: w\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let previous = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
    }
    let diagnostics = errors(&text);
    assert!(diagnostics.to_string().contains("more than 4000000 values"), "{diagnostics}");
    expect("workflow: &a [*a]\nfunctions: {}\n", "1:15", &["inside the value that it repeats"]);
}

#[test]
fn keys() {
    expect(
        "workflow: w\nfunctoins: {}\nfunctions: {}\n",
        "2:1",
        &["unknown key `functoins`", "did you mean `functions`?", "keys of a workflow: workflow, description"],
    );
    expect("workflow: w\nworkflow: v\nfunctions: {}\n", "2:1", &["duplicate key `workflow`"]);
    expect("functions: {}\n", "1:1", &["the key `workflow` is missing"]);
    expect("workflow: w\n", "1:1", &["the key `functions` is missing"]);
    expect_in(
        "  a: { porgram: x }\n  b: { program: x }\n",
        "5:8",
        &["unknown key `porgram`", "did you mean `program`?"],
    );
    expect_in("  a: { program: x, program: y }\n", "5:20", &["duplicate key `program`"]);
    expect_in("  a: { program: x, <<: {} }\n", "5:20", &["unknown key `<<`", "merge keys"]);
}

#[test]
fn names() {
    expect(
        "workflow: Word Count\nfunctions: {}\n",
        "1:11",
        &["`Word Count` is not a name", "for example `Word-Count`"],
    );
    expect("workflow: 7\nfunctions: {}\n", "1:11", &["expected a name, found the number `7`", "\"7\""]);
    expect(&format!("workflow: {}\nfunctions: {{}}\n", "a".repeat(256)), "1:11", &["at most 255 characters"]);
    for name in ["a/b", ".", "..", ".a", "-a", "a b", "ä"] {
        let text = format!("  {name:?}: {{ program: x }}\n");
        expect_in(&text, "5:3", &[&format!("`{name}` is not a name")]);
    }
    expect_in("  inputs.a: { program: x }\n", "5:3", &["the name `inputs.a` is reserved"]);
    expect_in("  inputs: { program: x }\n", "5:3", &["the name `inputs` is reserved"]);
    expect_in("  params: { program: x }\n", "5:3", &["the name `params` is reserved"]);
    expect_in("  a: { program: x, outputs: [to tal] }\n", "5:30", &["`to tal` is not a name", "`to-tal`"]);
    expect_in("  a: { program: x, env: { 1A: x } }\n", "5:27", &["not the name of an environment variable"]);
    expect_in("  a: { program: x, env: { DFLOW_FD: 3 } }\n", "5:27", &["`DFLOW_FD` is reserved"]);
}

#[test]
fn the_same_name_twice() {
    expect_in("  a: { program: x }\n  a: { program: y }\n", "6:3", &["the function `a` is given twice", "rename"]);
    expect_in("  a: { program: x, outputs: [o, o] }\n", "5:33", &["the output `o` is given twice", "two writers"]);
    expect_in("  a: { program: x, outputs: { o: {}, o: {} } }\n", "5:38", &["the output `o` is given twice"]);
    expect_in(
        "  a: { program: x, outputs: [o] }\n  b: { program: x, outputs: [o] }\noutputs: [a.o, b.o]\n",
        "7:16",
        &["the workflow output `o` is given twice", "two writers", "first: a.x"],
    );
    expect_in(
        "  a: { program: x, inputs: { i: inputs.text, i: inputs.files } }\n",
        "5:46",
        &["the input `i` is given twice"],
    );
    expect("workflow: w\ninputs: [a, a]\nfunctions: {}\n", "2:13", &["the workflow input `a` is given twice"]);
    expect("workflow: w\nparams: {a: 1, a: 2}\nfunctions: {}\n", "2:16", &["the parameter `a` is given twice"]);
    expect_in("  a: { program: x, env: { A: 1, A: 2 } }\n", "5:33", &["the environment variable `A` is given twice"]);
    expect_in(
        "  a: { program: x, inputs: { i: [inputs.text, inputs.text] } }\n",
        "5:47",
        &["`inputs.text` is listed twice"],
    );
    expect_in("  a: { program: x, outputs: [o] }\noutputs: { r: [a.o, a] }\n", "6:21", &["`a` is listed twice"]);
}

#[test]
fn references() {
    let split = "  split: { program: x, outputs: { parts: { partition: 2 }, rest: {} } }\n";
    let with = |rest: &str| format!("{split}{rest}");
    expect_in(
        &with("  a: { program: x, inputs: { i: splt.parts } }\n"),
        "6:33",
        &["there is no function `splt`", "did you mean `split`?", "functions: split, a"],
    );
    expect_in(
        &with("  a: { program: x, inputs: { i: split.part } }\n"),
        "6:33",
        &["function `split` has no output `part`", "did you mean `parts`?", "outputs of `split`: parts, rest"],
    );
    expect_in(&with("  a: { program: x, inputs: { i: split } }\n"), "6:33", &["has several outputs", "parts, rest"]);
    expect_in("  a: { program: x }\n  b: { program: x, inputs: [a] }\n", "6:29", &["function `a` has no output"]);
    expect_in(
        "  a: { program: x, inputs: [inputs.txt] }\n",
        "5:29",
        &["the workflow has no input `txt`", "did you mean `text`?", "workflow inputs: text, files"],
    );
    expect_in("  a: { program: x, inputs: [text] }\n", "5:29", &["there is no function `text`", "`inputs.text`"]);
    expect_in("  a: { program: x, inputs: [inputs] }\n", "5:29", &["write `inputs.NAME`"]);
    expect_in("  a: { program: x, inputs: [params.top] }\n", "5:29", &["a parameter is not a stream"]);
    expect_in("  a: { program: x, inputs: [a b] }\n", "5:29", &["`a b` is not a source", "FUNCTION.OUTPUT"]);
    expect_in("  a: { program: x, inputs: [a/b] }\n", "5:29", &["`a/b` is not a source"]);
    expect_in(
        "  s: { switch: $mode, cases: { x: a } }\n  a: { command: [cat] }\n",
        "5:16",
        &["`$mode` is not a source", "`${params.NAME}`"],
    );
    expect_in("  a: { program: x, inputs: [a.b.c] }\n", "5:29", &["function `a` has no output `b.c`"]);
    expect_in(
        "  clean.up: { program: x, outputs: [report.tsv] }\n  a: { program: x, inputs: [claen.up.report.tsv] }\n",
        "6:29",
        &["there is no function `claen.up`", "did you mean `clean.up`?"],
    );
    expect_in(
        "  a: { program: x, outputs: [b.txt] }\n  a.b: { program: x, outputs: [txt] }\n  c: { program: x, inputs: [a.b.txt] }\n",
        "7:29",
        &["`a.b.txt` has two meanings", "the output `txt` of `a.b` or the output `b.txt` of `a`", "rename"],
    );
    expect_in("  a: { program: x }\noutputs: { r: b.o }\n", "6:15", &["there is no function `b`"]);
    expect_in("  a: { program: x }\noutputs: { r: inputs.text }\n", "6:15", &["an output is written by a function"]);
    expect_in(
        "  a: { program: x, params: { k: \"${params.tip}\" } }\n",
        "5:34",
        &["no parameter `tip`", "did you mean `top`?"],
    );
    expect_in(
        "  a: { program: x }\n  s: { switch: params.top, cases: { x: a } }\noutputs: [s.o]\n",
        "7:11",
        &["`s` is a switch, which writes nothing"],
    );
}

#[test]
fn missing_sources() {
    expect_in(
        "  a: { program: x, inputs: { i: { gate: whole } } }\n",
        "5:30",
        &["the input `i` has no source", "from:"],
    );
    expect_in("  a: { program: x, inputs: { i: } }\n", "5:31", &["a source is missing here"]);
    expect_in("  a: { program: x, inputs: { i: [] } }\n", "5:33", &["has 0 sources"]);
    expect_in("  a: { program: x, inputs: inputs.text }\n", "5:28", &["a list of sources", "`[inputs.text]`"]);
}

#[test]
fn types_and_units() {
    expect("workflow: w\nfunctions: [a]\n", "2:12", &["expected a map from the name of each function", "found a list"]);
    expect_in("  a: x\n", "5:6", &["expected a function, found the text `x`"]);
    expect_in("  a: { program: [x] }\n", "5:17", &["expected text, found a list"]);
    expect_in("  a: { program: 7 }\n", "5:17", &["found the number `7`", "in quotes"]);
    expect_in("  a: { program: '' }\n", "5:17", &["the name of the program is empty"]);
    expect_in("  a: { program: x, timeout: 30 }\n", "5:29", &["`30` is not a duration", "did you mean `30s`?"]);
    expect_in(
        "  a: { program: x, timeout: 5 parsecs }\n",
        "5:29",
        &["`parsecs` does not exist", "us, ms, s, m, h or d"],
    );
    expect_in("  a: { program: x, timeout: 0s }\n", "5:29", &["time-out of zero"]);
    expect_in("  a: { program: x, deadline: 0s }\n", "5:30", &["a deadline of zero"]);
    expect_in("  a: { program: x, start_timeout: 0s }\n", "5:35", &["time-out of zero"]);
    expect_in("  a: { program: x, grace: 25h }\n", "5:27", &["more than a day", "at most `1d`"]);
    expect_in("  a: { program: x, timeout: 400d }\n", "5:29", &["too long"]);
    expect_in("  a: { program: x, resources: { memory: 1 Gig } }\n", "5:41", &["no unit `Gig`", "GiB"]);
    expect_in("  a: { program: x, resources: { memory: 0 } }\n", "5:41", &["without memory"]);
    expect_in("  a: { program: x, resources: { cpu: 0.5 } }\n", "5:38", &["`0.5` is not possible", "from 1 to"]);
    expect_in(
        "  a: { program: x, resources: { cpu: many } }\n",
        "5:38",
        &["expected a whole number, found the text `many`"],
    );
    expect_in("  a: { program: x, retries: -1 }\n", "5:29", &["`-1` is not possible", "from 0 to 1000"]);
    expect_in("  a: { program: x, retries: { backoff: 1s } }\n", "5:29", &["the key `count` is missing"]);
    expect_in(
        "  a: { program: x, retries: { count: 1, backoff: 2s, max_backoff: 1s } }\n",
        "5:67",
        &["shorter than the first pause"],
    );
    expect_in(
        "  a: { program: x, deterministic: yes }\n",
        "5:35",
        &["expected `true` or `false`, found the text `yes`"],
    );
    expect_in(
        "  a: { program: x, gate: hole }\n",
        "5:26",
        &["expected `stream` or `whole` or `start`", "did you mean `whole`?"],
    );
    expect_in("  a: { program: x, outputs: { o: { partition: 0 } } }\n", "5:47", &["from 1 to 65536"]);
    expect_in(
        "  a: { program: x, outputs: { o: { partition: \"8\" } } }\n",
        "5:47",
        &["found the text `8`", "without quotes"],
    );
    expect_in(
        "  a: { program: x, outputs: { o: { partition: some } } }\n",
        "5:47",
        &["a number of parts or `discovered`"],
    );
    expect_in("  a: { program: x, outputs: o }\n", "5:29", &["a list of names", "`[o]`"]);
    expect_in("  a: { program: x, params: { k: null } }\n", "5:33", &["expected text, found nothing"]);
    expect_in("  a: { program: x, params: { k: \"a\\0b\" } }\n", "5:33", &["NUL byte"]);
    expect_in("  a: { program: x, params: { k: \"top ${params.top\" } }\n", "5:38", &["`${params.top` has no closing"]);
    expect_in("  a: { program: x, params: { k: \"{params.x}\" } }\n", "5:34", &["write `${params.x}`"]);
    expect_in("  a: { program: x, env: { A: \"n={params.top}\" } }\n", "5:33", &["write `${params.top}`"]);
    expect_in("  a: { program: x, env: { A: \"${params.tip}\" } }\n", "5:31", &["no parameter `tip`", "`top`?"]);
    expect_in("  a: { program: x, dir: \"${params.tip}\" }\n", "5:26", &["no parameter `tip`"]);
    expect_in("  a: { program: x, dir: '' }\n", "5:25", &["name of the working directory is empty"]);
    expect(
        "workflow: w\ninputs: { a: { parts: lines } }\nfunctions: {}\n",
        "2:23",
        &["expected `files`, found the text `lines`"],
    );
}

#[test]
fn programs() {
    expect_in("  a: { outputs: [o] }\n", "5:3", &["the function `a` has no program", "`command:"]);
    expect_in("  a: { program: x, command: [y] }\n", "5:29", &["both `program` and `command`"]);
    expect_in("  a: { command: sort -k1 }\n", "5:17", &["write `command: [sort, -k1]`"]);
    expect_in("  a: { command: \"awk '$9 >= 400'\" }\n", "5:17", &["write `command: [awk, \"$9 >= 400\"]`"]);
    expect_in("  a: { command: sort | uniq }\n", "5:17", &["write `command: [sh, -c, \"sort | uniq\"]`"]);
    expect_in("  a: { command: [] }\n", "5:17", &["the command is empty"]);
    expect_in("  a: { command: [''] }\n", "5:18", &["the first entry of a command is the program"]);
    expect_in("  a: { command: ['{in.i}'], inputs: { i: inputs.text } }\n", "5:18", &["the first entry", "\"sh\""]);
    expect_in(
        "  a: { command: [cat, {in.i}], inputs: { i: inputs.text } }\n",
        "5:23",
        &["found a map", "in quotes: \"{in.i}\""],
    );
    expect_in(
        "  a: { command: [cat, '-o={in.x}'], inputs: { text: inputs.text } }\n",
        "5:27",
        &["function `a` has no input `x`", "inputs of `a`: text"],
    );
    expect_in("  a: { command: [cat, '{out.x}'], outputs: [o] }\n", "5:24", &["no output `x`", "outputs of `a`: o"]);
    expect_in("  a: { command: [cat, '{params.x}'] }\n", "5:24", &["there is no parameter `x`", "parameters: top"]);
    expect_in(
        "  a: { command: [cat, '{inputs.i}'], inputs: { i: inputs.text } }\n",
        "5:24",
        &["did you mean `{in.i}`?"],
    );
    expect_in("  a: { command: [cat, '${params.x}'] }\n", "5:25", &["there is no parameter `x`", "parameters: top"]);
    expect_in("  a: { command: [cat, '{out}'] }\n", "5:24", &["did you mean `{out.NAME}`?"]);
    expect_in(
        "  a: { command: [cat, 'x{in.i}'], inputs: { i: inputs.files } }\n",
        "5:25",
        &["must be a separate argument"],
    );
}

#[test]
fn standard_streams() {
    expect_in(
        "  a: { command: [join], inputs: { x: inputs.text, y: inputs.files } }\n",
        "5:51",
        &["which input is the standard input? No argument names `x`, `y`", "`{in.y}`", "`stdin: true`"],
    );
    expect_in("  a: { command: [join], foreach: inputs.files, inputs: [inputs.text] }\n", "5:57", &["`part`, `text`"]);
    expect_in(
        "  a: { command: [tee], outputs: [x, y] }\n",
        "5:37",
        &["which output is the standard output?", "`stdout: true`"],
    );
    expect_in(
        "  a: { command: [join], inputs: { x: { from: inputs.text, stdin: true }, y: inputs.files } }\n",
        "5:74",
        &["the input `y` does not reach the command", "`{in.y}`"],
    );
    expect_in(
        "  a: { command: [cat], inputs: { x: { from: inputs.text, stdin: false } } }\n",
        "5:34",
        &["does not reach"],
    );
    expect_in(
        "  a: { command: [cat, '{in.x}'], inputs: { x: { from: inputs.text, stdin: true } } }\n",
        "5:75",
        &["names it as well"],
    );
    expect_in(
        "  a: { command: [cat], inputs: { x: { from: inputs.text, stdin: true }, y: { from: inputs.files, stdin: true } } }\n",
        "5:105",
        &["a second standard input"],
    );
    expect_in(
        "  a: { program: cat, inputs: { x: { from: inputs.text, stdin: true } } }\n",
        "5:63",
        &["`stdin` is only for a `command`"],
    );
    expect_in(
        "  a: { program: cat, outputs: { x: { stdout: true } } }\n",
        "5:46",
        &["`stdout` is only for a `command`"],
    );
}

#[test]
fn cycles() {
    let cycle = functions(
        "  a: { program: x, inputs: [c.o], outputs: [o] }
  b: { program: x, inputs: { i: a.o }, outputs: [o] }
  c: { program: x, inputs: [b.o], outputs: [o] }
  d: { program: x, inputs: [c.o] }
",
    );
    expect(&cycle, "5:29", &["the functions form a cycle: a -> b -> c -> a", "`a` reads from `c`"]);
    let shown = errors(&cycle).to_string();
    assert!(shown.contains("`b` reads from `a`") && shown.contains("`c` reads from `b`"), "{shown}");

    expect_in("  a: { program: x, inputs: [a.o], outputs: [o] }\n", "5:29", &["cycle: a -> a"]);
    expect_in(
        "  a: { program: x, foreach: b.o, outputs: [o] }\n  b: { program: x, foreach: a.o, outputs: [o] }\n",
        "5:29",
        &["a -> b -> a"],
    );
    expect_in(
        "  probe: { program: x, inputs: [video.o], outputs: [kind] }
  route: { switch: probe.kind, cases: { video: video } }
  video: { program: x, outputs: [o] }
",
        "5:33",
        &["cycle: probe -> route -> video -> probe"],
    );
    let two = functions(
        "  a: { program: x, inputs: [b.o], outputs: [o] }
  b: { program: x, inputs: [a.o], outputs: [o] }
  c: { program: x, inputs: [d.o], outputs: [o] }
  d: { program: x, inputs: [c.o], outputs: [o] }
",
    );
    assert_eq!(errors(&two).iter().count(), 2);
}

#[test]
fn shapes() {
    expect_in(
        "  a: { program: x, outputs: [o] }\n  b: { program: x, foreach: a.o }\n",
        "6:29",
        &["`a.o` is one stream, so it has no parts to run for", "make `a` write parts", "partition: 8"],
    );
    expect_in("  b: { program: x, foreach: inputs.text }\n", "5:29", &["`inputs.text` is one stream", "parts: files"]);
    expect_in(
        "  b: { program: x, foreach: inputs.files, outputs: { o: { partition: 2 } } }\n",
        "5:70",
        &["an output of a `foreach` cannot be partitioned again", "remove `partition`"],
    );
    expect_in(
        "  b: { command: [x], outputs: { o: { partition: 2 } } }\n",
        "5:49",
        &["an output of a `command` cannot be partitioned"],
    );
    expect_in(
        "  b: { program: x, foreach: inputs.files, inputs: { part: inputs.text } }\n",
        "5:59",
        &["has its source from `foreach`"],
    );
    expect_in(
        "  b: { program: x, inputs: { i: { from: inputs.text, need: 1 } } }\n",
        "5:60",
        &["nothing to choose from"],
    );
    expect_in(
        "  b: { program: x, foreach: inputs.files, inputs: { part: { need: 1 } } }\n",
        "5:67",
        &["nothing to choose from"],
    );
    expect_in(
        "  a: { program: x, outputs: { o: { partition: 3 } } }
  b: { program: x, foreach: a.o, outputs: [o] }
  c: { program: x, inputs: { i: { from: [b.o, inputs.text], need: 5 } } }
",
        "7:67",
        &["`need` is 5, but the input `i` has 4 streams"],
    );
    expect_in("  b: { program: x, inputs: { i: { from: inputs.files, need: 0 } } }\n", "5:61", &["from 1 to"]);
}

#[test]
fn switches() {
    let rest = "  probe: { program: x, outputs: { kind: {}, parts: { partition: 2 } } }
  a: { program: x, outputs: [o] }
  b: { program: x, outputs: [o] }
";
    let with = |switch: &str| format!("{rest}{switch}");
    let s = |keys: &str| with(&format!("  s: {{ {keys} }}\n"));
    expect_in(&s("switch: probe.kind"), "8:6", &["the key `cases` is missing"]);
    expect_in(&s("cases: { x: a }"), "8:6", &["the key `switch` is missing"]);
    expect_in(&s("switch: probe.kind, cases: {}"), "8:16", &["this switch has no cases"]);
    expect_in(&s("switch: probe.kind, cases: { x: c }"), "8:40", &["there is no function `c`"]);
    expect_in(&s("switch: probe.kind, cases: { x: [a, a] }"), "8:44", &["listed twice in this case"]);
    expect_in(
        &s("switch: probe.kind, cases: { x: a, x: b }"),
        "8:43",
        &["the case `x` is given twice", "never be reached"],
    );
    expect_in(&s("switch: probe.kind, cases: { true: a, \"true\": b }"), "8:46", &["the case `true` is given twice"]);
    expect_in(&s("switch: probe.kind, cases: { ' x': a }"), "8:37", &["can never be reached", "white space"]);
    expect_in(
        &s(&format!("switch: probe.kind, cases: {{ {}: a }}", "x".repeat(257))),
        "8:37",
        &["can never be reached", "256"],
    );
    expect_in(&s("switch: probe.parts, cases: { x: a }"), "8:16", &["`probe.parts` has many streams", "not one value"]);
    expect_in(&s("switch: inputs.files, cases: { x: a }"), "8:16", &["has many streams"]);
    expect_in(&s("switch: params.tip, cases: { x: a }"), "8:16", &["no parameter `tip`", "did you mean `top`?"]);
    expect_in(&s("switch: params, cases: { x: a }"), "8:16", &["write `params.NAME` or `${params.NAME}`"]);
    expect_in(&s("switch: top, cases: { x: a }"), "8:16", &["there is no function `top`", "called `params.top`"]);
    expect_in(&s("switch: probe.kind, cases: { x: s }"), "8:40", &["`s` is a switch; a case lists functions"]);
    expect_in(&s("switch: probe.kind, cases: { x: a }, program: x"), "8:45", &["unknown key `program`", "a switch"]);
    expect_in(
        &with("  s: { switch: probe.kind, cases: { x: a } }\n  t: { switch: params.top, cases: { x: a } }\n"),
        "9:40",
        &["`a` belongs to two switches"],
    );
    expect_in(
        &with("  s: { switch: probe.kind, cases: { x: a, y: b } }\n  c: { program: x, inputs: { l: a.o, r: b.o } }\n"),
        "9:3",
        &["`c` can never run", "under the switch `s`", "from: [a.x, b.x]"],
    );
}

/// Exceeding a limit gives one error that names the limit; names that were not read are not reported as misspelled.
#[test]
fn limits_of_counts() {
    let ports = (0..=limits::MAX_PORTS).map(|n| format!("o{n}")).collect::<Vec<_>>().join(", ");
    let last = limits::MAX_PORTS;
    expect_in(
        &format!("  a: {{ program: x, outputs: [{ports}] }}\n  b: {{ program: x, inputs: [a.o{last}] }}\n"),
        "5:29",
        &["too many entries of the kind output: 16385; at most 16384"],
    );
    let many: String =
        (0..=limits::MAX_FUNCTIONS).map(|n| format!("  f{n}: {{ program: x, outputs: [o] }}\n")).collect();
    expect_in(
        &format!("{many}outputs: [f{}.o]\n", limits::MAX_FUNCTIONS),
        "5:3",
        &["too many entries of the kind function: 100001; at most 100000", "`foreach`"],
    );
    let arguments = "x, ".repeat(limits::MAX_ARGUMENTS + 1);
    expect_in(&format!("  a: {{ command: [{arguments}] }}\n"), "5:17", &["more than 65536 arguments"]);
    let text = "x".repeat(limits::MAX_TEXT_BYTES + 1);
    expect_in(&format!("  a: {{ program: x, params: {{ k: {text} }} }}\n"), "5:33", &["131073 bytes"]);
    let sources = (0..=limits::MAX_SOURCES).map(|n| format!("f{n}.o")).collect::<Vec<_>>().join(", ");
    expect_in(&format!("  a: {{ program: x, inputs: {{ i: [{sources}] }} }}\n"), "5:33", &["has 65537 sources"]);
    let switches: String = (0..=limits::MAX_SWITCHES)
        .map(|n| format!("  s{n}: {{ switch: params.top, cases: {{ a: f{n} }} }}\n  f{n}: {{ program: x }}\n"))
        .collect();
    expect_in(&switches, "2053:3", &["more than 1024 switches"]);
    // And what an error lists.
    let inputs = (0..limits::MAX_PORTS).map(|n| format!("i{n}: inputs.text")).collect::<Vec<_>>().join(", ");
    let diagnostics = errors(&functions(&format!("  a: {{ command: [cat], inputs: {{ {inputs} }} }}\n")));
    let shown = diagnostics.to_string();
    assert!(shown.contains("`i11` and 16372 more") && shown.len() < 20_000, "{} bytes: {shown:.500}", shown.len());
}

/// A `foreach` whose instances would silently get all streams of another `foreach` over the same source.
#[test]
fn instances_of_two_foreach_cannot_be_paired() {
    let file = |rest: &str| {
        format!(
            "  split: {{ program: x, outputs: {{ parts: {{ partition: 4 }} }} }}
  clean: {{ program: x, foreach: split.parts, outputs: [o] }}
  count: {{ program: x, foreach: split.parts, outputs: [o] }}
  later: {{ program: x, foreach: count.o, outputs: [o] }}
{rest}"
        )
    };
    let refused =
        ["`join` and `clean` both run for each part of `split.parts`", "all streams of `clean.o`", "join them first"];
    expect_in(&file("  join: { program: x, foreach: split.parts, inputs: [clean.o] }\n"), "9:54", &refused);
    expect_in(
        &file("  join: { program: x, foreach: later.o, inputs: { i: [inputs.text, clean.o] } }\n"),
        "9:68",
        &refused,
    );
    let files = "  clean: { program: x, foreach: inputs.files, outputs: [o] }
  join: { program: x, foreach: inputs.files, inputs: [clean.o] }
";
    expect_in(files, "6:55", &["for each part of `inputs.files`"]);
    for right in [
        "  join: { program: x, foreach: later.o, inputs: [split.parts] }\n",
        "  join: { program: x, foreach: inputs.files, inputs: [clean.o] }\n",
        "  join: { program: x, inputs: { i: [clean.o, later.o] } }\n",
        "  all: { command: [cat], inputs: [clean.o] }\n  join: { program: x, foreach: split.parts, inputs: [all.out] }\n",
    ] {
        let text = functions(&file(right));
        Workflow::parse("w.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn all_errors_are_reported_at_once() {
    let diagnostics = errors(&functions(
        "  a: { porgram: x, inputs: { i: inputs.txt } }
  b: { program: y, timeout: soon, foreach: c.parts }
  c: { program: z, retries: many, outputs: [parts] }
outputs: { r: d.o }
",
    ));
    let places: Vec<String> = diagnostics.iter().filter_map(|error| Some(error.location()?.to_string())).collect();
    assert_eq!(places, ["5:8", "5:33", "6:29", "6:44", "7:29", "8:15"], "{diagnostics}");
    assert!(diagnostics.to_string().ends_with("w.yaml: 6 errors"), "{diagnostics}");
}

#[test]
fn unparsable_entries_are_not_reported_again() {
    expect_in(
        "  a: [x]\n  b: { program: x, inputs: [a.o], foreach: a.parts }\noutputs: [a.o]\n",
        "5:6",
        &["expected a function"],
    );
    expect_in("  a: { program: x, outputs: 7 }\n  b: { program: x, inputs: [a.o] }\n", "5:29", &["found the number"]);
    expect(
        "workflow: w\ninputs: 7\nfunctions: { a: { program: x, inputs: [inputs.i] } }\n",
        "2:9",
        &["found the number"],
    );
    expect(
        "workflow: w\nparams: 7\nfunctions: { a: { program: x, params: { k: \"${params.i}\" } } }\n",
        "2:9",
        &["found the number"],
    );
}

#[test]
fn a_rendered_error() {
    let diagnostics = errors(
        "workflow: wörtér\nfunctions:\n  splitter:\n    program: x\n    outputs: [parts]\n  count:\n    program: y\n    foreach: spliter.parts # café\n",
    );
    let plain = diagnostics.render(false);
    let expected = "\
error: `wörtér` is not a name
 --> w.yaml:1:11
  |
1 | workflow: wörtér
  |           ^^^^^^
  |
  = help: a name starts with a letter, a digit or `_`; letters, digits, `_`, `-` and `.` follow

error: there is no function `spliter`
 --> w.yaml:8:14
  |
8 |     foreach: spliter.parts # café
  |              ^^^^^^^^^^^^^ unknown function
  |
  = help: did you mean `splitter`?
  = help: functions: splitter, count

error: w.yaml: 2 errors";
    assert_eq!(plain, expected);
    assert_eq!(diagnostics.to_string(), plain);
    let colored = diagnostics.render(true);
    assert!(colored.contains("\u{1b}[") && !plain.contains('\u{1b}'));
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.yaml");
    let load = || Workflow::load(&path).unwrap_err();
    assert!(load().to_string().contains("cannot read the workflow file"), "{}", load());
    assert!(load().iter().all(|error| error.location().is_none()));
    assert!(Workflow::load(folder.path()).unwrap_err().to_string().contains("directory"));

    std::fs::write(&path, b"workflow: w\nfunctions: { a: \xff }\n").unwrap();
    let error = load();
    assert_eq!(error.iter().next().unwrap().location().unwrap().to_string(), "2:17");
    assert!(error.to_string().contains("not text in UTF-8") && error.to_string().contains("0xff"), "{error}");

    std::fs::write(&path, vec![b'#'; limits::MAX_FILE_BYTES + 10]).unwrap();
    assert!(load().to_string().contains("larger than 64 MiB"), "{}", load());
}

#[test]
fn exit_statuses_that_count_as_success() {
    let command = |success: &str| format!("  a: {{ command: [grep, x], inputs: [inputs.text], success: {success} }}\n");
    for (success, said) in [
        ("1", "expected a list of exit statuses"),
        ("[]", "every attempt fails"),
        ("[256]", "is not possible here"),
        ("[-1]", "is not possible here"),
        ("[x]", "expected a whole number"),
    ] {
        let diagnostics = errors(&functions(&command(success)));
        assert!(diagnostics.to_string().contains(said), "{success}: {diagnostics}");
    }
    let many = format!("[{}0]", "0, ".repeat(256));
    let diagnostics = errors(&functions(&command(&many)));
    assert!(diagnostics.to_string().contains("more than 256 exit statuses"), "{diagnostics}");
    expect_in("  a: { program: x, success: [0, 1] }\n", "5:29", &["only for a `command`", "remove this key"]);
}

#[test]
fn a_pipe_cannot_be_read_twice() {
    let command = |argument: &str, options: &str| {
        format!("  a: {{ command: [{argument}], inputs: {{ x: {{ from: inputs.text{options} }} }} }}\n")
    };
    expect_in(
        &command("cat, \"{in.x}\", \"{in.x}\"", ""),
        "5:33",
        &["reads the input `x` twice", "`keep: true`", "name it once"],
    );
    expect_in(&command("sh, -c, \"wc {in.x}; cat {in.x}\"", ""), "5:26", &["reads the input `x` twice"]);
    for kept in [", keep: true", ", gate: whole"] {
        let text = functions(&command("cat, \"{in.x}\", \"{in.x}\"", kept));
        Workflow::parse("w.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

/// Mistakes of people who know other formats, or who have mixed up two levels of the file.
#[test]
fn what_was_meant_is_shown() {
    for (key, help) in [
        ("keep: true", "`keep` is a key of an input: `inputs: { NAME: { from: SOURCE, keep: true } }`"),
        ("need: 1", "`need` is a key of an input"),
        ("stdout: true", "`stdout` is a key of an output"),
    ] {
        expect_in(&format!("  a: {{ program: x, {key} }}\n"), "5:20", &["unknown key", help]);
    }
    expect_in("  a: { program: x, resources: { mem: 1GiB } }\n", "5:33", &["did you mean `memory`?"]);
    expect_in("  a: { program: x, inputs: { i: input.text } }\n", "5:33", &["did you mean `inputs.text`?"]);
    // What is no input of the workflow gets no such hint.
    let other = errors(&functions("  a: { program: x, inputs: { i: input.txet } }\n")).to_string();
    assert!(other.contains("there is no function `input`") && !other.contains("inputs.txet"), "{other}");
    expect_in("  a: { program: x, env: [A=1, B=2] }\n", "5:25", &["found a list", "write `env: { A: \"1\" }`"]);
    expect_in("  a: { program: x, params: [n=1] }\n", "5:28", &["write `params: { n: \"1\" }`"]);
    expect_in(
        "  a: { command: [x] }\noutputs: [a.out, table: a.out]\n",
        "6:18",
        &["expected a source, found a map", "`outputs: { table: a.out }`"],
    );
    expect_in("  a: { command: [x], inputs: [t: inputs.text] }\n", "5:31", &["`inputs: { t: inputs.text }`"]);
}

#[test]
fn expectations() {
    let a = |expect: &str| format!("  a: {{ program: x, outputs: [o, p], expect: {{ {expect} }} }}\n");
    expect_in(&a("tail: 1s"), "5:53", &["`tail` is a part of `time`, which is missing", "add `time"]);
    expect_in(&a("time: 1s, first_output: 2s"), "5:71", &["`first_output` is longer than `time`"]);
    expect_in(&a("output: 1MB"), "5:55", &["`a` has 2 outputs", "output: { o: 12MB }"]);
    expect_in(&a("output: { q: 1MB }"), "5:57", &["`a` has no output `q`", "outputs of `a`: o, p"]);
    expect_in(&a("output: { o: lots }"), "5:60", &["`lots` is neither a size nor a share", "`50%`"]);
    expect_in(&a("parts: 3"), "5:54", &["`a` has no output with parts that it discovers"]);
    expect_in(
        "  a: { command: [x], expect: { output: 1MB } }\n  b: { program: x, expect: { output: 1MB } }\n",
        "6:38",
        &["`b` has 0 outputs", "remove `output`"],
    );
    expect(
        "workflow: w\ninputs: { i: { expect: { size: 1MB, parts: 3 } } }\nfunctions: {}\n",
        "2:44",
        &["the input `i` has no parts", "`parts: files`"],
    );
}
