//! Running a function on bytes, in a unit test.
//!
//! The function runs as in a workflow: with the same inputs and outputs over the same shared memory, served by threads
//! of the test instead of a daemon. It needs nothing installed, and takes about a millisecond.
//!
//! ```
//! use dflow_function::testing::Test;
//! use dflow_function::{Context, Error};
//!
//! fn shout(ctx: &mut Context) -> Result<(), Error> {
//!     let mark: String = ctx.param("mark")?.unwrap_or("!".into());
//!     let mut text = ctx.input("text")?;
//!     let mut out = ctx.output("out")?;
//!     while let Some(chunk) = text.chunk()? {
//!         out.write_all(&chunk.to_ascii_uppercase())?;
//!     }
//!     out.write_all(mark.as_bytes())
//! }
//!
//! let run = Test::new(shout).input("text", "hello").param("mark", "?").run()?;
//! assert_eq!(run.output("out"), b"HELLO?");
//!
//! // A stream is cut anywhere. In pieces of one byte, a function that expects whole lines or words fails.
//! let run = Test::new(shout).input("text", "hello").pieces(1).run()?;
//! assert_eq!(run.output("out"), b"HELLO!");
//!
//! // Errors are those that the function returned.
//! let error = Test::new(shout).run().expect_err("it has no input");
//! assert!(error.to_string().contains("'text'"), "{error}");
//! # Ok::<(), Error>(())
//! ```

use crate::context::{Context, Origin, serve_from};
use crate::error::Error;
use dflow_ports::local::{Local, LocalInput, LocalRun, Sink, Sinks, Source};
use rustix::fs::MemfdFlags;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The default of [`Test::limit`]: the maximum size of all outputs of a test together.
pub const MAX_OUTPUT: usize = 1 << 30;

/// A function with its parameters and inputs: [the module's documentation](self) has an example.
///
/// Inputs keep all their bytes, as with `keep: true` in a workflow file. Outputs need not be declared: what the
/// function takes exists.
#[must_use = "nothing happens before `run`"]
pub struct Test<F> {
    work: F,
    inputs: Vec<(String, bool, Vec<Vec<u8>>)>,
    params: Vec<(String, String)>,
    parts: Vec<(String, u32)>,
    part: Option<u32>,
    part_file: Option<PathBuf>,
    attempt: u32,
    piece: Option<u64>,
    limit: usize,
}

impl<F: FnOnce(&mut Context) -> Result<(), Error>> Test<F> {
    /// A test of this function, without inputs as yet.
    pub fn new(work: F) -> Self {
        Self {
            work,
            inputs: Vec::new(),
            params: Vec::new(),
            parts: Vec::new(),
            part: None,
            part_file: None,
            attempt: 1,
            piece: None,
            limit: MAX_OUTPUT,
        }
    }

    /// Gives an input these bytes.
    pub fn input(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.inputs.push((name.to_owned(), false, vec![bytes.as_ref().to_vec()]));
        self
    }

    /// Gives a fan-in these streams.
    pub fn inputs<B: AsRef<[u8]>>(mut self, name: &str, streams: impl IntoIterator<Item = B>) -> Self {
        let streams = streams.into_iter().map(|bytes| bytes.as_ref().to_vec()).collect();
        self.inputs.push((name.to_owned(), true, streams));
        self
    }

    /// Sets a parameter.
    pub fn param(mut self, name: &str, value: impl ToString) -> Self {
        self.params.push((name.to_owned(), value.to_string()));
        self
    }

    /// Says how many parts an output has, for [`Context::outputs`]. Without it, it has one.
    pub fn parts(mut self, name: &str, count: u32) -> Self {
        self.parts.push((name.to_owned(), count));
        self
    }

    /// Sets [`Context::part`], as in a `foreach`.
    pub fn part(mut self, part: u32) -> Self {
        self.part = Some(part);
        self
    }

    /// Sets [`Context::part_file`], as in a `foreach` over files.
    pub fn part_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.part_file = Some(file.into());
        self
    }

    /// Sets [`Context::attempt`], as in a retry.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Cuts inputs into pieces of this many bytes: no chunk is longer.
    ///
    /// # Panics
    /// If it is 0.
    pub fn pieces(mut self, bytes: u64) -> Self {
        assert!(bytes > 0, "a piece has at least one byte");
        self.piece = Some(bytes);
        self
    }

    /// Fails the test if its outputs have more bytes than this together.
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Runs the function on this thread, and returns its outputs.
    ///
    /// # Errors
    /// The error of the function; or if there is no memory for its streams, or its outputs are larger than
    /// [`Test::limit`].
    pub fn run(self) -> Result<Written, Error> {
        let mut inputs = Vec::new();
        for (name, many, streams) in self.inputs {
            let sources = streams.iter().map(|bytes| in_memory(bytes)).collect::<Result<_, _>>()?;
            inputs.push(LocalInput { name, many, keep: true, sources });
        }
        let shared = Arc::<Mutex<Streams>>::default();
        let sinks = Memory { streams: Arc::clone(&shared), limit: self.limit };
        let run = LocalRun {
            instance: "test".into(),
            part: self.part,
            part_file: self.part_file,
            attempt: self.attempt,
            params: self.params,
            inputs,
            outputs: Vec::new(),
            piece: self.piece,
        };
        let (local, socket) = Local::start(run, Arc::new(sinks))?;
        let result = serve_from(socket, Origin::Test(local.declarer(), self.parts), self.work);
        // If an output cannot be written, the function only sees that it has no reader left. This is the actual reason.
        local.join()?;
        result?;
        let streams = std::mem::take(&mut *lock(&shared));
        Ok(Written { streams })
    }
}

