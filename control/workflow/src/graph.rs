//! The graph of a workflow as text for Mermaid or Graphviz.

use crate::model::{Gate, Source, Streams, SwitchOn, Workflow};

/// The graph as a Mermaid flowchart.
///
/// Functions are boxes (with a double border for a `foreach`), inputs and outputs are rounded, switches are diamonds
/// with dotted arrows to the functions that they choose.
#[must_use]
pub fn mermaid(workflow: &Workflow) -> String {
    let mut text = String::from("flowchart LR\n");
    let graph = Graph::new(workflow);
    for Node { id, label, shape } in &graph.nodes {
        let label = escape_mermaid(label);
        text.push_str(&match shape {
            Shape::Rounded => format!("  {id}([\"{label}\"])\n"),
            Shape::Function => format!("  {id}[\"{label}\"]\n"),
            Shape::Foreach => format!("  {id}[[\"{label}\"]]\n"),
            Shape::Switch => format!("  {id}{{\"{label}\"}}\n"),
        });
    }
    for Edge { from, to, label, choice } in &graph.edges {
        let arrow = if *choice { "-.->" } else { "-->" };
        text.push_str(&format!("  {from} {arrow}|\"{}\"| {to}\n", escape_mermaid(label)));
    }
    text
}

/// The graph in the DOT language of Graphviz, with the same shapes as [`mermaid`].
#[must_use]
pub fn dot(workflow: &Workflow) -> String {
    let mut text = format!("digraph \"{}\" {{\n  rankdir=LR;\n", escape_dot(&workflow.name));
    let graph = Graph::new(workflow);
    for Node { id, label, shape } in &graph.nodes {
        let shape = match shape {
            Shape::Rounded => "shape=box, style=rounded",
            Shape::Function => "shape=box",
            Shape::Foreach => "shape=box, peripheries=2",
            Shape::Switch => "shape=diamond",
        };
        text.push_str(&format!("  {id} [label=\"{}\", {shape}];\n", escape_dot(label)));
    }
    for Edge { from, to, label, choice } in &graph.edges {
        let style = if *choice { ", style=dotted" } else { "" };
        text.push_str(&format!("  {from} -> {to} [label=\"{}\"{style}];\n", escape_dot(label)));
    }
    text.push_str("}\n");
    text
}

struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

struct Node {
    /// Letters and digits only, so that it needs no quotes anywhere.
    id: String,
    label: String,
    shape: Shape,
}

enum Shape {
    Rounded,
    Function,
    Foreach,
    Switch,
}

struct Edge {
    from: String,
    to: String,
    label: String,
    /// Not a stream, but the choice of a switch.
    choice: bool,
}

impl Graph {
    fn new(workflow: &Workflow) -> Self {
        let mut graph = Self { nodes: Vec::new(), edges: Vec::new() };
        for (index, input) in workflow.inputs.iter().enumerate() {
            graph.node(
                format!("i{index}"),
                format!("{}{}", input.name, count(workflow, Source::WorkflowInput(as_u32(index)))),
                Shape::Rounded,
            );
        }
        for (index, function) in workflow.functions.iter().enumerate() {
            let (label, shape) = match function.foreach {
                Some(source) => (format!("{}{}", function.name, count(workflow, source)), Shape::Foreach),
                None => (function.name.clone(), Shape::Function),
            };
            graph.node(format!("f{index}"), label, shape);
        }
        for (index, switch) in workflow.switches.iter().enumerate() {
            let label = match &switch.on {
                SwitchOn::Value(_) => switch.name.clone(),
                SwitchOn::Param(name) => format!("{}: params.{name}", switch.name),
            };
            graph.node(format!("s{index}"), label, Shape::Switch);
        }
        for (index, output) in workflow.outputs.iter().enumerate() {
            graph.node(format!("o{index}"), output.name.clone(), Shape::Rounded);
        }

        for (index, function) in workflow.functions.iter().enumerate() {
            for input in &function.inputs {
                let gate = match input.gate {
                    Gate::Stream => "",
                    Gate::Whole => ", whole",
                    Gate::Start => ", start",
                };
                let need = input.need.map(|need| format!(", need {need}")).unwrap_or_default();
                for &source in &input.sources {
                    let (from, port) = end(workflow, source);
                    let ports = if port == input.name { port } else { format!("{port} → {}", input.name) };
                    graph.edge(
                        from,
                        format!("f{index}"),
                        format!("{ports}{}{gate}{need}", count(workflow, source)),
                        false,
                    );
                }
            }
        }
        for (index, switch) in workflow.switches.iter().enumerate() {
            if let SwitchOn::Value(source) = switch.on {
                let (from, port) = end(workflow, source);
                graph.edge(from, format!("s{index}"), port, false);
            }
            for (value, targets) in &switch.cases {
                for target in targets {
                    graph.edge(format!("s{index}"), format!("f{}", target.0), value.clone(), true);
                }
            }
            for target in switch.default.iter().flatten() {
                graph.edge(format!("s{index}"), format!("f{}", target.0), "otherwise".into(), true);
            }
        }
        for (index, output) in workflow.outputs.iter().enumerate() {
            for &source in &output.sources {
                let (from, port) = end(workflow, source);
                graph.edge(from, format!("o{index}"), format!("{port}{}", count(workflow, source)), false);
            }
        }
        graph
    }

