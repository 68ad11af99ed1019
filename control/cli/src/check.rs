//! `dflow check`: the errors of a workflow file, or the inputs and parameters that it needs.

use std::io;
use std::path::Path;

use dflow_workflow::{Diagnostics, Workflow};
use serde_json::{Value, json};

use crate::args::{CheckArgs, Format};
use crate::exit::Exit;
use crate::file;
use crate::terminal::{Look, Style, print, print_error};
use crate::units::count;

/// Checks the file and prints the result.
///
/// # Errors
/// If standard output cannot be written.
pub fn check(args: &CheckArgs) -> io::Result<Exit> {
    let result = file::load(&args.file);
    let status = if result.is_ok() { Exit::Success } else { Exit::Wrong };
    match (args.format, &result) {
        (Format::Json, result) => print(&format!("{:#}\n", to_json(&args.file, result.as_ref())))?,
        (Format::Human, Ok(workflow)) => print(&summary(&args.file, workflow, &Look::of(&io::stdout())))?,
        (Format::Human, Err(errors)) => print_error(&(errors.render(Look::of(&io::stderr()).color) + "\n")),
    }
    // The process ends here. To free a hundred thousand functions one by one takes a tenth of the time of a check.
    std::mem::forget(result);
    Ok(status)
}

fn summary(file: &Path, workflow: &Workflow, look: &Look) -> String {
    let mut parts = vec![count(workflow.functions.len(), "function")];
    if !workflow.switches.is_empty() {
        parts.push(match workflow.switches.len() {
            1 => "1 switch".into(),
            switches => format!("{switches} switches"),
        });
    }
    parts.push(count(workflow.inputs.len(), "input"));
    parts.push(count(workflow.outputs.len(), "output"));
    let file = file.display().to_string();
    let mut call = format!("dflow run {}", quoted(&file));
    for input in &workflow.inputs {
        call.push_str(&format!(" --input {}=PATH", input.name));
    }
    for (name, _) in workflow.params.iter().filter(|(_, default)| default.is_none()) {
        call.push_str(&format!(" --param {name}=VALUE"));
    }
    let correct = look.paint(Style::Green, "correct");
    let mut text = format!("{file}: {correct}: workflow `{}` with {}\n", workflow.name, parts.join(", "));
    for (name, default) in &workflow.params {
        if let Some(default) = default {
            text.push_str(&look.paint(Style::Dim, &format!("  --param {name}=… is optional, default {default:?}")));
            text.push('\n');
        }
    }
    text.push_str(&format!("run it with: {call}\n"));
    text
}

fn to_json(file: &Path, result: Result<&Workflow, &Diagnostics>) -> Value {
    let file = file.to_string_lossy();
    match result {
        Ok(workflow) => json!({
            "file": file,
            "ok": true,
            "workflow": workflow.name,
            "inputs": workflow.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>(),
            "params": workflow.params,
            "functions": workflow.functions.iter().map(|function| function.name.as_str()).collect::<Vec<_>>(),
            "outputs": workflow.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(),
            "errors": [],
            "omitted": 0,
        }),
        Err(errors) => json!({
            "file": file,
            "ok": false,
            "errors": crate::error::list(errors),
            "omitted": errors.omitted(),
        }),
    }
}

/// A path quoted for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_a_shell() {
        assert_eq!(quoted("flows/a_b-1.yaml"), "flows/a_b-1.yaml");
        assert_eq!(quoted("my flow's.yaml"), r"'my flow'\''s.yaml'");
    }
}
