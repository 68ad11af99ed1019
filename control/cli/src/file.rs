//! The workflow file that a call names.

use std::io;
use std::path::Path;

use dflow_workflow::{Diagnostics, Workflow};

/// Reads and checks a workflow file; `-` is standard input.
///
/// # Errors
/// It cannot be read, or something in it is wrong.
pub fn load(path: &Path) -> Result<Workflow, Diagnostics> {
    if path.as_os_str() == "-" { Workflow::read("standard input", io::stdin()) } else { Workflow::load(path) }
}
