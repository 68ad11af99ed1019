//! Connects the ports of the function to the program: as standard streams, or as paths in its arguments.

use crate::drain::{Audience, Drain};
use crate::feed::{Feed, Streams};
use crate::kept;
use crate::pipe::{Inherited, Pipe, PipeSize};
use dflow_function::{ArgPiece, Context, Error, InputSpec, OutputSpec};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;

/// Maximum number of paths of one program: each costs descriptors on both sides, and for a pipe a thread.
const MAX_PATHS: usize = 1024;

/// Everything needed to start the program and to move bytes through its pipes.
pub(crate) struct Connections {
    /// The program's arguments; the first is its name.
    pub(crate) arguments: Vec<String>,
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    /// The descriptors behind its paths.
    pub(crate) inherited: Vec<Inherited>,
    pub(crate) feeds: Vec<Feed>,
    pub(crate) drains: Vec<Drain>,
}

impl Connections {
    /// Creates the connections. Waits for everything that the program needs to start: the number of streams in a list,
    /// and all bytes of a kept input.
    pub(crate) fn make(ctx: &mut Context, command: &[Vec<ArgPiece>]) -> Result<Self, Error> {
        let (inputs, outputs) = (ctx.setup().inputs.clone(), ctx.setup().outputs.clone());
        check_uses(command, &inputs)?;
        let mut making = Making {
            connections: Self {
                arguments: Vec::new(),
                stdin: Stdio::null(),
                // The daemon captures both together.
                stdout: std::io::stderr().into(),
                inherited: Vec::new(),
                feeds: Vec::new(),
                drains: Vec::new(),
            },
            audience: Audience::new(outputs.len()),
            pipes: PipeSize::of_paths(inputs.len() + outputs.len()),
        };
        let mut output_paths = Vec::new();
        for spec in &outputs {
            output_paths.push(making.output(ctx, spec)?);
        }
        let mut input_paths = Vec::new();
        for spec in &inputs {
            input_paths.push(making.input(ctx, spec)?);
        }
        let mut connections = making.connections;
        connections.arguments = arguments(command, &inputs, &input_paths, &output_paths)?;
        Ok(connections)
    }
}

struct Making {
    connections: Connections,
    audience: Arc<Audience>,
    pipes: PipeSize,
}

impl Making {
    /// Connects an output; its path, unless it is the standard output.
    fn output(&mut self, ctx: &mut Context, spec: &OutputSpec) -> Result<Option<String>, Error> {
        let output = ctx.output(&spec.name)?;
        let Pipe { reader, writer } = Pipe::new(if spec.stdout { PipeSize::STANDARD } else { self.pipes })?;
        self.connections.drains.push(Drain { output, pipe: reader, audience: Arc::clone(&self.audience) });
        if spec.stdout {
            self.connections.stdout = writer.into();
            return Ok(None);
        }
        self.inherit(writer).map(Some)
    }

    /// Connects an input; its paths, of which there are none if it is the standard input.
    fn input(&mut self, ctx: &mut Context, spec: &InputSpec) -> Result<Vec<String>, Error> {
        let mut streams =
            if spec.many { Streams::List(ctx.inputs(&spec.name)?) } else { Streams::One(Some(ctx.input(&spec.name)?)) };
        if spec.stdin {
            self.connections.stdin = self.end_of(streams, spec, PipeSize::STANDARD)?.into();
            return Ok(Vec::new());
        }
        let Streams::List(list) = &mut streams else {
            let end = self.end_of(streams, spec, self.pipes)?;
            return Ok(vec![self.inherit(end)?]);
        };
        let count = list.count()? as usize;
        if self.connections.inherited.len() + count > MAX_PATHS {
            return Err(Error::new(format!(
                "the input '{}' has {count} streams, and {MAX_PATHS} paths are the most for one program; let it read them \
                 as its standard input, where they come one after the other",
                spec.name
            )));
        }
        let pipes = PipeSize::of_paths(count);
        let mut paths = Vec::with_capacity(count);
        while let Some(input) = list.next()? {
            let end = self.end_of(Streams::One(Some(input)), spec, pipes)?;
            paths.push(self.inherit(end)?);
        }
        Ok(paths)
    }

    /// The program's end of an input.
    fn end_of(&mut self, mut streams: Streams, spec: &InputSpec, size: PipeSize) -> Result<OwnedFd, Error> {
        if spec.keep {
            return kept::file_of(&mut streams, &spec.name);
        }
        let Pipe { reader, writer } = Pipe::new(size)?;
        self.connections.feeds.push(Feed { streams, pipe: writer });
        Ok(reader)
    }

    fn inherit(&mut self, end: OwnedFd) -> Result<String, Error> {
        let end = Inherited::new(end)?;
        let path = end.path();
        self.connections.inherited.push(end);
        Ok(path)
    }
}

/// Refuses what would make two readers of a pipe out of one stream: each would get some of the bytes.
fn check_uses(command: &[Vec<ArgPiece>], inputs: &[InputSpec]) -> Result<(), Error> {
    for (spec, index) in inputs.iter().zip(0..) {
        let uses = command.iter().flatten().filter(|piece| **piece == ArgPiece::Input(index)).count();
        if uses > 1 && !spec.keep {
            return Err(Error::new(format!(
                "the arguments name the input '{}' {uses} times, but it is a pipe, which can be read only once; say 'keep: \
                 true' for it, so that it is a file, or name it once",
                spec.name
            )));
        }
    }
    Ok(())
}

fn arguments(
    command: &[Vec<ArgPiece>],
    inputs: &[InputSpec],
    input_paths: &[Vec<String>],
    output_paths: &[Option<String>],
) -> Result<Vec<String>, Error> {
    let mut arguments = Vec::with_capacity(command.len());
    for pieces in command {
        if let [ArgPiece::Input(index)] = pieces[..]
            && inputs.get(index as usize).is_some_and(|spec| spec.many)
        {
            arguments.extend(input_paths.get(index as usize).into_iter().flatten().cloned());
            continue;
        }
        let mut argument = String::new();
        for piece in pieces {
            let text = match piece {
                ArgPiece::Text(text) => Some(text),
                ArgPiece::Input(index) => match input_paths.get(*index as usize).map(Vec::as_slice) {
                    Some([path]) => Some(path),
                    _ => None,
                },
                ArgPiece::Output(index) => output_paths.get(*index as usize).and_then(Option::as_ref),
            };
            // The workflow's check has refused all of these.
            argument.push_str(text.ok_or_else(|| {
                Error::new(format!(
                    "{piece:?} in the arguments is not the path of one stream: there is no such port, it is a standard \
                     stream, or it is a list of streams that is not an argument of its own"
                ))
            })?);
        }
        arguments.push(argument);
    }
    Ok(arguments)
}
