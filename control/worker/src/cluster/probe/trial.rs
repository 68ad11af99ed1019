//! Transfers test bytes over a path in both directions and verifies them.
//!
//! The asking end reads first and writes once it has read everything; the answering end follows. So each direction has
//! the link to itself. The amount adapts to the speed of the reader: about [`DURATION`] worth of bytes.

use crate::peer::probing::Measured;
use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_protocol::{Epoch, RunId, SegmentId, StreamId};
use dflow_shm::{Access, Doorbell, Idle, Landing, Listener, Memory, Segment, SegmentError, SegmentKind, wait_at_most};
use dflow_transport::{Chunk, FlowEvent, Link, LinkEvent, Local, Path};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one end writes.
const DURATION: Duration = Duration::from_millis(300);
/// The most bytes that one end writes.
const MOST: u64 = 4 << 30;
/// How far the writer may be ahead of the reader: initially, and at most.
const FIRST: u64 = 256 << 10;
const AHEAD: u64 = 8 << 20;
/// The window at the reading end.
const WINDOW: usize = 4 << 20;
/// The period of the test pattern: a prime, so that a position of a window never receives the same bytes twice in a
/// row.
const PERIOD: usize = 1_048_573;
/// A path on which nothing arrives for this long is considered lost.
const SILENCE: Duration = Duration::from_secs(3);
/// The longest sleep of the thread.
const NAP: Duration = Duration::from_millis(20);

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Asks,
    Answers,
}

