//! The sending half of a path: messages on one QUIC stream, each flow on a stream of its own.

use super::header::{Content, Header};
use super::incoming::Receiving;
use super::lock;
use crate::chunk::Chunk;
use bytes::Bytes;
use dflow_protocol::wire::FlowId;
use quinn::{Connection, SendStream, VarInt, WriteError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// A large chunk is sent in parts of this size, in bytes. A part stays in the core's cache between the copy and the
/// encryption.
const PART: usize = 64 * 1024;
/// A smaller chunk gets a buffer of its own size.
const SMALL: usize = 16 * 1024;
/// The most parts that are copied ahead of sending.
const MAX_PARTS: usize = 4;
/// The most buffers that are kept for reuse.
const MAX_FREE: usize = 64;
/// A flow has priority until it has sent this many bytes, so that small streams do not queue behind large ones.
const NEW: u64 = 64 * 1024;

const PRIORITY_MESSAGES: i32 = 2;
const PRIORITY_NEW: i32 = 1;
const PRIORITY_LARGE: i32 = 0;

/// The code with which the streams of a closed path are reset.
const OVER: VarInt = VarInt::from_u32(2);

/// The bytes of a path that are in flight: handed over and not acknowledged.
pub(super) struct Gauge {
    bytes: AtomicU64,
    limit: u64,
    /// The link waits for room.
    starved: AtomicBool,
    free: Mutex<Vec<Vec<u8>>>,
    receiving: Arc<Receiving>,
}

impl Gauge {
    pub(super) fn new(limit: u64, receiving: Arc<Receiving>) -> Self {
        Self { bytes: AtomicU64::new(0), limit, starved: AtomicBool::new(false), free: Mutex::default(), receiving }
    }

    pub(super) fn has_room(&self) -> bool {
        if self.bytes.load(Ordering::SeqCst) < self.limit {
            return true;
        }
        self.starved.store(true, Ordering::SeqCst);
        // Checked again: a release between the check and the store has not seen the flag.
        self.bytes.load(Ordering::SeqCst) < self.limit
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    fn release(&self, bytes: usize) {
        let left = self.bytes.fetch_sub(bytes as u64, Ordering::SeqCst).saturating_sub(bytes as u64);
        // Woken only at half: that saves wake-ups, and the other half keeps the network busy meanwhile.
        if left <= self.limit / 2 && self.starved.load(Ordering::SeqCst) && self.starved.swap(false, Ordering::SeqCst) {
            self.receiving.room();
        }
    }
}

/// Bytes in flight. They were counted when they were queued; quinn drops the buffer when they are acknowledged.
struct Buffer {
    memory: Vec<u8>,
    filled: usize,
    gauge: Arc<Gauge>,
}

impl Buffer {
    fn with_room(bytes: usize, gauge: &Arc<Gauge>) -> Self {
        let memory = if bytes < SMALL {
            vec![0; bytes.next_power_of_two().max(256)]
        } else {
            lock(&gauge.free).pop().unwrap_or_else(|| vec![0; PART])
        };
        Self { memory, filled: 0, gauge: gauge.clone() }
    }

    fn from_messages(memory: Vec<u8>, gauge: &Arc<Gauge>) -> Self {
        Self { filled: memory.len(), memory, gauge: gauge.clone() }
    }

    /// Copies as much of the chunk as fits, from `at` on. Returns the number of bytes.
    fn fill(&mut self, chunk: &Chunk, at: usize) -> usize {
        let length = (chunk.len() - at).min(self.memory.len() - self.filled);
        chunk.bytes().slice(at..at + length).copy_to(&mut self.memory[self.filled..self.filled + length]);
        self.filled += length;
        length
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() == PART {
            let mut free = lock(&self.gauge.free);
            if free.len() < MAX_FREE {
                free.push(std::mem::take(&mut self.memory));
            }
        }
        self.gauge.release(self.filled);
    }
}

/// How the QUIC stream of a flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// After everything that is queued.
    Finish,
    /// At once.
    Reset,
}

/// The queue of an outgoing flow, between the link's thread and the endpoint's. Chunks are queued without a copy; the
/// endpoint's thread copies them, because it encrypts them next and has them in its cache.
pub(super) struct OutFlow {
    queue: Mutex<OutQueue>,
    gauge: Arc<Gauge>,
    news: Notify,
    /// Notified when the stream must end at once.
    cut: Notify,
}

#[derive(Default)]
struct OutQueue {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that have been taken.
    taken: usize,
    /// Queued bytes that have not been taken.
    bytes: usize,
    /// The stream offset of the next bytes.
    next: u64,
    end: Option<Ending>,
    /// The peer does not read the flow any more.
    unwanted: bool,
}

impl OutFlow {
    pub(super) fn new(start: u64, gauge: Arc<Gauge>) -> Self {
        let queue = OutQueue { next: start, ..OutQueue::default() };
        Self { queue: Mutex::new(queue), gauge, news: Notify::new(), cut: Notify::new() }
    }

    /// Queues a chunk at the stream offset `at`; `false` if it does not follow the one before.
    pub(super) fn write(&self, at: u64, chunk: Chunk) -> bool {
        let mut queue = lock(&self.queue);
        if at != queue.next {
            return false;
        }
        queue.next += chunk.len() as u64;
        if !queue.unwanted {
            self.gauge.add(chunk.len());
            queue.bytes += chunk.len();
            queue.chunks.push_back(chunk);
            drop(queue);
            self.news.notify_one();
        }
        true
    }

    /// The flow is over. Queued bytes are dropped: a flow that was read to its end has none.
    pub(super) fn finish(&self) {
        if self.drop_queued(|queue| _ = queue.end.get_or_insert(Ending::Finish)) {
            self.cut.notify_one();
        } else {
            self.news.notify_one();
        }
    }

    /// The path is closed. After this returns, no chunk is read.
    pub(super) fn reset(&self) {
        self.drop_queued(|queue| queue.end = Some(Ending::Reset));
        self.cut.notify_one();
    }

    /// Drops all queued and later bytes. Returns whether any were queued.
    fn drop_queued(&self, change: impl FnOnce(&mut OutQueue)) -> bool {
        let mut queue = lock(&self.queue);
        change(&mut queue);
        queue.unwanted = true;
        queue.chunks.clear();
        let bytes = std::mem::take(&mut queue.bytes);
        drop(queue);
        self.gauge.release(bytes);
        bytes > 0
    }

    async fn next(&self) -> Result<Vec<Bytes>, Ending> {
        loop {
            let mut buffers = Vec::new();
            let mut end = None;
            while buffers.len() < MAX_PARTS {
                match self.take() {
                    Ok(buffer) => buffers.push(Bytes::from_owner(buffer)),
                    Err(its_end) => {
                        end = its_end;
                        break;
                    }
                }
            }
            match end {
                _ if !buffers.is_empty() => return Ok(buffers),
                Some(end) => return Err(end),
                None => self.news.notified().await,
            }
        }
    }

    /// Copies the next part of the queue, joining small chunks. If the queue is empty, the error says how the stream ends,
    /// or `None` if it does not yet.
    fn take(&self) -> Result<Buffer, Option<Ending>> {
        // Locked during the copy: `reset` promises that no chunk is read after it returns.
        let mut queue = lock(&self.queue);
        if queue.bytes == 0 {
            return Err(queue.end);
        }
        let mut buffer = Buffer::with_room(queue.bytes.min(PART), &self.gauge);
        while let Some(chunk) = queue.chunks.front() {
            let length = chunk.len();
            let copied = buffer.fill(chunk, queue.taken);
            queue.bytes -= copied;
            queue.taken += copied;
            if queue.taken < length {
                break;
            }
            queue.taken = 0;
            queue.chunks.pop_front();
        }
        Ok(buffer)
    }
}

/// Writes the flow's bytes to its stream until it ends.
pub(super) async fn write_flow(quic: Connection, incarnation: u64, flow: FlowId, start: u64, out: Arc<OutFlow>) {
    let header = Header { incarnation, content: Content::Flow { flow, start } };
    tokio::select! {
        biased;
        () = out.cut.notified() => {}
        outcome = send_flow(&quic, header, &out) => {
            if outcome.is_err() {
                out.drop_queued(|_| ());
            }
        }
    }
}

async fn send_flow(quic: &Connection, header: Header, out: &OutFlow) -> Result<(), WriteError> {
    let mut stream = Outgoing::open(quic, PRIORITY_NEW).await?;
    let mut sent = 0;
    let mut chunks = vec![Bytes::copy_from_slice(&header.encode())];
    loop {
        match out.next().await {
            Ok(next) => chunks.extend(next),
            Err(Ending::Finish) => {
                stream.finish();
                return Ok(());
            }
            Err(Ending::Reset) => return Ok(()),
        }
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        stream.write(&mut chunks).await?;
        chunks.clear();
        let before = sent;
        sent += bytes as u64;
        if before < NEW && sent >= NEW {
            stream.set_priority(PRIORITY_LARGE);
        }
    }
}

/// A stream that is reset when it is dropped before it was finished.
struct Outgoing(Option<SendStream>);

impl Outgoing {
    async fn open(quic: &Connection, priority: i32) -> Result<Self, WriteError> {
        let stream = quic.open_uni().await?;
        let _ = stream.set_priority(priority);
        Ok(Self(Some(stream)))
    }

    fn set_priority(&self, priority: i32) {
        if let Some(stream) = &self.0 {
            let _ = stream.set_priority(priority);
        }
    }

    async fn write(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        match &mut self.0 {
            Some(stream) => stream.write_all_chunks(chunks).await,
            None => Err(WriteError::ClosedStream),
        }
    }

    fn finish(mut self) {
        // quinn finishes a stream that is dropped.
        self.0 = None;
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            let _ = stream.reset(OVER);
        }
    }
}

