//! Inputs without a size that have to be whole before a function starts: they are copied to disk before the run.

use super::journal::Update;
use super::preflight::Checked;
use crate::error::SetupError;
use crate::input::{InputStream, LiveFile, LiveReader};
use crate::node::sink::unnamed_file;
use crate::spec::RunSpec;
use dflow_store::InputFile;
use dflow_workflow::Source;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

/// How much of an input is copied at once, in bytes.
const SPOOL_BUFFER: usize = 256 * 1024;

/// Inputs without a size that have to be whole before a function starts are copied to disk first. A thread does that: a pipe
/// may have no writer for long.
///
/// # Errors
/// An input cannot be read, or the spill directory not be written.
pub(crate) async fn spool_where_needed(
    spec: &RunSpec,
    mut checked: Checked,
    observe: &mut impl FnMut(Update<'_>),
) -> Result<Checked, SetupError> {
    let control_flow = spec.invocation == dflow_scheduler::Invocation::ControlFlow;
    let is_whole = |source: Source| {
        let mut inputs = spec.workflow.functions.iter().flat_map(|function| &function.inputs);
        control_flow || inputs.any(|input| input.sources.contains(&source) && input.gate.needs_whole_stream())
    };
    let needed: Vec<bool> =
        (0..).zip(&checked.inputs).map(|(index, _)| is_whole(Source::WorkflowInput(index))).collect();
    let is_live = |stream: &InputStream| matches!(stream, InputStream::Live(_));
    let any = checked.inputs.iter().zip(&needed).any(|(streams, &needed)| needed && streams.iter().any(is_live));
    if !any {
        return Ok(checked);
    }
    let (notes, mut noted) = tokio::sync::mpsc::unbounded_channel();
    let (done, mut spooled) = tokio::sync::oneshot::channel();
    let (mut inputs, folder) = (std::mem::take(&mut checked.inputs), spec.options.spill_dir.clone());
    let work = move || {
        let mut note = |note| {
            let _ = notes.send(note);
        };
        let mut live = inputs.iter_mut().zip(needed).filter(|(_, needed)| *needed).flat_map(|(streams, _)| streams);
        let result = live.try_for_each(|stream| spool_stream(stream, &folder, &mut note));
        // Nobody listens to the end of a run that was cancelled.
        let _ = done.send(result.map(|()| inputs));
    };
    let system = |what| move |source| SetupError::System { what, source };
    let thread = std::thread::Builder::new().name("spool".into()).spawn(work);
    thread.map_err(system("start a thread that copies inputs"))?;
    loop {
        tokio::select! {
            Some(note) = noted.recv() => {
                observe(Update::Note(&note));
                checked.notes.push(note);
            }
            result = &mut spooled => {
                let gone = |_| Err(std::io::Error::other("its thread is gone"));
                checked.inputs = result.unwrap_or_else(gone).map_err(system("copy an input to the spill directory"))?;
                return Ok(checked);
            }
        }
    }
}

fn spool_stream(stream: &mut InputStream, folder: &Path, note: &mut dyn FnMut(String)) -> std::io::Result<()> {
    if let InputStream::Live(files) = stream {
        let (file, length) = spool(std::mem::take(files), folder, note)?;
        *stream = InputStream::Files(vec![(InputFile::Open(file), length)]);
    }
    Ok(())
}

/// Copies what has no size into a file without a name.
fn spool(files: Vec<LiveFile>, folder: &Path, note: &mut dyn FnMut(String)) -> std::io::Result<(OwnedFd, u64)> {
    let mut reader = LiveReader::new(files);
    let mut file = unnamed_file(folder)?;
    let mut buffer = vec![0; SPOOL_BUFFER];
    let mut length = 0;
    loop {
        match reader.read(&mut buffer, note).map_err(std::io::Error::other)? {
            0 => return Ok((file.into(), length)),
            read => {
                file.write_all(&buffer[..read])?;
                length += read as u64;
            }
        }
    }
}