/// A trial of one path. Dropping it closes the path.
pub(super) struct Trial {
    bell: Arc<Doorbell>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trial {
    /// Starts the thread, still without a path.
    pub(super) fn new() -> Self {
        Self { bell: Arc::default(), over: Arc::default(), thread: None }
    }

    /// The waker of its thread, for the path that is created for it.
    pub(super) fn waker(&self) -> Waker {
        self.bell.waker()
    }

    /// Runs the trial over this path. `report` is called once, with the throughput at this end if every byte arrived
    /// and was correct, or with the reason otherwise.
    ///
    /// # Errors
    /// If there is no memory or no thread for it.
    pub(super) fn run(
        &mut self,
        path: Box<dyn Path>,
        number: u64,
        end: End,
        report: impl FnOnce(Result<Measured, String>) + Send + 'static,
    ) -> Result<(), String> {
        let mut ends = Ends::new(end).map_err(|error| error.to_string())?;
        let listener = Listener::new(Arc::clone(&self.bell));
        let over = Arc::clone(&self.over);
        let work = move || {
            let mut link = Link::new(crate::time::random_u64());
            link.connect(path, number);
            ends.drive(&mut link, listener, &over, report);
        };
        let thread = std::thread::Builder::new().name("probe".into()).spawn(work);
        self.thread = Some(thread.map_err(|error| format!("cannot start a thread: {error}"))?);
        Ok(())
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

/// The stream that each end writes.
fn stream(end: End) -> StreamKey {
    let number = match end {
        End::Asks => 1,
        End::Answers => 2,
    };
    StreamKey::new(RunId(0), StreamId(number), Epoch(1))
}

/// Both streams, as one end sees them.
struct Ends {
    end: End,
    pattern: Pattern,
    /// The flow that this end writes, once the other end has subscribed to it.
    writing: Option<Writing>,
    reading: Option<FlowId>,
    landing: Arc<Landing>,
    /// Bytes that have arrived, and how many of them have been verified.
    arrived: u64,
    read: u64,
    /// When the first bytes arrived, and how many they were; when the last arrived.
    first: Option<(Instant, u64)>,
    last: Instant,
    ended: Option<u64>,
    problem: Option<String>,
    begun: Instant,
}

struct Writing {
    flow: FlowId,
    available: u64,
    released: u64,
    until: Option<Instant>,
    finished: bool,
}

impl Ends {
    fn new(end: End) -> Result<Self, SegmentError> {
        let segment = Segment::create("probe", WINDOW, SegmentKind::FunctionWritten)?;
        let memory = Arc::new(Memory::ring(segment.as_fd(), 0, WINDOW, Access::Write)?);
        let size = WINDOW as u64;
        let window = Window { segment: SegmentId(0), segment_offset: 0, base: 0, size, ring: true };
        let landing = Arc::new(Landing::new(&window, memory, 0));
        landing.open(0..size);
        let now = Instant::now();
        Ok(Self {
            end,
            pattern: Pattern::new()?,
            writing: None,
            reading: None,
            landing,
            arrived: 0,
            read: 0,
            first: None,
            last: now,
            ended: None,
            problem: None,
            begun: now,
        })
    }

    fn drive(
        &mut self,
        link: &mut Link,
        mut listener: Listener,
        over: &AtomicBool,
        report: impl FnOnce(Result<Measured, String>),
    ) {
        let mut report = Some(report);
        let mut say = |result| {
            if let Some(report) = report.take() {
                report(result);
            }
        };
        let theirs = stream(if self.end == End::Asks { End::Answers } else { End::Asks });
        match link.subscribe(theirs, 0) {
            Ok(flow) => {
                self.reading = Some(flow);
                link.window(flow, &self.landing, WINDOW as u64);
            }
            Err(error) => return say(Err(error.to_string())),
        }
        while !over.load(Ordering::Acquire) {
            listener.hear();
            let now = Instant::now();
            let busy = self.work(link, now) | link.step(self);
            for event in link.take_events() {
                let (LinkEvent::PathLost(dflow_transport::PathError::Lost { reason, .. })
                | LinkEvent::Violated(reason)) = &event
                else {
                    continue;
                };
                return say(Err(reason.clone()));
            }
            if link.path_kind().is_none() {
                return say(Err("the path is lost".to_owned()));
            }
            if let Some(problem) = self.problem.take() {
                return say(Err(problem));
            }
            if self.ended == Some(self.read) {
                say(Ok(self.measured()));
            }
            if !busy {
                let due = link.settle(self);
                link.tick(now, SILENCE);
                let limit = due.map_or(NAP, |due| due.saturating_duration_since(now).min(NAP));
                wait_at_most(&mut [&mut listener], None, Idle::SLEEP, limit);
            }
        }
    }

    /// Verifies what has arrived and writes as far as credit allows. Returns whether there was anything to do.
    fn work(&mut self, link: &mut Link, now: Instant) -> bool {
        let mut busy = false;
        if self.read < self.arrived {
            busy = true;
            self.look();
            let until = self.read + WINDOW as u64;
            if let Some(flow) = self.reading.filter(|_| self.ended.is_none()) {
                self.landing.open(self.arrived..until);
                link.credit(flow, until);
            }
        }
        let may_write = self.end == End::Answers || self.ended == Some(self.read);
        if let Some(writing) = self.writing.as_mut().filter(|writing| may_write && !writing.finished) {
            busy |= writing.go_on(link, now);
        }
        busy
    }

    fn look(&mut self) {
        let length = usize::try_from(self.arrived - self.read).unwrap_or(0);
        let index = self.landing.index(self.read);
        let mut bytes = vec![0; length];
        self.landing.memory().shared(index..index + length).copy_to(&mut bytes);
        if let Some(wrong) = self.pattern.first_wrong(self.read, &bytes) {
            let at = self.read + wrong as u64;
            self.problem.get_or_insert(format!("byte {at} of {} is not what was sent", self.arrived));
        }
        self.read = self.arrived;
    }

    fn measured(&self) -> Measured {
        let nanos = |since: Instant| crate::time::nanos(self.last.saturating_duration_since(since));
        match self.first {
            // The first bytes are not counted: their delay includes the time until the other end began.
            Some((at, bytes)) if self.read > bytes && self.last > at => {
                Measured { bytes: self.read - bytes, nanos: nanos(at) }
            }
            _ => Measured { bytes: self.read, nanos: nanos(self.begun) },
        }
    }
}

impl Writing {
    fn go_on(&mut self, link: &mut Link, now: Instant) -> bool {
        let until = *self.until.get_or_insert(now + DURATION);
        if now >= until || self.available >= MOST {
            self.finished = true;
            link.finish(self.flow, self.available);
            return true;
        }
        let ahead = (self.released + FIRST).min(AHEAD);
        let wanted = (self.released + ahead).min(MOST);
        if wanted <= self.available {
            return false;
        }
        self.available = wanted;
        link.available(self.flow, wanted);
        true
    }
}

impl Local for Ends {
    fn chunk(&mut self, flow: FlowId, at: u64, most: u64) -> Option<Chunk> {
        let writing = self.writing.as_ref().filter(|writing| writing.flow == flow)?;
        Some(self.pattern.chunk(at, most.min(writing.available.checked_sub(at)?)))
    }

    fn landing(&mut self, flow: FlowId) -> Option<Arc<Landing>> {
        (self.reading == Some(flow)).then(|| Arc::clone(&self.landing))
    }

    fn handle(&mut self, flow: FlowId, event: FlowEvent) {
        match event {
            FlowEvent::Subscribed { stream: key, from } if key == stream(self.end) => {
                self.writing = Some(Writing { flow, available: from, released: from, until: None, finished: false });
            }
            FlowEvent::Acknowledged(upto) => {
                if let Some(writing) = self.writing.as_mut().filter(|writing| writing.flow == flow) {
                    writing.released = upto;
                }
            }
            FlowEvent::Unsubscribed => self.writing = self.writing.take().filter(|writing| writing.flow != flow),
            FlowEvent::Arrived(upto) if self.reading == Some(flow) => {
                self.last = Instant::now();
                self.arrived = upto;
                self.first.get_or_insert((self.last, upto));
                self.landing.open(upto..self.landing.room().end);
            }
            FlowEvent::Finished(length) if self.reading == Some(flow) => self.ended = Some(length),
            FlowEvent::Aborted(reason) => {
                self.problem.get_or_insert(format!("the other end aborted it: {reason}"));
            }
            _ => {}
        }
    }
}

/// The test pattern, which both ends can compute.
struct Pattern {
    bytes: Vec<u8>,
    memory: Arc<Memory>,
}

impl Pattern {
    fn new() -> Result<Self, SegmentError> {
        // SplitMix64: statistically random, and the same on every machine.
        let word = |index: u64| {
            let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (word ^ (word >> 31)).to_le_bytes()
        };
        let mut bytes: Vec<u8> = (1..=PERIOD.div_ceil(8) as u64).flat_map(word).collect();
        bytes.truncate(PERIOD);
        let length = PERIOD.next_power_of_two();
        let segment = Segment::create("probe", length, SegmentKind::FunctionWritten)?;
        let memory = Arc::new(segment.map(Access::Write)?);
        let size = length as u64;
        let window = Window { segment: SegmentId(0), segment_offset: 0, base: 0, size, ring: false };
        let place = Landing::new(&window, Arc::clone(&memory), 0);
        place.open(0..size);
        // The slice has this length.
        let _ = place.place(0, &bytes);
        Ok(Self { bytes, memory })
    }

    /// The pattern's bytes from this offset on, at most `length`.
    fn chunk(&self, at: u64, most: u64) -> Chunk {
        let start = place(at);
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(PERIOD - start);
        Chunk::new(Arc::clone(&self.memory), start..start + length)
    }

    /// The position of the first of these bytes that differs from the pattern at this offset.
    fn first_wrong(&self, at: u64, bytes: &[u8]) -> Option<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let start = place(at + done as u64);
            let length = (bytes.len() - done).min(PERIOD - start);
            let (got, expected) = (&bytes[done..done + length], &self.bytes[start..start + length]);
            if got != expected {
                let wrong = got.iter().zip(expected).position(|(got, expected)| got != expected);
                return wrong.map(|wrong| done + wrong);
            }
            done += length;
        }
        None
    }
}

fn place(at: u64) -> usize {
    usize::try_from(at % PERIOD as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_is_found_wherever_it_is() {
        let pattern = Pattern::new().unwrap();
        let at = PERIOD as u64 * 3 - 10;
        let mut bytes = [pattern.chunk(at, 100).to_vec(), pattern.chunk(at + 10, 90).to_vec()].concat();
        assert_eq!(bytes.len(), 100, "a chunk ends where the pattern does");
        assert_eq!(pattern.first_wrong(at, &bytes), None);
        for index in [0, 9, 10, 99] {
            bytes[index] ^= 1;
            assert_eq!(pattern.first_wrong(at, &bytes), Some(index));
            bytes[index] ^= 1;
        }
        assert!(pattern.first_wrong(at + WINDOW as u64, &bytes).is_some(), "what a window held before is wrong");
    }
}
