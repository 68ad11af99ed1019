//! `dflow graph` and `dflow schema`: output for other programs.

use std::io;

use dflow_workflow::graph;

use crate::args::{GraphArgs, GraphFormat};
use crate::exit::Exit;
use crate::file;
use crate::terminal::{Look, print, print_error};

/// Prints the graph of a workflow.
///
/// # Errors
/// If standard output cannot be written.
pub fn graph(args: &GraphArgs) -> io::Result<Exit> {
    let workflow = match file::load(&args.file) {
        Ok(workflow) => workflow,
        Err(errors) => {
            print_error(&(errors.render(Look::of(&io::stderr()).color) + "\n"));
            return Ok(Exit::Wrong);
        }
    };
    print(&match args.format {
        GraphFormat::Mermaid => graph::mermaid(&workflow),
        GraphFormat::Dot => graph::dot(&workflow),
    })?;
    Ok(Exit::Success)
}

/// Prints the JSON Schema of the workflow file.
///
/// # Errors
/// If standard output cannot be written.
pub fn schema() -> io::Result<Exit> {
    print(&format!("{:#}\n", dflow_workflow::schema()))?;
    Ok(Exit::Success)
}
