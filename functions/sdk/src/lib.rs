//! What a function of a dflow workflow links: its inputs as slices of mapped memory, its outputs as room to fill in
//! place, waiting for whichever input has bytes.
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
//!     total.write_all(format!("{lines}\n").as_bytes())?;
//!     Ok(())
//! }
//! ```
//!
//! Below it are `dflow-shm`, which moves the bytes, and `dflow-protocol`, the messages with the node's daemon. There is
//! no async runtime in here and no thread: a function is a plain program that starts in well under a millisecond.
//! Everything can be sent to other threads; each input and output is used by one thread at a time.

mod context;
mod error;
mod framing;
mod input;
mod inputs;
mod output;

pub use context::{Context, Partition, run, serve};
pub use dflow_ports::View;
#[doc(hidden)]
pub use dflow_ports::{ArgPiece, InputSpec, OutputSpec, OutputStreams, Setup};
pub use error::Error;
pub use framing::{Lines, Records};
pub use input::Input;
pub use inputs::Inputs;
pub use output::{Output, Reservation};
