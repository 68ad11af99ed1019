//! The ends of a workflow that are no processes: threads of the daemon that write output files, and that read inputs
//! which are no regular files. They use the SDK as every function does.

use crate::check::{Checked, InputFiles, RunSpec, SetupError};
use dflow_function::{Context, Error};
use dflow_workflow::{Gate, Source};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The name of a sink's input and of a source's output.
pub(crate) const PORT: &str = "stream";

/// Its stack, in bytes: what runs on it is small.
const STACK: usize = 256 * 1024;

/// Starts a thread that is a function; `ended` is called with its outcome.
pub(crate) fn start(
    name: &str,
    socket: OwnedFd,
    work: impl FnOnce(&mut Context) -> Result<(), Error> + Send + 'static,
    ended: impl FnOnce(Result<(), String>) + Send + 'static,
) -> std::io::Result<()> {
    let name: String = name.chars().take(15).collect();
    let body = move || ended(dflow_function::serve(socket, work).map_err(|error| error.to_string()));
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(body).map(|_| ())
}

/// Writes a stream to a file.
pub(crate) fn write_file(ctx: &mut Context, path: &Path) -> Result<(), Error> {
    let failed = |what: &str, error: std::io::Error| Error::new(format!("cannot {what} {}: {error}", path.display()));
    let mut input = ctx.input(PORT)?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failed("make the directory of", error))?;
    }
    let mut file = File::create(path).map_err(|error| failed("create", error))?;
    while let Some(chunk) = input.chunk()? {
        file.write_all(chunk).map_err(|error| failed("write", error))?;
    }
    Ok(())
}

/// Reads what is no regular file into a stream, as it comes.
pub(crate) fn read_live(ctx: &mut Context, from: OwnedFd, name: &str) -> Result<(), Error> {
    let mut output = ctx.output(PORT)?;
    let mut from = File::from(from);
    loop {
        let mut room = output.reserve(1)?;
        let length = from
            .read(&mut room)
            .map_err(|error| Error::new(format!("the input '{name}' cannot be read any further: {error}")))?;
        if length == 0 {
            return Ok(());
        }
        room.commit(length)?;
    }
}

/// Workflow inputs that are no files but have to be whole before somebody starts are copied to disk first.
pub(crate) fn spool_where_needed(spec: &RunSpec, checked: &mut Checked) -> Result<(), SetupError> {
    let control_flow = spec.invocation == dflow_scheduler::Invocation::ControlFlow;
    for (index, input) in (0u32..).zip(&mut checked.inputs) {
        let source = Source::WorkflowInput(index);
        let whole = spec
            .workflow
            .functions
            .iter()
            .flat_map(|function| &function.inputs)
            .any(|input| input.sources.contains(&source) && input.gate == Gate::Whole);
        if (whole || control_flow)
            && let InputFiles::Live(live) = input
        {
            let system = |source| SetupError::System { what: "copy an input to the spill directory", source };
            let fd = live.try_clone().map_err(system)?;
            let file = spool(fd, &spec.options.spill_dir).map_err(system)?;
            *input = InputFiles::Files(vec![vec![file]]);
        }
    }
    Ok(())
}

/// Copies what is no regular file into a file without a name, for consumers that need it whole before they start.
fn spool(from: OwnedFd, dir: &Path) -> std::io::Result<(OwnedFd, u64)> {
    let path: PathBuf = dir.to_owned();
    let file = rustix::fs::open(
        &path,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )?;
    let mut file = File::from(file);
    let length = std::io::copy(&mut File::from(from), &mut file)?;
    Ok((file.into(), length))
}
