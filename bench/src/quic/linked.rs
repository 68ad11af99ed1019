//! A node with one link, driven by the thread that also writes and reads: a carrier without a store.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use dflow_protocol::limits::ARENA_SLOT;
use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_protocol::{Epoch, RunId, SegmentId, StreamId};
use dflow_shm::{Access, Landing, Memory, Segment, SegmentKind};
use dflow_transport::quic::{Connection, QuicNode, QuicPath};
use dflow_transport::{Chunk, FlowEvent, Link, Local};

use crate::failure::{Failure, Trying};
use crate::ours::WINDOW;
use crate::payload::WORD;
use crate::subject::Side;

/// A reader releases a ring in this many parts, like the reader of a function.
const ROOM_PARTS: u64 = 8;

/// One side: the stream that it currently writes, and the one that it reads.
pub struct Linked {
    link: Link,
    streams: Streams,
    side: Side,
    // Keep the path alive.
    _connection: Connection,
    _node: QuicNode,
}

impl Linked {
    /// Begins a new path on this connection.
    pub fn new(node: QuicNode, connection: Connection, side: Side) -> Result<Linked, Failure> {
        /// The incarnation with which both sides begin.
        const INCARNATION: u64 = 1;
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let path = QuicPath::new(&connection, INCARNATION, waker).trying("begin a path")?;
        let mut link = Link::new(u64::from(std::process::id()));
        link.connect(Box::new(path), INCARNATION);
        let source = window_memory(WINDOW, true)?;
        let streams = Streams::new(source);
        let mut linked = Linked { link, streams, side, _connection: connection, _node: node };
        linked.until(|linked| linked.link.is_up())?;
        Ok(linked)
    }

    /// Memory for a ring that receives a stream.
    pub fn new_ring(&self) -> Result<Arc<Landing>, Failure> {
        landing(WINDOW, true)
    }

    /// Memory for a stream whose bytes arrive inside messages.
    pub fn new_slot(&self) -> Result<Arc<Landing>, Failure> {
        landing(ARENA_SLOT as usize, false)
    }

    /// Begins to read the other side's stream with this number.
    pub fn subscribe(&mut self, number: u64, landing: Arc<Landing>) -> Result<(), Failure> {
        let direction = u64::from(self.side == Side::Second);
        let id = u32::try_from(2 * number + direction).trying("number a stream")?;
        let size = landing.size();
        landing.open(0..size);
        let inline = if landing.is_ring() { 0 } else { ARENA_SLOT };
        let stream = StreamKey::new(RunId(1), StreamId(id), Epoch(1));
        let flow = self.link.subscribe(stream, inline).trying("subscribe to a stream")?;
        if landing.is_ring() {
            self.link.window(flow, &landing, size);
        }
        self.streams.input = Some(Input { number, flow, landing, arrived: 0, read: 0, ended: false });
        self.step()
    }

    /// The number of the stream that it reads.
    pub fn number(&self) -> u64 {
        self.streams.input.as_ref().map_or(0, |input| input.number)
    }

    /// Waits until this many unread bytes have arrived.
    pub fn wait_for_bytes(&mut self, length: u64) -> Result<(), Failure> {
        self.until(|linked| linked.streams.input.as_ref().is_some_and(|input| input.arrived - input.read >= length))
    }

    /// The next unread bytes, for which [`Linked::wait_for_bytes`] has waited.
    pub fn arrived(&self, length: usize) -> &[u64] {
        let Some(input) = &self.streams.input else { return &[] };
        assert!(input.arrived - input.read >= length as u64, "only bytes that have arrived can be read");
        // SAFETY: these bytes are in the memory of the landing (a ring is mapped twice, so also past its end) and have
        // arrived. Nothing lands below the floor of the granted room, which only `consume` raises.
        unsafe { words(input.landing.memory(), input.landing.index(input.read), length) }
    }

