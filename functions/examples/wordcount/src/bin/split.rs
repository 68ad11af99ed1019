//! `wordcount-split`: deals the input `text` to the parts of the output `parts`, without ever cutting a word.

use dflow_function::{Context, Error};
use std::process::ExitCode;
use wordcount::Splitter;

/// The size of a block in bytes: little enough that every part has something to do early on.
const BLOCK: usize = 64 * 1024;

fn main() -> ExitCode {
    dflow_function::run(split)
}

fn split(ctx: &mut Context) -> Result<(), Error> {
    let mut text = ctx.input("text")?;
    let mut parts = ctx.outputs("parts")?;
    let mut splitter = Splitter::new(parts.len(), BLOCK);
    while let Some(mut chunk) = text.chunk()? {
        while let Some((part, piece)) = splitter.deal(&mut chunk) {
            parts[part].write_all(piece)?;
        }
    }
    Ok(())
}