fn in_memory(bytes: &[u8]) -> Result<Source, Error> {
    let mut file = File::from(rustix::fs::memfd_create("dflow-test", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(Source::File(file))
}

/// Bytes by output and part.
type Streams = BTreeMap<(String, Option<u32>), Vec<u8>>;

/// The outputs of a function: [`Test::run`].
#[derive(Debug)]
pub struct Written {
    streams: Streams,
}

impl Written {
    /// The bytes of an output that is one stream; empty if it was taken and nothing was written.
    ///
    /// # Panics
    /// If the function has not taken an output of this name, or it has parts.
    #[must_use]
    #[track_caller]
    pub fn output(&self, name: &str) -> &[u8] {
        match self.streams.get(&(name.to_owned(), None)) {
            Some(bytes) => bytes,
            None => panic!("the function has no output '{name}' of one stream; it has: {}", self.names()),
        }
    }

    /// The bytes of each part of an output, in the order of the parts; empty if it has none.
    #[must_use]
    pub fn parts(&self, name: &str) -> Vec<&[u8]> {
        self.streams
            .iter()
            .filter(|((output, part), _)| output == name && part.is_some())
            .map(|(_, it)| &**it)
            .collect()
    }

    /// The records of an output ([`crate::Output::record`]).
    ///
    /// # Errors
    /// If the output is not made of records.
    ///
    /// # Panics
    /// As [`Written::output`].
    #[track_caller]
    pub fn records(&self, name: &str) -> Result<Vec<&[u8]>, Error> {
        let cut = |at| Error::new(format!("the output '{name}' has no record at byte {at}"));
        let all = self.output(name);
        let (mut rest, mut records) = (all, Vec::new());
        while !rest.is_empty() {
            let at = all.len() - rest.len();
            let (head, behind) = rest.split_first_chunk().ok_or_else(|| cut(at))?;
            let (record, behind) =
                behind.split_at_checked(u32::from_le_bytes(*head) as usize).ok_or_else(|| cut(at))?;
            records.push(record);
            rest = behind;
        }
        Ok(records)
    }

    /// All streams, each with its output and, if it is one of several, its part.
    #[doc(hidden)]
    #[must_use]
    pub fn into_streams(self) -> BTreeMap<(String, Option<u32>), Vec<u8>> {
        self.streams
    }

    fn names(&self) -> String {
        let names: Vec<String> = self
            .streams
            .keys()
            .map(|(name, part)| match part {
                Some(part) => format!("{name}[{part}]"),
                None => name.clone(),
            })
            .collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

/// One record as bytes, for inputs that are read with [`crate::Input::records`].
///
/// # Panics
/// If it has 4 GiB or more.
#[must_use]
pub fn record(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a record is shorter than 4 GiB");
    [&length.to_le_bytes(), bytes].concat()
}

struct Memory {
    streams: Arc<Mutex<Streams>>,
    limit: usize,
}

impl Sinks for Memory {
    fn open(&self, output: &str, part: Option<u32>) -> std::io::Result<Box<dyn Sink>> {
        let key = (output.to_owned(), part);
        lock(&self.streams).insert(key.clone(), Vec::new());
        Ok(Box::new(MemorySink { streams: Arc::clone(&self.streams), limit: self.limit, key }))
    }
}

struct MemorySink {
    streams: Arc<Mutex<Streams>>,
    limit: usize,
    key: (String, Option<u32>),
}

impl Write for MemorySink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut streams = lock(&self.streams);
        let all: usize = streams.values().map(Vec::len).sum();
        if all + bytes.len() > self.limit {
            let what = format!("the outputs of the test have more than {} bytes: see Test::limit", self.limit);
            return Err(std::io::Error::other(what));
        }
        streams.entry(self.key.clone()).or_default().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink for MemorySink {
    fn finish(self: Box<Self>, _: bool) -> std::io::Result<()> {
        Ok(())
    }
}

fn lock(streams: &Mutex<Streams>) -> MutexGuard<'_, Streams> {
    // Nothing panics while it holds the lock in an inconsistent state, so poisoned streams can be used.
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}
