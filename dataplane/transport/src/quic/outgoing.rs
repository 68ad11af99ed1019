//! What leaves on one path: messages on one stream, each flow on one of its own.

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

/// A large chunk is sent in parts of this size, in bytes: what stays in a core's own cache.
const PART: usize = 64 * 1024;
/// A chunk of fewer bytes gets memory of its own size.
const SMALL: usize = 16 * 1024;
/// The most parts that are copied before they are sent.
const MAX_PARTS: usize = 4;
/// The most free parts that are kept for later.
const MAX_FREE: usize = 64;
/// A flow goes before others until it has sent so many bytes.
const NEW: u64 = 64 * 1024;

const PRIORITY_MESSAGES: i32 = 2;
const PRIORITY_NEW: i32 = 1;
const PRIORITY_LARGE: i32 = 0;

/// The code with which a stream of a path is reset that is over.
const OVER: VarInt = VarInt::from_u32(2);

/// How many bytes of a path are under way: handed over and not acknowledged.
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
        // Once more: what was let go of in between has not seen that somebody waits.
        self.bytes.load(Ordering::SeqCst) < self.limit
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    fn release(&self, bytes: usize) {
        let left = self.bytes.fetch_sub(bytes as u64, Ordering::SeqCst).saturating_sub(bytes as u64);
        // Half of it at a time, so that a wake-up is worth its while; the other half keeps the network busy.
        if left <= self.limit / 2 && self.starved.load(Ordering::SeqCst) && self.starved.swap(false, Ordering::SeqCst) {
            self.receiving.room();
        }
    }
}

/// Memory of bytes under way, which were counted when they were queued; quinn lets go of it when they are acknowledged.
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

    /// Copies what fits of the chunk from `at` on; how much that was.
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

/// How the stream of a flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Behind what is queued.
    Finish,
    /// At once.
    Reset,
}

/// The queue of a flow that leaves here, between the link's thread and the endpoint's. Chunks wait in it as they are, and
/// are copied by the thread that encrypts them next.
pub(super) struct OutFlow {
    queue: Mutex<OutQueue>,
    gauge: Arc<Gauge>,
    news: Notify,
    /// It ends at once.
    cut: Notify,
}

#[derive(Default)]
struct OutQueue {
    chunks: VecDeque<Chunk>,
    /// How much of the first chunk has been taken.
    taken: usize,
    /// Bytes that have not been taken.
    bytes: usize,
    /// The offset at which the next bytes belong.
    next: u64,
    end: Option<End>,
    /// The other side does not want the bytes.
    unwanted: bool,
}

impl OutFlow {
    pub(super) fn new(start: u64, gauge: Arc<Gauge>) -> Self {
        let queue = OutQueue { next: start, ..OutQueue::default() };
        Self { queue: Mutex::new(queue), gauge, news: Notify::new(), cut: Notify::new() }
    }

    /// Queues a chunk that belongs at `at`; `false` if that is not where the last one ended.
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

    /// Nothing more is written. What is still queued nobody waits for: a flow that was read to its end has no such bytes.
    pub(super) fn finish(&self) {
        if self.drop_queued(|queue| _ = queue.end.get_or_insert(End::Finish)) {
            self.cut.notify_one();
        } else {
            self.news.notify_one();
        }
    }

    /// The path is over. When it returns, no chunk is read any more.
    pub(super) fn reset(&self) {
        self.drop_queued(|queue| queue.end = Some(End::Reset));
        self.cut.notify_one();
    }

    /// Forgets what is queued, and what will be; whether there was something.
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

    async fn next(&self) -> Result<Vec<Bytes>, End> {
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

    /// Copies the next part of what is queued: small chunks behind each other become one. If there is nothing: how it ends,
    /// if it does.
    fn take(&self) -> Result<Buffer, Option<End>> {
        // The lock is held meanwhile, so that whoever ends the flow knows that no chunk is read any more.
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

/// Writes the flow's bytes to a stream of its own until it ends.
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
            Err(End::Finish) => {
                stream.finish();
                return Ok(());
            }
            Err(End::Reset) => return Ok(()),
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

/// A stream that is reset if it goes before it was finished.
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
        // Dropping it finishes it.
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

/// Encoded messages that wait to be written.
#[derive(Default)]
pub(super) struct Outbox {
    pending: Mutex<Vec<u8>>,
    news: Notify,
    cut: Notify,
}

impl Outbox {
    /// Queues a message; `false` if it would be more than `most` bytes.
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

    /// The stream ends at once.
    pub(super) fn close(&self) {
        self.cut.notify_one();
    }
}

/// Writes messages to a stream of their own.
pub(super) async fn write_messages(quic: Connection, incarnation: u64, outbox: Arc<Outbox>, gauge: Arc<Gauge>) {
    tokio::select! {
        biased;
        () = outbox.cut.notified() => {}
        // What goes wrong here has gone wrong with the connection, and is told by whoever looks after that.
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