    fn node(&mut self, id: String, label: String, shape: Shape) {
        self.nodes.push(Node { id, label, shape });
    }

    fn edge(&mut self, from: String, to: String, label: String, choice: bool) {
        self.edges.push(Edge { from, to, label, choice });
    }
}

/// The node and the port that a source is.
fn end(workflow: &Workflow, source: Source) -> (String, String) {
    match source {
        Source::WorkflowInput(input) => (format!("i{input}"), workflow.inputs[input as usize].name.clone()),
        Source::Output { function, output } => {
            (format!("f{}", function.0), workflow.function(function).outputs[output as usize].name.clone())
        }
    }
}

/// ` ×8` for eight streams, ` ×n` for a number that is not known yet, nothing for one.
fn count(workflow: &Workflow, source: Source) -> String {
    match workflow.streams(source) {
        Streams::One => String::new(),
        Streams::Fixed(parts) => format!(" ×{parts}"),
        Streams::Files | Streams::Discovered => " ×n".into(),
    }
}

fn as_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn escape_mermaid(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    for c in label.chars() {
        match c {
            '"' => text.push_str("#quot;"),
            '#' => text.push_str("#35;"),
            '&' => text.push_str("#amp;"),
            '<' => text.push_str("#lt;"),
            '>' => text.push_str("#gt;"),
            // A backquote at the start would make the label Markdown.
            '`' => text.push_str("#96;"),
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    // An empty label is a syntax error.
    if text.is_empty() { " ".into() } else { text }
}

fn escape_dot(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    for c in label.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Workflow {
        Workflow::parse("w.yaml", text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn wordcount_as_mermaid() {
        let expected = "\
flowchart LR
  i0([\"text\"])
  f0[\"split\"]
  f1[[\"count ×8\"]]
  f2[\"merge\"]
  o0([\"total\"])
  i0 -->|\"text\"| f0
  f0 -->|\"parts → part ×8\"| f1
  f1 -->|\"counts ×8\"| f2
  f2 -->|\"total\"| o0
";
        assert_eq!(mermaid(&load(include_str!("../tests/good/wordcount.yaml"))), expected);
    }

    const SWITCH: &str = r#"
workflow: choice
inputs: { files: { parts: files } }
params: { mode: x }
functions:
  probe: { program: p, inputs: { all: { from: inputs.files, gate: whole, need: 2 } }, outputs: [kind] }
  route: { switch: probe.kind, cases: { "a \"quoted\" <b> #1 `c` \\": one }, default: two }
  other: { switch: params.mode, cases: { "": three } }
  one: { program: p }
  two: { program: p }
  three: { program: p }
"#;

    #[test]
    fn switches_and_strange_values_as_mermaid() {
        let text = mermaid(&load(SWITCH));
        assert!(text.contains("  i0 -->|\"files → all ×n, whole, need 2\"| f0\n"), "{text}");
        assert!(text.contains("  s0{\"route\"}\n") && text.contains("  s1{\"other: params.mode\"}\n"), "{text}");
        assert!(text.contains("  f0 -->|\"kind\"| s0\n"), "{text}");
        assert!(text.contains("  s0 -.->|\"a #quot;quoted#quot; #lt;b#gt; #35;1 #96;c#96; \\\"| f1\n"), "{text}");
        assert!(text.contains("  s0 -.->|\"otherwise\"| f2\n  s1 -.->|\" \"| f3\n"), "{text}");
    }

    #[test]
    fn switches_and_strange_values_as_dot() {
        let text = dot(&load(SWITCH));
        assert!(text.starts_with(
            "digraph \"choice\" {\n  rankdir=LR;\n  i0 [label=\"files ×n\", shape=box, style=rounded];\n"
        ));
        assert!(text.contains("  s0 [label=\"route\", shape=diamond];\n"), "{text}");
        assert!(text.contains(r##"  s0 -> f1 [label="a \"quoted\" <b> #1 `c` \\", style=dotted];"##), "{text}");
        let foreach = dot(&load(include_str!("../tests/good/wordcount.yaml")));
        assert!(foreach.contains("  f1 [label=\"count ×8\", shape=box, peripheries=2];\n"), "{foreach}");
    }
}
