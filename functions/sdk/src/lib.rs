//! The SDK for functions of dflow workflows.
//!
//! # A function
//! A function is a program that reads and writes streams. `main` passes its work to [`run`]:
//!
//! ```no_run
//! use dflow_function::{Context, Error};
//!
//! fn main() -> std::process::ExitCode {
//!     dflow_function::run(count_lines)
//! }
//!
//! fn count_lines(ctx: &mut Context) -> Result<(), Error> {
//!     let mut text = ctx.input("text")?;
//!     let mut total = ctx.output("total")?;
//!     let mut lines = 0;
//!     while let Some(chunk) = text.chunk()? {
//!         lines += chunk.iter().filter(|&&byte| byte == b'\n').count();
//!     }
//!     total.write_all(format!("{lines}\n").as_bytes())
//! }
//! ```
//!
//! The workflow file names the program and connects its ports:
//!
//! ```yaml
//! functions:
//!   count:
//!     program: count-lines
//!     inputs: { text: inputs.log }
//!     outputs: [total]
//! ```
//!
//! The same program runs alone on files, which is how to try it: `count-lines --in text=server.log --out total=-`. In a
//! unit test it runs on bytes: see [`testing`].
//!
//! # Inputs
//! [`Context::input`] returns an [`Input`]. The function starts as soon as the first bytes of its inputs exist, while
//! its producers are still writing. So [`Input::chunk`] returns the bytes that exist now, and waits only if there are
//! none. The bytes are the producer's own memory: no copy is made. Chunks end anywhere; [`Input::lines_bytes`],
//! [`Input::records`] and [`std::io::BufRead`] reassemble lines and records. A slow function slows its producers;
//! nothing is lost.
//!
//! With `keep: true` in the workflow file, [`Input::so_far`] is one slice over the stream from its beginning. To keep
//! bytes beyond the next call, or to hand them to other threads, take them as a [`View`] with [`Input::view`].
//!
//! # Outputs
//! [`Context::output`] returns an [`Output`]. Written bytes can be read at once. [`Output::reserve`] returns room in
//! the stream itself, to be filled in place; [`Output::write_all`] and [`std::io::Write`] copy. Outputs are finished
//! when the function returns `Ok`.
//!
//! # Records
//! [`Output::record`] writes bytes prefixed with their length, and [`Input::records`] reads them. The two functions
//! define their contents.
//!
//! # Fan-ins
//! An input with several streams is taken with [`Context::inputs`]: [`Inputs::next`] returns one stream after the
//! other, [`Inputs::ready`] whichever has bytes. [`Context::wait_any`] waits for one of several inputs.
//!
//! # Parts
//! An output with `partition: 8` is taken with [`Context::outputs`], one with `partition: discovered` with
//! [`Context::partition`], which opens parts while the function runs. A `foreach` runs one instance for each part;
//! [`Context::part`] is its number.
//!
//! # Errors
//! A function fails by returning an [`Error`], into which `?` converts every other error. dflow prints its text with
//! the name of the instance; its output is discarded. A panic or a crash fails the function as well. If its outputs
//! have no reader left, a write fails with an error that does not count as a failure when it is returned:
//! [`Error::is_unread`].
//!
//! # Retries
//! With `retries: 3`, a failed function is restarted in a new process and reads its inputs from the beginning;
//! [`Context::attempt`] counts the attempts. Functions that have read from the failed attempt restart as well, so that
//! no bytes are seen twice. So a function should have no effects except its outputs, or effects that may happen twice.
//! A function declared `deterministic` guarantees that each attempt writes the same bytes: then its readers continue.
//!
//! # Cost
//! The SDK is built on `dflow-ports`, the non-blocking ends of streams, and `dflow-shm`, which moves the bytes. A
//! function has no async runtime and only its own threads: it is a plain program that starts in well under a
//! millisecond. Inputs and outputs may be sent to other threads; each is used by one thread at a time.

mod context;
mod error;
mod framing;
mod input;
mod inputs;
mod output;
mod params;
mod standalone;
pub mod testing;

pub use context::{Context, Partition, run};
#[doc(hidden)]
pub use context::{run_under_daemon, serve, serve_arguments};
#[doc(hidden)]
pub use dflow_ports::{ArgPiece, InputSpec, OutputSpec, OutputStreams, ProgramState, Session, Setup};
pub use dflow_ports::{Next, View};
pub use error::Error;
pub use framing::{Lines, Records};
pub use input::Input;
pub use inputs::Inputs;
pub use output::{Output, Reservation};

/// Compiles the function in README.md as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
