//! Valid files and their meaning.

use std::time::Duration;

use dflow_workflow::{
    Amount, ArgPiece, ExpectInput, FunctionId, Gate, Partition, Program, Source, Streams, SwitchOn, Template, Workflow,
};

fn load(name: &str) -> Workflow {
    let path = format!("{}/tests/good/{name}", env!("CARGO_MANIFEST_DIR"));
    Workflow::load(path.as_ref()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn parse(text: &str) -> Workflow {
    Workflow::parse("w.yaml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn id(workflow: &Workflow, name: &str) -> FunctionId {
    let index = workflow.functions.iter().position(|function| function.name == name).expect(name);
    FunctionId(u32::try_from(index).unwrap())
}

fn names(workflow: &Workflow) -> Vec<&str> {
    workflow.functions.iter().map(|function| function.name.as_str()).collect()
}

#[test]
fn wordcount() {
    let workflow = load("wordcount.yaml");
    assert_eq!(workflow.name, "wordcount");
    assert_eq!(names(&workflow), ["split", "count", "merge"]);
    let [split, count, merge] = &workflow.functions[..] else { panic!() };

    assert_eq!(split.program, Program::Sdk("wordcount-split".into()));
    assert_eq!(split.inputs[0].sources, [Source::WorkflowInput(0)]);
    assert!(!split.inputs[0].many);
    assert_eq!(split.outputs[0].partition, Partition::Fixed(8));

    let parts = Source::Output { function: FunctionId(0), output: 0 };
    assert_eq!(count.foreach, Some(parts));
    assert_eq!((count.inputs[0].name.as_str(), count.inputs[0].each, count.inputs[0].many), ("part", true, false));
    assert_eq!(count.inputs[0].sources, [parts]);
    assert_eq!(count.inputs[0].gate, Gate::Stream);

    let counts = Source::Output { function: FunctionId(1), output: 0 };
    assert_eq!((&merge.inputs[0].sources[..], merge.inputs[0].many), (&[counts][..], true));
    assert_eq!(workflow.streams(counts), Streams::Fixed(8));
    assert_eq!((merge.timeout, merge.retries.count, merge.resources.slots), (None, 0, 1));
    assert_eq!((merge.deadline, merge.start_timeout), (None, Duration::from_secs(60)));
    assert_eq!(merge.grace, Duration::from_secs(3));

    assert_eq!((workflow.outputs[0].name.as_str(), workflow.outputs[0].many), ("total", false));
}

#[test]
fn commands() {
    let workflow = load("commands.yaml");
    let function = |name: &str| &workflow.functions[id(&workflow, name).0 as usize];

    let unpack = function("unpack");
    assert!(unpack.inputs[0].stdin && unpack.inputs[0].each);
    assert_eq!((unpack.outputs[0].name.as_str(), unpack.outputs[0].stdout), ("out", true));

    let filter = function("filter");
    assert_eq!(filter.inputs.iter().map(|input| input.stdin).collect::<Vec<_>>(), [true, false]);
    let Program::Command(arguments) = &filter.program else { panic!() };
    assert_eq!(arguments[2], [ArgPiece::Input(1)]);

    let sort = function("sort");
    let Program::Command(arguments) = &sort.program else { panic!() };
    assert_eq!(arguments[2], [ArgPiece::Text("-k".into()), ArgPiece::Param("column".into())]);
    assert_eq!(arguments[4..], [vec![ArgPiece::Output(0)], vec![ArgPiece::Input(0)]]);
    assert!(sort.inputs[0].many && !sort.inputs[0].stdin && !sort.outputs[0].stdout);

    let top = function("top");
    let Program::Command(arguments) = &top.program else { panic!() };
    let script = [
        ArgPiece::Text("sort -rn | head -n ".into()),
        ArgPiece::Param("top".into()),
        ArgPiece::Text(" | awk '{print $2}' | tee \"$1\"".into()),
    ];
    assert_eq!(arguments[2], script);
    assert!(top.params.contains_key("top"), "a parameter of the workflow that an argument names");
    assert_eq!(top.outputs.iter().map(|output| output.stdout).collect::<Vec<_>>(), [true, false]);
    assert_eq!(top.inputs[0].name, "count");
    assert_eq!(workflow.outputs[0].name, "list");
}

#[test]
fn everything() {
    let workflow = load("everything.yaml");
    let order =
        ["count", "again", "extra", "merge", "explore", "probe", "video", "thumb", "resize", "simple", "fast", "last"];
    assert_eq!(names(&workflow), order);
    let merge = &workflow.functions[3];
    assert_eq!(merge.timeout, Some(Duration::from_secs(90)));
    assert_eq!((merge.deadline, merge.start_timeout), (Some(Duration::from_secs(3600)), Duration::from_secs(120)));
    assert_eq!((merge.grace, workflow.functions[0].grace), (Duration::ZERO, Duration::from_secs(5)));
    assert_eq!(merge.resources.memory, Some(1 << 30));
    assert_eq!((merge.inputs[0].need, merge.inputs[0].keep, merge.inputs[0].gate), (Some(2), true, Gate::Whole));
    assert_eq!(merge.inputs[2].gate, Gate::Start);
    let params = workflow.resolve_params(&[("mode".into(), "fast".into())]).unwrap();
    let fill = |text: &Option<Template>| text.as_ref().map(|text| text.fill(&params));
    assert_eq!(fill(&merge.dir).as_deref(), Some("/srv"));
    assert_eq!(fill(&workflow.functions[0].dir).as_deref(), Some("data/fast"));
    assert_eq!(merge.env["HOW"].fill(&params), "fast");
    assert_eq!(workflow.env["TOP"].fill(&params), "top-10");
    let count = &workflow.functions[0];
    assert!(count.inputs[0].keep && count.inputs.iter().all(|input| input.gate == Gate::Whole));
    assert_eq!((count.retries.count, count.retries.max_backoff), (2, Duration::from_secs(10)));

    let expected = merge.expect.as_deref().unwrap();
    assert_eq!(expected.time, Some(Duration::from_millis(1200)));
    assert_eq!(
        (expected.first_output, expected.tail),
        (Some(Duration::from_secs(1)), Some(Duration::from_millis(900)))
    );
    assert_eq!(expected.outputs, [Some(Amount::Bytes(12_000_000)), Some(Amount::OfInput(0.005))]);
    assert_eq!(workflow.functions[2].expect.as_ref().unwrap().outputs, [Some(Amount::OfInput(0.5))]);
    assert_eq!(workflow.functions[4].expect.as_ref().unwrap().parts, Some(30));
    assert_eq!(count.expect, None);
    assert_eq!(workflow.inputs[0].expect, ExpectInput { size: Some(2_000_000_000), parts: Some(40) });

    let [route, tune] = &workflow.switches[..] else { panic!() };
    assert_eq!(route.on, SwitchOn::Value(Source::Output { function: id(&workflow, "probe"), output: 0 }));
    assert_eq!(route.cases[1], ("image".into(), vec![id(&workflow, "thumb"), id(&workflow, "resize")]));
    assert_eq!(route.cases[2], ("7".into(), vec![]));
    assert_eq!(route.default, Some(vec![id(&workflow, "simple")]));
    assert_eq!((&tune.on, &tune.default), (&SwitchOn::Param("mode".into()), &None));
    assert_eq!(workflow.functions[id(&workflow, "resize").0 as usize].conditional, Some(0));

    let many: Vec<(&str, bool)> = workflow.outputs.iter().map(|output| (output.name.as_str(), output.many)).collect();
    assert_eq!(many, [("total", false), ("parts", true), ("branch", false), ("both", true)]);
    assert_eq!(workflow.params["mode"], None);
    assert_eq!(workflow.params["ratio"], Some("0.5".into()));
}

#[test]
fn aliases_share_their_target() {
    let workflow = load("aliases.yaml");
    assert_eq!(workflow.functions[0].env, workflow.functions[1].env);
    assert_eq!(workflow.functions[1].inputs[0].sources, [Source::WorkflowInput(0)]);
}

#[test]
fn sources_refer_to_the_sorted_functions() {
    let workflow = parse(
        "
workflow: w
functions:
  last: { program: p, inputs: [middle, first] }
  middle: { program: p, foreach: first.parts, outputs: [x] }
  first: { program: p, outputs: { parts: { partition: 2 } } }
outputs: [middle.x]
",
    );
    assert_eq!(names(&workflow), ["first", "middle", "last"]);
    let source = |function| Source::Output { function: FunctionId(function), output: 0 };
    assert_eq!(workflow.functions[1].foreach, Some(source(0)));
    assert_eq!(workflow.functions[2].inputs[0].sources, [source(1)]);
    assert_eq!(workflow.functions[2].inputs[1].sources, [source(0)]);
    assert_eq!(workflow.outputs[0].sources, [source(1)]);
}

#[test]
fn exclusion_extends_downstream_of_a_branch() {
    let text = "
workflow: w
params: { mode: a }
functions:
  route: { switch: params.mode, cases: { a: one, b: two } }
  one: { program: p, outputs: [x] }
  two: { program: p, outputs: [x] }
  after-one: { program: p, inputs: [one], outputs: [x] }
outputs: { x: [after-one.x, two.x] }
";
    assert!(!parse(text).outputs[0].many);
    assert!(parse(&text.replace("b: two", "b: [one, two]")).outputs[0].many);
}

#[test]
fn a_script_among_the_inputs_of_a_command() {
    let workflow = parse(
        "
workflow: w
inputs: [text, script]
functions:
  f:
    command: [awk, -f, '{in.script}']
    inputs: { text: inputs.text, script: { from: inputs.script, stdin: false } }
    outputs: { out: { stdout: true } }
",
    );
    assert_eq!(workflow.functions[0].inputs.iter().map(|input| input.stdin).collect::<Vec<_>>(), [true, false]);
    assert!(workflow.functions[0].outputs[0].stdout);
}

#[test]
fn parameters_of_a_run() {
    let workflow = load("everything.yaml");
    let given = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Vec<_>>();
    let params = workflow.resolve_params(&given(&[("mode", "fast"), ("top", "3")])).unwrap();
    assert_eq!(params.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["mode=fast", "ratio=0.5", "top=3"]);

    let error = |pairs| workflow.resolve_params(&given(pairs)).unwrap_err().to_string();
    assert_eq!(error(&[]), "workflow `everything` needs a value for `mode`; give it as NAME=VALUE");
    assert!(error(&[("mod", "x")]).ends_with("has no parameter `mod`; did you mean `mode`?"));
    assert!(error(&[("zzz", "x")]).ends_with("its parameters are `mode`, `ratio`, `top`"));
    assert!(error(&[("mode", "x"), ("mode", "y")]).contains("given twice"));
    assert!(error(&[("mode", "a\0b")]).contains("NUL byte"));
}

#[test]
fn exit_statuses_that_count_as_success() {
    let workflow =
        parse("workflow: w\nfunctions:\n  a: { command: [grep, x], success: [1, 0, 1] }\n  b: { command: [ls] }\n");
    let success = |name: &str| &workflow.functions[id(&workflow, name).0 as usize].success;
    assert!(success("a").iter().eq(&[0, 1]) && success("b").iter().eq(&[0]));
}

/// Names as other systems have them: capital letters, digits first, extensions, up to 255 characters.
#[test]
fn names_of_published_workflows() {
    let long = "x".repeat(255);
    let workflow = parse(
        &format!(
            "
workflow: Montage-2.0
inputs: [region.hdr]
functions:
  mProject_00000001: {{ command: [cat], inputs: [inputs.region.hdr], outputs: [p2mass-atlas-001.fits, 7.tbl] }}
  00000002: {{ command: [cat, '{{in.a.b}}'], inputs: {{ a.b: mProject_00000001.p2mass-atlas-001.fits }} }}
  a: {{ command: [cat], inputs: [00000002] }}
  a.b: {{ command: [cat], inputs: [mProject_00000001.7.tbl], outputs: [x.y] }}
  {long}: {{ command: [cat], inputs: [a.b.x.y], outputs: [{long}] }}
  last: {{ command: [cat, '{{in.a}}'], inputs: [a, {long}.{long}] }}
outputs: [a.b.x.y, {long}]
"
        )
        .replace(
            "outputs: [p2mass-atlas-001.fits, 7.tbl] ",
            "outputs: { p2mass-atlas-001.fits: { stdout: true }, 7.tbl: } ",
        )
        .replace(
            "command: [cat], inputs: [inputs.region.hdr]",
            "command: [sh, -c, '{out.7.tbl}'], inputs: [inputs.region.hdr]",
        ),
    );
    let names = |id: usize| workflow.functions[id].inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names(0), ["region.hdr"]);
    assert_eq!(names(id(&workflow, "a.b").0 as usize), ["7.tbl"]);
    assert_eq!(names(id(&workflow, &long).0 as usize), ["x.y"]);
    assert_eq!(names(id(&workflow, "last").0 as usize), ["a", &long]);
    let outputs: Vec<&str> = workflow.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(outputs, ["x.y", &long]);
}

/// `${params.NAME}` and `{params.NAME}` are the same in a command, and other `${…}` belong to the shell.
#[test]
fn parameters_in_commands() {
    let workflow = parse(
        "
workflow: w
params: { top: 10, mode: fast }
functions:
  f: { command: [sh, -c, 'echo ${HOME} ${in} $${params.top} x{params.top}', '${params.top}', '-n${params.top}'] }
  g: { command: [cat], params: { both: 'a ${params.top} ${HOME} b ${params.mode}' } }
  s: { switch: '${params.mode}', cases: { fast: f } }
  t: { switch: params.mode, cases: { fast: g } }
",
    );
    let Program::Command(arguments) = &workflow.functions[0].program else { panic!() };
    let (text, top) = (|text: &str| ArgPiece::Text(text.into()), || ArgPiece::Param("top".into()));
    assert_eq!(arguments[2], [text("echo ${HOME} ${in} $"), top(), text(" x"), top()]);
    assert_eq!(arguments[3..], [vec![top()], vec![text("-n"), top()]]);
    let params = workflow.resolve_params(&[]).unwrap();
    assert_eq!(workflow.functions[1].params["both"].fill(&params), "a 10 ${HOME} b fast");
    assert_eq!(workflow.switches[0].on, workflow.switches[1].on);
}

/// The workflow in README.md, its functions with a switch and a race, its function that links the SDK, and one in Python.
#[test]
fn the_examples_of_the_readme_are_valid() {
    let readme = include_str!("../../../README.md");
    let mut examples = readme.split("```yaml\n").skip(1).map(|rest| rest.split_once("```\n").unwrap().0);
    let errors = examples.next().unwrap();
    let workflow = parse(errors);
    assert_eq!(names(&workflow), ["unpack", "errors", "top"]);
    let functions = examples.next().unwrap();
    let text = format!("workflow: w\ninputs: [file]\n{functions}outputs: {{ count: count.out, index: index.out }}\n");
    let workflow = parse(&text);
    assert_eq!(names(&workflow), ["probe", "unzip", "plain", "count", "one", "two", "index"]);
    // The last function of the first example, and what follows it, are replaced.
    let (others, _) = errors.split_once("  top:\n").unwrap();
    let workflow = parse(&format!("{others}{}", examples.next().unwrap()));
    assert_eq!(workflow.functions[2].program, Program::Sdk("my-top".into()));
    let python = examples.next().unwrap();
    let workflow = parse(&format!("workflow: w\ninputs: [log]\nfunctions:\n  {python}outputs: {{ o: errors.out }}\n"));
    assert_eq!(workflow.functions[0].program, Program::Sdk("errors.py".into()));
    assert_eq!(examples.next(), None);
}
