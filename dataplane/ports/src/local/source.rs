//! Where input streams come from: pieces of files, and files that grow while a pipe is read.

use super::host::Wire;
use super::{LocalError, Source};
use dflow_protocol::PortId;
use dflow_protocol::message::{Piece, SegmentUse, ToFunction};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How many bytes of a pipe may wait for the function, unless they are kept: the back-pressure that its writer feels.
const WINDOW: u64 = 1024 * 1024;
/// How much is read from a pipe at once, in bytes.
const BLOCK: usize = 64 * 1024;

/// One input stream.
pub(super) struct Stream {
    wire: Arc<Wire>,
    port: PortId,
    /// Holds the bytes at their offsets in the stream.
    file: File,
    /// The most bytes of one piece.
    piece: u64,
    /// The file is a buffer of ours rather than the source itself.
    live: bool,
    keep: bool,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    /// How many bytes the file holds so far.
    length: u64,
    /// No more will come, or why the source failed.
    ended: Option<Result<(), String>>,
    /// Where the function wants to read on and has not been answered.
    asked: Option<u64>,
    /// Bytes below this are needed no more, unless they are kept.
    floor: u64,
    closed: bool,
}

impl Stream {
    /// Opens the stream of a source. A live one is read by a thread from now on.
    pub(super) fn open(
        wire: &Arc<Wire>,
        port: PortId,
        input: &str,
        source: Source,
        keep: bool,
        piece: Option<u64>,
    ) -> Result<Arc<Self>, LocalError> {
        let failed = |source| LocalError::Input { input: input.to_owned(), source };
        let (file, live, length) = match source {
            Source::File(file) => {
                let length = file.metadata().map_err(failed)?.len();
                (file, None, length)
            }
            Source::Live(live) if keep => (unnamed().map_err(failed)?, Some(live), 0),
            Source::Live(live) => {
                let memory = rustix::fs::memfd_create("dflow-pipe", MemfdFlags::CLOEXEC);
                (memory.map_err(LocalError::system("create a buffer in memory"))?.into(), Some(live), 0)
            }
        };
        let ended = if live.is_none() { Some(Ok(())) } else { None };
        let state = Mutex::new(State { length, ended, ..State::default() });
        let stream = Arc::new(Self {
            wire: Arc::clone(wire),
            port,
            file,
            piece: piece.unwrap_or(u64::MAX),
            live: live.is_some(),
            keep,
            state,
            moved: Condvar::new(),
        });
        if let Some(live) = live {
            let filled = Arc::clone(&stream);
            // Not joined: a read from a terminal cannot be ended from here.
            std::thread::Builder::new()
                .name("dflow-input".into())
                .spawn(move || filled.fill(live))
                .map_err(|source| LocalError::System { action: "start a thread that reads a pipe", source })?;
        }
        Ok(stream)
    }

    /// The function wants to read on here.
    pub(super) fn next_piece(&self, at: u64) {
        let mut state = self.lock();
        (state.asked, state.floor) = (Some(at), at);
        if !self.keep && at > 0 && self.live {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // It only gives memory back, so a failure costs nothing but that memory.
            let _ = fallocate(&self.file, flags, 0, at);
        }
        self.answer(&mut state);
        self.moved.notify_one();
    }

    /// The function reads nothing more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.moved.notify_one();
    }

    /// Copies a pipe into the file until its end, or until the function has closed the stream.
    fn fill(&self, mut live: Box<dyn Read + Send>) {
        let mut block = vec![0; BLOCK];
        let ended = loop {
            let length = match live.read(&mut block) {
                Ok(0) => break Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => break Err(format!("it cannot be read any further: {error}")),
            };
            if let Err(error) = (&self.file).write_all(&block[..length]) {
                break Err(format!("it cannot be copied to a temporary file: {error}"));
            }
            let mut state = self.lock();
            state.length += length as u64;
            self.answer(&mut state);
            while !self.keep && !state.closed && state.length >= state.floor.saturating_add(WINDOW) {
                state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                break Ok(());
            }
        };
        let mut state = self.lock();
        state.ended = Some(ended);
        self.answer(&mut state);
    }

    /// Sends what the function has asked for, if it is there.
    fn answer(&self, state: &mut State) {
        let Some(at) = state.asked else { return };
        let port = self.port;
        let answered = if state.length > at {
            self.file.as_fd().try_clone_to_owned().is_ok_and(|file| {
                let segment = self.wire.next_segment();
                let end = state.length.min(at.saturating_add(self.piece));
                let piece = Piece::File { file: segment, file_offset: at, base: at, end };
                self.wire.send(&ToFunction::Segment { segment, kind: SegmentUse::Once }, Some(file.as_fd()));
                self.wire.send(&ToFunction::Piece { port, piece }, None);
                true
            })
        } else if let Some(ended) = &state.ended {
            let end = ended.clone().map(|()| state.length);
            self.wire.send(&ToFunction::StreamEnd { port, end }, None);
            true
        } else {
            return;
        };
        if !answered {
            let end = Err("no descriptor is left to read it with; raise the limit with 'ulimit -n'".to_owned());
            self.wire.send(&ToFunction::StreamEnd { port, end }, None);
        }
        state.asked = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock in an inconsistent state, so a poisoned state can be used.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file without a name, in the directory for temporary files.
fn unnamed() -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)?.into())
}
