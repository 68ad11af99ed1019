//! The reading end of an output: writes committed bytes to their sinks.

use super::{LocalError, Sink};
use dflow_protocol::PortId;
use dflow_shm::{Doorbell, Idle, Listener, MemoryPiece, Reader, Seen, Wait, wait};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// How many bytes are written to a sink at once: the function gets room back after each.
const BLOCK: u64 = 256 * 1024;

/// What a drain is told. It is told of a window before the function may write into it.
pub(super) enum Word {
    /// One more stream.
    Open(PortId, Box<Reader>, Box<dyn Sink>),
    /// The stream goes on in this piece, from its first byte on.
    Window(PortId, MemoryPiece),
    /// Nothing more is written to any stream: whether the function has succeeded.
    End(bool),
}

/// The thread that drains one output.
pub(super) struct Drain {
    words: Sender<Word>,
    bell: Arc<Doorbell>,
    thread: JoinHandle<Result<(), LocalError>>,
}

impl Drain {
    /// Starts the thread. `unread` is called with a port that nobody reads any more.
    pub(super) fn start(output: String, unread: impl Fn(PortId) + Send + 'static) -> Result<Self, LocalError> {
        let (words, queue) = channel();
        let bell = Arc::new(Doorbell::default());
        let listener = Listener::new(Arc::clone(&bell));
        let work = Work { output, queue, listener, parts: HashMap::new(), end: None, failed: None };
        let thread = std::thread::Builder::new()
            .name("dflow-output".into())
            .spawn(move || work.run(&unread))
            .map_err(|source| LocalError::System { action: "start a thread that writes an output", source })?;
        Ok(Self { words, bell, thread })
    }

    /// Says something to the thread.
    pub(super) fn tell(&self, word: Word) {
        // It ends before it is told to only by a panic, which `join` reports.
        let _ = self.words.send(word);
        self.bell.ring();
    }

    /// Waits until everything is written.
    pub(super) fn join(self) -> Result<(), LocalError> {
        self.thread.join().unwrap_or_else(|_| {
            let source = std::io::Error::other("its thread panicked");
            Err(LocalError::System { action: "write an output", source })
        })
    }
}

struct Work {
    output: String,
    queue: Receiver<Word>,
    listener: Listener,
    parts: HashMap<PortId, Part>,
    end: Option<bool>,
    failed: Option<std::io::Error>,
}

/// One stream.
struct Part {
    reader: Reader,
    /// The piece behind the present one.
    next: Option<MemoryPiece>,
    sink: Box<dyn Sink>,
    /// Nobody reads it any more, or it cannot be written: its bytes are dropped.
    closed: bool,
}

impl Work {
    fn run(mut self, unread: &dyn Fn(PortId)) -> Result<(), LocalError> {
        loop {
            self.listener.hear();
            // The words first, then the queue: a window is queued before the function may write into it.
            let seen: Vec<(PortId, Seen)> =
                self.parts.iter_mut().map(|(&port, part)| (port, part.reader.look())).collect();
            if self.listen() {
                continue;
            }
            if self.end == Some(false) {
                break;
            }
            let mut busy = false;
            for (port, seen) in seen {
                busy |= self.step(port, seen, unread);
            }
            if busy {
                continue;
            }
            if self.end.is_some() {
                break;
            }
            let readers = self.parts.values_mut().map(|part| &mut part.reader as &mut dyn Wait);
            let mut ports: Vec<&mut dyn Wait> = readers.collect();
            ports.push(&mut self.listener);
            wait(&mut ports, None, Idle::SLEEP, None);
        }
        self.finish()
    }

    /// Does what the thread was told; whether it was told something.
    fn listen(&mut self) -> bool {
        let mut told = false;
        while let Ok(word) = self.queue.try_recv() {
            told = true;
            match word {
                Word::Open(port, reader, sink) => {
                    self.parts.insert(port, Part { reader: *reader, next: None, sink, closed: false });
                }
                Word::Window(port, piece) => {
                    if let Some(part) = self.parts.get_mut(&port) {
                        part.reader.set_end(piece.base);
                        part.next = Some(piece);
                    }
                }
                Word::End(well) => self.end = Some(well),
            }
        }
        told
    }

    /// Does what a look at one stream has found; whether that was something.
    fn step(&mut self, port: PortId, seen: Seen, unread: &dyn Fn(PortId)) -> bool {
        let Some(part) = self.parts.get_mut(&port) else { return false };
        match seen {
            Seen::Bytes(length) => {
                let length = length.min(BLOCK);
                if !part.closed
                    && let Err(error) = part.sink.write_all(part.reader.bytes(length))
                {
                    part.closed = true;
                    if error.kind() != ErrorKind::BrokenPipe {
                        self.failed.get_or_insert(error);
                    }
                    unread(port);
                }
                part.reader.consume(length);
                part.reader.publish();
                true
            }
            Seen::NeedPiece => match part.next.take() {
                Some(next) => {
                    part.reader.set_piece(next);
                    true
                }
                None => false,
            },
            Seen::Nothing | Seen::End | Seen::Aborted | Seen::Violation => false,
        }
    }

    fn finish(self) -> Result<(), LocalError> {
        let mut failed = self.failed;
        let complete = self.end == Some(true) && failed.is_none();
        for part in self.parts.into_values() {
            match part.sink.finish(complete) {
                // Buffered bytes that nobody reads any more, as in a write.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => _ = failed.get_or_insert(error),
                _ => {}
            }
        }
        failed.map_or(Ok(()), |source| Err(LocalError::Output { output: self.output, source }))
    }
}
