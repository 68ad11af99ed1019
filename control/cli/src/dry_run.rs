//! `dflow run --dry-run`: what a run would do, as text or as JSON.

use std::env;
use std::io;
use std::path::Path;

use dflow_worker::{FunctionPreview, InputPreview, NodePreview, RunPreview, RunSpec, preview};

use crate::args::Format;
use crate::error::{CallError, render_note};
use crate::exit::Exit;
use crate::terminal::{Look, Style, print, print_error};
use crate::units::{count, size};

/// Performs all checks of a run and prints what it would do. The inner result is the result of printing.
///
/// # Errors
/// The reason for which the run could not start.
pub fn dry_run(spec: &RunSpec, format: Format, quiet: bool) -> Result<io::Result<Exit>, CallError> {
    let preview = preview(spec)?;
    let printed = match format {
        Format::Json => print(&format!("{:#}\n", serde_json::json!(preview))),
        Format::Human if quiet => Ok(()),
        Format::Human => {
            for note in &preview.notes {
                print_error(&render_note(&Look::of(&io::stderr()), note));
            }
            print(&render(&preview, &Look::of(&io::stdout())))
        }
    };
    Ok(printed.map(|()| Exit::Success))
}

fn render(preview: &RunPreview, look: &Look) -> String {
    let several = preview.nodes.len() > 1;
    let here = env::current_dir().ok();
    let show = |path: &Path| {
        let relative = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
        relative.unwrap_or(path).display().to_string()
    };
    let mut text = format!("{}: all checks passed\n", look.paint(Style::Bold, &preview.workflow));
    if several {
        text += &section("nodes", look, preview.nodes.iter().map(node));
    }
    text += &section("inputs", look, preview.inputs.iter().map(input));
    text += &section("functions", look, preview.functions.iter().map(|f| function(f, several)));
    let head = match &preview.output_directory {
        Some(directory) if preview.replaces => format!("outputs, which replace {}", show(directory)),
        _ => "outputs".into(),
    };
    let outputs = preview.outputs.iter().map(|output| {
        let slash = if output.directory { "/" } else { "" };
        [output.name.clone(), output.sources.join(", "), format!("{}{slash}", show(&output.path))].into()
    });
    text += &section(&head, look, outputs);
    text + "nothing was started\n"
}

fn node(node: &NodePreview) -> Vec<String> {
    let place = node.address.map_or_else(|| "this node".into(), |address| format!("answers at UDP {address}"));
    vec![node.name.clone(), place, format!("dflow {}", node.release), count(node.slots as usize, "slot")]
}

fn input(input: &InputPreview) -> Vec<String> {
    let found = match (input.files, input.bytes) {
        (Some(files), Some(bytes)) => format!("{}, {}", count(files, "file"), size(bytes)),
        _ => "read until its end".into(),
    };
    vec![input.name.clone(), found]
}

fn function(function: &FunctionPreview, several: bool) -> Vec<String> {
    let mut instances = match (function.instances, &function.parts_of) {
        (Some(instances), _) => count(instances, "instance"),
        (None, Some(parts)) => format!("one instance for each part of {parts}"),
        (None, None) => "a number of instances known only during the run".into(),
    };
    if function.instances == Some(0) {
        instances = "does not run".into();
    }
    if let Some(switch) = &function.switch {
        instances += &format!(", if switch {switch} chooses it");
    }
    let mut cells = vec![function.name.clone(), instances];
    if several {
        cells.push(function.nodes.join(", "));
    }
    cells.push(function.program.as_ref().map(|program| program.display().to_string()).unwrap_or_default());
    cells
}

/// A heading and its rows in columns; empty if there are no rows.
fn section(head: &str, look: &Look, rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    let Some(columns) = rows.first().map(Vec::len) else { return String::new() };
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = format!("{}\n", look.paint(Style::Bold, head));
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("  {cell:width$}"));
        text += cells.collect::<String>().trim_end();
        text.push('\n');
    }
    text
}