    /// Marks this many bytes as read.
    pub fn consume(&mut self, length: usize) {
        let Some(input) = &mut self.streams.input else { return };
        input.read += length as u64;
        let (size, until) = (input.landing.size(), input.read + input.landing.size());
        if input.landing.is_ring() && until - input.landing.room().end >= size / ROOM_PARTS {
            input.landing.open(input.read..until);
            self.link.credit(input.flow, until);
        }
    }

    /// Waits until the stream being read is complete.
    pub fn wait_for_end(&mut self) -> Result<(), Failure> {
        self.until(|linked| linked.streams.input.as_ref().is_some_and(|input| input.ended))
    }

    /// Waits until the other side subscribes to another stream of this side, which then becomes the one being written.
    pub fn wait_for_reader(&mut self) -> Result<(), Failure> {
        self.until(|linked| !linked.streams.readers.is_empty())?;
        self.streams.output.begin(self.streams.readers.pop_front());
        Ok(())
    }

    /// Waits until the window has room for this many more bytes, and returns it.
    pub fn room(&mut self, length: usize) -> Result<&mut [u64], Failure> {
        self.until(|linked| linked.streams.output.unreleased() + length as u64 <= WINDOW as u64)?;
        let Output { memory, written, .. } = &self.streams.output;
        // SAFETY: the range is in the ring, which is mapped twice. The earlier bytes there have been released, so no
        // path reads them any more, and only this thread writes there.
        Ok(unsafe { words_mut(memory, place(*written), length) })
    }

    /// Commits this many more bytes.
    pub fn commit(&mut self, length: usize) {
        let output = &mut self.streams.output;
        output.written += length as u64;
        if let Some(flow) = output.flow {
            self.link.available(flow, output.written);
        }
    }

