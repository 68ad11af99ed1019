//! The SDK for functions of dflow workflows.
//!
//! # A function
//! A function is a program that reads streams and writes streams. `main` hands its work to [`run`]:
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
//! The same program runs alone on files, which is how to try it: `count-lines --in text=server.log --out total=-`. In a unit
//! test it runs on bytes: see [`testing`].
//!
//! # Inputs
//! [`Context::input`] gives an [`Input`]. The function starts when the first bytes of its inputs are there, while its
//! producers are still writing, so [`Input::chunk`] gives what is there now and waits only if there is nothing. The bytes
//! are the producer's own memory: no copy is made. Chunks are cut anywhere; [`Input::lines_bytes`], [`Input::records`] and
//! [`std::io::BufRead`] put lines and records together that are cut. A slow function slows its producers; nothing is lost.
//!
//! With `keep: true` in the workflow file, [`Input::so_far`] is one slice over the stream from its beginning. To keep bytes
//! beyond the next call, or to hand them to other threads, take them as a [`View`] with [`Input::view`].
//!
//! # Outputs
//! [`Context::output`] gives an [`Output`]. What is written can be read at once. [`Output::reserve`] gives room in the
//! stream itself, to be filled in place; [`Output::write_all`] and [`std::io::Write`] copy. Outputs are finished when the
//! function returns `Ok`.
//!
//! # Records
//! [`Output::record`] writes bytes with their length in front, and [`Input::records`] reads them. What is in them is up to
//! both functions.
//!
//! # Fan-ins
//! An input that the workflow gives several streams is taken with [`Context::inputs`]: [`Inputs::next`] gives one stream
//! after the other, [`Inputs::ready`] whichever has bytes. [`Context::wait_any`] waits for one of several inputs.
//!
//! # Parts
//! An output with `partition: 8` is taken with [`Context::outputs`], one with `partition: discovered` with
//! [`Context::partition`], which opens parts while the function runs. A `foreach` runs one instance for each part;
//! [`Context::part`] is its number.
//!
//! # Errors
//! A function fails by returning an [`Error`], into which `?` converts every other error. dflow prints its text with the
//! name of the instance; what it has written is not used. A panic or a crash fails the function as well. If nobody reads its
//! outputs any more, a write fails with an error that is no failure when it is returned: [`Error::is_unread`].
//!
//! # Retries
//! With `retries: 3`, a function that fails is started again, in a new process, and reads its inputs from the beginning;
//! [`Context::attempt`] counts. Functions that have read from the failed attempt start again, too, so that no bytes are seen
//! twice. So a function should have no effects but its outputs, or effects that may happen twice. One that is declared
//! `deterministic` promises to write the same bytes in each attempt: then its readers go on.
//!
//! # Cost
//! Below are `dflow-ports`, the non-blocking ends of streams, and `dflow-shm`, which moves the bytes. There is no async
//! runtime in a function and no thread but its own: it is a plain program that starts in well under a millisecond. Inputs
//! and outputs may be sent to other threads; each is used by one thread at a time.

mod context;
mod error;
mod framing;
mod input;
mod inputs;
mod output;
mod standalone;
pub mod testing;

pub use context::{Context, Partition, run};
#[doc(hidden)]
pub use context::{run_under_daemon, serve};
pub use dflow_ports::View;
#[doc(hidden)]
pub use dflow_ports::{ArgPiece, InputSpec, OutputSpec, OutputStreams, ProgramState, Session, Setup};
pub use error::Error;
pub use framing::{Lines, Records};
pub use input::Input;
pub use inputs::Inputs;
pub use output::{Output, Reservation};

/// Compiles the function in README.md as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
