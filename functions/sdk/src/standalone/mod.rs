//! A function that runs alone: its streams come from files and go to files, which the arguments name.

mod arguments;
mod files;

use crate::context::{Context, FAILED, Origin, WRONG_CALL, serve_from};
use crate::error::Error;
use arguments::{Arguments, Call, Input, Place};
use dflow_ports::local::{Local, LocalInput, LocalRun, Source};
use files::Files;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::OsString;
use std::fs::File;
use std::sync::Arc;

/// The name of the input with the part of a `foreach`.
const PART: &str = "part";

/// Runs `work` as the arguments say; the first of them is the program. Returns the exit status.
pub(crate) fn run(
    arguments: impl IntoIterator<Item = OsString>,
    work: impl FnOnce(&mut Context) -> Result<(), Error>,
) -> u8 {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let program = std::path::Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned();
    match Arguments::parse(&program, arguments) {
        Ok(Call::Help(text)) => {
            println!("{text}");
            0
        }
        Ok(Call::Run(arguments)) => match perform(program.clone(), arguments, work) {
            Ok(()) => 0,
            // As for a program in a pipeline whose reader has seen enough.
            Err(error) if error.is_unread() => 0,
            Err(error) => {
                eprintln!("{program}: {error}");
                FAILED
            }
        },
        Err(error) => {
            eprintln!("{program}: {error}");
            WRONG_CALL
        }
    }
}

fn perform(
    instance: String,
    arguments: Arguments,
    work: impl FnOnce(&mut Context) -> Result<(), Error>,
) -> Result<(), Error> {
    allow_descriptors();
    // A part that is one file has its name, as in a `foreach` over files.
    let of_part = |input: &&Input| input.name == PART;
    let part_file = arguments.inputs.iter().find(of_part).and_then(|input| match &input.places[..] {
        [Place::Path(path)] => Some(path.clone()),
        _ => None,
    });
    let mut inputs = Vec::new();
    for input in arguments.inputs {
        let failed = |place: &Place, error: std::io::Error| {
            Error::new(format!("cannot read {place} for the input '{}': {error}", input.name))
        };
        // A file can be kept without a copy; a pipe cannot.
        let mut keep = true;
        let mut sources = Vec::new();
        for place in &input.places {
            let source = open(place).map_err(|error| failed(place, error))?;
            keep &= arguments.keep.contains(&input.name) || matches!(source, Source::File(_));
            sources.push(source);
        }
        inputs.push(LocalInput { name: input.name, many: sources.len() > 1, keep, sources });
    }
    let given = arguments.outputs.iter().map(|output| (output.name.clone(), output.parts)).collect();
    let run = LocalRun {
        instance,
        part: arguments.part,
        part_file,
        attempt: 1,
        params: arguments.params,
        inputs,
        outputs: Vec::new(),
        piece: None,
    };
    let (local, socket) = Local::start(run, Arc::new(Files::new(arguments.outputs)))?;
    let result = serve_from(socket, Origin::Arguments(local.declarer(), given), work);
    // If an output cannot be written, the function only sees that it has no reader left. This is the actual reason.
    local.join()?;
    result
}

fn open(place: &Place) -> std::io::Result<Source> {
    let file = match place {
        Place::Standard => return Ok(Source::Live(Box::new(std::io::stdin()))),
        Place::Path(path) => File::open(path)?,
    };
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(std::io::Error::other("it is a directory; name the files in it"));
    }
    // Files of /proc and similar report a size of 0, so they are read to their end.
    let live = !metadata.is_file() || metadata.len() == 0;
    Ok(if live { Source::Live(Box::new(file)) } else { Source::File(file) })
}

/// Raises the soft limit of open descriptors to the hard one: a fan-in of a thousand files is nothing unusual.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // If this fails, opening a file reports the limit later.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
