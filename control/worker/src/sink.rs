//! The ends of a workflow that are no processes: threads of the daemon that write output files, and that read inputs
//! which are no regular files. They use the SDK as every function does.

use crate::check::{Checked, InputFiles, RunSpec, SetupError};
use crate::options::file_size_limit;
use crate::output::SinkFile;
use dflow_function::{Context, Error};
use dflow_workflow::{Gate, Source};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

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

/// Writes a stream to an output file.
pub(crate) fn write_file(ctx: &mut Context, to: SinkFile) -> Result<(), Error> {
    let (mut file, shown) = match to {
        SinkFile::Path { path, shown } => {
            let failed = |error| write_error("create", &shown, &error);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            (File::create(&path).map_err(failed)?, shown)
        }
        SinkFile::Unnamed(mut file) => {
            let shown = Path::new("for standard output").to_owned();
            // What an earlier attempt has written.
            let emptied = file.set_len(0).and_then(|()| file.rewind());
            emptied.map_err(|error| write_error("write", &shown, &error))?;
            (file, shown)
        }
    };
    let mut input = ctx.input(PORT)?;
    while let Some(chunk) = input.chunk()? {
        file.write_all(chunk).map_err(|error| write_error("write", &shown, &error))?;
    }
    Ok(())
}

/// Why an output cannot be written, and which limit is in the way if it is one.
fn write_error(what: &str, shown: &Path, error: &std::io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::FileTooLarge => match file_size_limit() {
            Some(limit) => format!("; this process may write files of at most {limit} bytes: see 'ulimit -f'"),
            None => "; the filesystem takes no larger files".into(),
        },
        ErrorKind::StorageFull => "; make room there, or name a folder on another disk with --output".into(),
        ErrorKind::QuotaExceeded => "; the quota of its owner is used up: make room, or name another folder with \
                                     --output"
            .into(),
        _ => String::new(),
    };
    Error::new(format!("cannot {what} the output {}: {error}{hint}", shown.display()))
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
    let mut file = unnamed_file(dir)?;
    let length = std::io::copy(&mut File::from(from), &mut file)?;
    Ok((file.into(), length))
}

/// A file that is gone with its last descriptor.
pub(crate) fn unnamed_file(folder: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?))
}
