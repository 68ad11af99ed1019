//! Loads the workflow file on the command line.

use std::io;
use std::path::Path;

use dflow_workflow::{Diagnostics, Workflow};

/// Reads and checks a workflow file; `-` is standard input.
///
/// # Errors
/// If it cannot be read or has errors.
pub fn load(path: &Path) -> Result<Workflow, Diagnostics> {
    if path.as_os_str() == "-" { Workflow::read("standard input", io::stdin()) } else { Workflow::load(path) }
}
