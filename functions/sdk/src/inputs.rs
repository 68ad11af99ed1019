//! Reading a fan-in.

use crate::error::Error;
use crate::input::Input;
use dflow_ports::{FanIn, Next};

/// The streams of a fan-in: an input that the workflow file gives a list of streams, or all parts of a partitioned one.
///
/// Take them one after the other with [`Inputs::next`], or read whichever has bytes with [`Inputs::ready`]. New streams may
/// come while the function runs, if their producer opens parts.
///
/// ```
/// use dflow_function::testing::Test;
/// use dflow_function::{Context, Error};
///
/// fn concatenate(ctx: &mut Context) -> Result<(), Error> {
///     let mut parts = ctx.inputs("parts")?;
///     let mut out = ctx.output("out")?;
///     while let Some(mut part) = parts.next()? {
///         while let Some(chunk) = part.chunk()? {
///             out.write_all(chunk)?;
///         }
///     }
///     Ok(())
/// }
///
/// let run = Test::new(concatenate).inputs("parts", ["one ", "two"]).run()?;
/// assert_eq!(run.output("out"), b"one two");
/// # Ok::<(), Error>(())
/// ```
pub struct Inputs {
    streams: FanIn<Input>,
}

impl Inputs {
    pub(crate) fn new(streams: FanIn<Input>) -> Self {
        Self { streams }
    }

    /// The next stream in order; waits for it if more may come. `None` when all have been taken.
    ///
    /// # Errors
    /// If the daemon is gone.
    #[expect(clippy::should_implement_trait, reason = "it waits and can fail")]
    pub fn next(&mut self) -> Result<Option<Input>, Error> {
        loop {
            match self.streams.try_next()? {
                Next::Ready(input) => return Ok(Some(input)),
                Next::End => return Ok(None),
                Next::WouldBlock => self.streams.wait_for_streams(None),
            };
        }
    }

    /// A stream that has bytes, with its number in the fan-in; waits for one. Streams that have ended are dropped. `None`
    /// when all have ended.
    ///
    /// Which one it is depends on time, so a function that uses this must not be declared `deterministic` unless its
    /// output does not depend on the order.
    ///
    /// # Errors
    /// If a stream is given up by its producer or cannot be read.
    pub fn ready(&mut self) -> Result<Option<(u32, &mut Input)>, Error> {
        loop {
            match self.streams.poll()? {
                Next::Ready(index) => return Ok(Some(self.streams.stream(index))),
                Next::End => return Ok(None),
                Next::WouldBlock => self.streams.wait_for_bytes(None),
            };
        }
    }

    /// How many streams there are; waits until that is known.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn count(&mut self) -> Result<u32, Error> {
        loop {
            if let Some(count) = self.streams.count()? {
                return Ok(count);
            }
            self.streams.wait_for_streams(None);
        }
    }
}

/// For bindings to other languages, which wait in their own way.
impl AsMut<FanIn<Input>> for Inputs {
    fn as_mut(&mut self) -> &mut FanIn<Input> {
        &mut self.streams
    }
}