/// The queue of encoded messages.
#[derive(Default)]
pub(super) struct Outbox {
    pending: Mutex<Vec<u8>>,
    news: Notify,
    cut: Notify,
}

impl Outbox {
    /// Queues a message; `false` if the queue would exceed `most` bytes.
    pub(super) fn push(&self, message: &[u8], most: usize, gauge: &Gauge) -> bool {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut pending = lock(&self.pending);
        if pending.len() + length.len() + message.len() > most {
            return false;
        }
        pending.extend_from_slice(&length);
        pending.extend_from_slice(message);
        drop(pending);
        gauge.add(length.len() + message.len());
        self.news.notify_one();
        true
    }

    /// Ends the stream at once.
    pub(super) fn close(&self) {
        self.cut.notify_one();
    }
}

/// Writes the messages to their stream.
pub(super) async fn write_messages(quic: Connection, incarnation: u64, outbox: Arc<Outbox>, gauge: Arc<Gauge>) {
    tokio::select! {
        biased;
        () = outbox.cut.notified() => {}
        // An error means that the connection is gone, which `serve` reports.
        _ = send_messages(&quic, incarnation, &outbox, &gauge) => {}
    }
}

async fn send_messages(
    quic: &Connection,
    incarnation: u64,
    outbox: &Outbox,
    gauge: &Arc<Gauge>,
) -> Result<(), WriteError> {
    let mut stream = Outgoing::open(quic, PRIORITY_MESSAGES).await?;
    let header = Header { incarnation, content: Content::Messages };
    stream.write(&mut [Bytes::copy_from_slice(&header.encode())]).await?;
    loop {
        let messages = std::mem::take(&mut *lock(&outbox.pending));
        if messages.is_empty() {
            outbox.news.notified().await;
            continue;
        }
        stream.write(&mut [Bytes::from_owner(Buffer::from_messages(messages, gauge))]).await?;
    }
}
