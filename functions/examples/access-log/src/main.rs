//! `access-log-generate`: writes the access log of an invented web server, for the workflow `access-log.yaml`, whose
//! functions are existing programs.
//!
//! The log is in the Combined Log Format. A few pages and clients make most of the requests, as on a real site (Zipf's
//! law). The same seed gives the same bytes on every machine: it uses neither a clock nor floating point.
//!
//! | file | holds |
//! | --- | --- |
//! | `log` | the lines |
//! | `site` | their contents: pages, clients, browsers |
//! | `choice` | picking one of many, some more often than others |
//! | `random` | numbers from a seed |
//! | `time` | the time in the log |

mod choice;
mod log;
mod random;
mod site;
mod time;

use clap::{ArgGroup, Parser};
use log::Log;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// How much is written at once, in bytes.
const BLOCK: usize = 256 * 1024;

/// Writes the access log of a web server, in the Combined Log Format, made up from a seed.
#[derive(Parser)]
#[command(version, group = ArgGroup::new("length").required(true))]
struct Arguments {
    /// How many lines to write
    #[arg(long, group = "length", value_name = "N")]
    lines: Option<u64>,
    /// How many bytes to write at least, such as 64MiB or 1GB; the last line is whole
    #[arg(long, group = "length", value_name = "SIZE", value_parser = dflow_workflow::units::parse_size)]
    bytes: Option<u64>,
    /// The same seed gives the same log
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The file to write instead of the standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.output {
        Some(path) => File::create(path).and_then(|file| write(&arguments, file)),
        None => write(&arguments, io::stdout().lock()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the log has closed the pipe, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let place =
                arguments.output.as_ref().map_or("the standard output".into(), |path| path.display().to_string());
            eprintln!("access-log-generate: cannot write the log to {place}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(arguments: &Arguments, mut to: impl Write) -> io::Result<()> {
    let mut log = Log::new(arguments.seed);
    let mut block = Vec::with_capacity(2 * BLOCK);
    let (mut lines, mut bytes) = (0, 0);
    let most_lines = arguments.lines.unwrap_or(u64::MAX);
    let least_bytes = arguments.bytes.unwrap_or(u64::MAX);
    while lines < most_lines && bytes + (block.len() as u64) < least_bytes {
        log.line(&mut block);
        lines += 1;
        if block.len() >= BLOCK {
            to.write_all(&block)?;
            bytes += block.len() as u64;
            block.clear();
        }
    }
    to.write_all(&block)?;
    to.flush()
}