    /// Finishes the stream being written.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if let Some(flow) = self.streams.output.flow {
            self.link.finish(flow, self.streams.output.written);
        }
        self.step()
    }

    /// Whether neither direction has credit left for bytes inside messages.
    pub fn is_slot_used_up(&self) -> bool {
        let read = self.streams.input.as_ref().map_or(0, |input| input.read);
        read == ARENA_SLOT && self.streams.output.written == ARENA_SLOT
    }

    /// Waits until the other side has received everything.
    pub fn wait_until_released(&mut self) -> Result<(), Failure> {
        self.until(|linked| linked.streams.output.unreleased() == 0)
    }

    /// Does all pending work without waiting.
    pub fn step(&mut self) -> Result<(), Failure> {
        self.link.step(&mut self.streams);
        self.check()
    }

    /// Sends postponed acknowledgements, before this thread does something else.
    pub fn settle(&mut self) -> Result<(), Failure> {
        while let Some(due) = self.link.settle(&mut self.streams) {
            std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
            self.step()?;
        }
        self.step()
    }

    /// Runs the link until the condition holds.
    fn until(&mut self, holds: impl Fn(&Linked) -> bool) -> Result<(), Failure> {
        while !holds(self) {
            let mut busy = self.link.step(&mut self.streams);
            let mut due = None;
            if !busy {
                due = self.link.settle(&mut self.streams);
                busy = self.link.step(&mut self.streams);
            }
            self.check()?;
            if !busy && !holds(self) {
                match due {
                    Some(due) => std::thread::park_timeout(due.saturating_duration_since(Instant::now())),
                    None => std::thread::park(),
                }
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Failure> {
        if let Some(reason) = self.streams.failed.take() {
            return Err(Failure::new(format!("a stream was aborted: {reason}")));
        }
        match self.link.take_events().first() {
            Some(event) => Err(Failure::new(format!("the path is lost: {event:?}"))),
            None => Ok(()),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The streams of one side, as seen by its link.
struct Streams {
    output: Output,
    /// Flows to which the other side has subscribed and to which nothing has been written.
    readers: VecDeque<FlowId>,
    input: Option<Input>,
    failed: Option<String>,
}

/// The stream being written, in a ring.
struct Output {
    memory: Arc<Memory>,
    flow: Option<FlowId>,
    written: u64,
    /// The other side has received all bytes below this offset.
    released: u64,
}

struct Input {
    number: u64,
    flow: FlowId,
    landing: Arc<Landing>,
    arrived: u64,
    read: u64,
    ended: bool,
}

impl Output {
    fn begin(&mut self, flow: Option<FlowId>) {
        (self.flow, self.written, self.released) = (flow, 0, 0);
    }

    fn unreleased(&self) -> u64 {
        self.written - self.released
    }
}

impl Streams {
    fn new(memory: Arc<Memory>) -> Streams {
        let output = Output { memory, flow: None, written: 0, released: 0 };
        Streams { output, readers: VecDeque::new(), input: None, failed: None }
    }

    fn input(&mut self, flow: FlowId) -> Option<&mut Input> {
        self.input.as_mut().filter(|input| input.flow == flow)
    }
}

impl Local for Streams {
    fn chunk(&mut self, flow: FlowId, at: u64, most: u64) -> Option<Chunk> {
        let output = (self.output.flow == Some(flow)).then_some(&self.output)?;
        let length = most.min(output.written.checked_sub(at)?);
        let start = place(at);
        Some(Chunk::new(Arc::clone(&output.memory), start..start + usize::try_from(length).ok()?))
    }

    fn landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        self.input(flow).map(|input| Arc::clone(&input.landing))
    }

    fn handle(&mut self, flow: FlowId, event: FlowEvent) {
        match event {
            FlowEvent::Subscribed { .. } => self.readers.push_back(flow),
            FlowEvent::Acknowledged(upto) if self.output.flow == Some(flow) => self.output.released = upto,
            FlowEvent::Arrived(upto) => {
                if let Some(input) = self.input(flow) {
                    input.arrived = upto;
                }
            }
            FlowEvent::Finished(_) => {
                if let Some(input) = self.input(flow) {
                    input.ended = true;
                }
            }
            FlowEvent::Aborted(reason) => self.failed = Some(reason),
            _ => {}
        }
    }
}

/// The position in the written ring of the byte at a stream offset.
fn place(offset: u64) -> usize {
    (offset % WINDOW as u64) as usize
}

fn landing(size: usize, ring: bool) -> Result<Arc<Landing>, Failure> {
    let window = Window { segment: SegmentId(0), segment_offset: 0, base: 0, size: size as u64, ring };
    Ok(Arc::new(Landing::new(&window, window_memory(size, ring)?, 0)))
}

fn window_memory(size: usize, ring: bool) -> Result<Arc<Memory>, Failure> {
    let segment = Segment::create("bench", size, SegmentKind::FunctionWritten).trying("create a segment")?;
    let memory = if ring {
        Memory::ring(segment.as_fd(), 0, size, Access::Write)
    } else {
        Memory::window(segment.as_fd(), 0, size, Access::Write)
    };
    memory.map(Arc::new).trying("map a window")
}

/// The words of `length` bytes at byte offset `start` of mapped memory.
///
/// # Safety
/// Nobody may write them while the slice is alive.
unsafe fn words(memory: &Memory, start: usize, length: usize) -> &[u64] {
    assert_within(memory, start, length);
    // SAFETY: just checked to be within the mapping and aligned; the caller guarantees that there is no concurrent
    // writer.
    unsafe { std::slice::from_raw_parts(memory.start().add(start).cast().as_ptr(), length / WORD) }
}

/// The same for writing.
///
/// # Safety
/// Nobody else may read or write them while the slice is alive.
#[expect(clippy::mut_from_ref, reason = "the memory is mapped, not owned; the caller guarantees exclusive access")]
unsafe fn words_mut(memory: &Memory, start: usize, length: usize) -> &mut [u64] {
    assert_within(memory, start, length);
    // SAFETY: as in `words`; the caller guarantees exclusive access.
    unsafe { std::slice::from_raw_parts_mut(memory.start().add(start).cast().as_ptr(), length / WORD) }
}

fn assert_within(memory: &Memory, start: usize, length: usize) {
    assert!(start + length <= memory.length() && start.is_multiple_of(WORD), "{length} bytes at {start}");
}
