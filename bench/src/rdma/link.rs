//! dflow's link over its RDMA path: everything that a stream between two nodes passes, except the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dflow_protocol::wire::{FlowId, StreamKey};
use dflow_protocol::{Epoch, RunId, StreamId};
use dflow_shm::{Doorbell, Idle, Landing, Listener, Memory, wait_at_most};
use dflow_transport::rdma::{SPIN, default_idle};
use dflow_transport::{Chunk, FlowEvent, Link, Local};

use super::path::{RING, check, mark, ring, window};
use super::{Chunks, Machine, Patience, Side, Transfer, Work, timed};
use crate::failure::{Failure, Trying};
use crate::subject::{Card, Role, Subject, Waiting};

/// The interval at which an idle thread wakes.
const TICK: Duration = Duration::from_millis(100);

/// The link, driven like the carrier's thread, with one of the path's idle strategies.
pub enum OurLink {
    /// Never sleeps, like the programs of perftest.
    Spin,
    /// Spins briefly before it sleeps.
    SpinThenSleep,
    /// Sleeps at once.
    Sleep,
}

impl Default for OurLink {
    /// The strategy of [`default_idle`] on this machine.
    fn default() -> OurLink {
        if default_idle() == Idle::SLEEP { OurLink::Sleep } else { OurLink::SpinThenSleep }
    }
}

impl OurLink {
    fn idle(&self) -> Idle {
        match self {
            OurLink::Spin => Idle::SPIN,
            OurLink::SpinThenSleep => Idle { spin: SPIN },
            OurLink::Sleep => Idle::SLEEP,
        }
    }
}

impl Subject for OurLink {
    fn card(&self) -> Card {
        Card {
            name: match self {
                OurLink::Spin => "dflow-link-spin",
                OurLink::SpinThenSleep => "dflow-link-brief",
                OurLink::Sleep => "dflow-link-sleep",
            },
            about: match self {
                OurLink::Spin => "dflow's streams over that path, flows, credit and windows included; --rdma-idle spin",
                OurLink::SpinThenSleep => "the same, asleep when nothing has come for 50 µs; --rdma-idle 50us",
                OurLink::Sleep => "the same, asleep whenever there is nothing to do; --rdma-idle sleep",
            },
            role: Role::Ours,
            waiting: match self {
                OurLink::Spin => Waiting::Spinning,
                OurLink::SpinThenSleep | OurLink::Sleep => Waiting::Sleeping,
            },
        }
    }
}

impl Transfer for OurLink {
    fn chunks(&self, machine: &mut Machine, work: &Work) -> Result<Option<Box<dyn Chunks>>, Failure> {
        Ok(Some(Box::new(Driver::connect(machine, work.size, self.idle())?)))
    }

    fn stream(&self, machine: &mut Machine, work: &Work) -> Result<Option<Duration>, Failure> {
        let mut driver = Driver::connect(machine, work.size, self.idle())?;
        machine.line.swap(&())?;
        let total = work.count * work.size as u64;
        let mut took = None;
        if machine.side == Side::First {
            took = timed(|| {
                for _ in 0..work.count {
                    driver.write()?;
                    // The link sees it in its next turn, as the carrier does with a function's commit.
                    driver.step()?;
                }
                driver.until(|streams| streams.released == total)
            })?;
            // One more chunk, so that the other machine knows when to stop.
            driver.write()?;
            driver.step()?;
        } else {
            while driver.streams.arrived < total + driver.size {
                driver.until(|streams| streams.arrived > streams.read)?;
                driver.read();
            }
        }
        driver.part(machine)?;
        Ok(took)
    }
}

/// The state that the store would keep of the two streams, one in each direction.
struct Streams {
    outgoing: Option<FlowId>,
    source: Arc<Memory>,
    written: u64,
    released: u64,
    sink: Arc<Landing>,
    arrived: u64,
    read: u64,
    aborted: Option<String>,
}

impl Local for Streams {
    fn chunk(&mut self, _: FlowId, at: u64, most: u64) -> Option<Chunk> {
        let length = most.min(self.written.checked_sub(at)?) as usize;
        let start = (at % self.sink.size()) as usize;
        Some(Chunk::new(Arc::clone(&self.source), start..start + length))
    }

    fn landing(&mut self, _: FlowId) -> Option<Arc<Landing>> {
        Some(Arc::clone(&self.sink))
    }

    fn handle(&mut self, flow: FlowId, event: FlowEvent) {
        match event {
            FlowEvent::Subscribed { .. } => self.outgoing = Some(flow),
            FlowEvent::Acknowledged(upto) => self.released = upto,
            FlowEvent::Arrived(upto) => self.arrived = upto,
            FlowEvent::Aborted(reason) => self.aborted = Some(reason),
            _ => {}
        }
    }
}

struct Driver {
    link: Link,
    listener: Listener,
    streams: Streams,
    incoming: FlowId,
    size: u64,
}

impl Driver {
    fn connect(machine: &mut Machine, size: usize, idle: Idle) -> Result<Driver, Failure> {
        let bell = Arc::new(Doorbell::default());
        let path = machine.path(bell.waker(), idle)?;
        let length = RING.max(4 * size).next_power_of_two();
        let (source, sink) = (ring(length)?, Arc::new(window(&ring(length)?)));
        sink.open(0..length as u64);
        let mut link = Link::new(machine.side as u64 + 1);
        link.connect(Box::new(path), 1);
        let theirs = StreamKey::new(RunId(1), StreamId(1 - machine.side as u32), Epoch(1));
        let incoming = link.subscribe(theirs, 0).trying("subscribe to a stream")?;
        link.window(incoming, &sink, length as u64);
        let streams =
            Streams { outgoing: None, source, written: 0, released: 0, sink, arrived: 0, read: 0, aborted: None };
        let listener = Listener::new(bell);
        let mut driver = Driver { link, listener, streams, incoming, size: size as u64 };
        driver.until(|streams| streams.outgoing.is_some())?;
        Ok(driver)
    }

    /// Performs one turn without waiting. Returns whether there was work.
    fn step(&mut self) -> Result<bool, Failure> {
        self.listener.hear();
        let busy = self.link.step(&mut self.streams);
        if let Some(event) = self.link.take_events().first() {
            return Err(Failure::new(format!("the path is lost: {event:?}")));
        }
        match self.streams.aborted.take() {
            Some(reason) => Err(Failure::new(format!("the stream was aborted: {reason}"))),
            None => Ok(busy),
        }
    }

    fn until(&mut self, holds: impl Fn(&Streams) -> bool) -> Result<(), Failure> {
        let mut patience = Patience::new();
        while !holds(&self.streams) {
            if !self.step()? {
                let due = self.link.settle(&mut self.streams);
                sleep(&mut self.listener, due);
            }
            patience.check()?;
        }
        Ok(())
    }

    /// Writes a chunk as soon as the ring has room for it.
    fn write(&mut self) -> Result<(), Failure> {
        let (end, ring) = (self.streams.written + self.size, self.streams.sink.size());
        self.until(|streams| end <= streams.released + ring)?;
        self.streams.written = end;
        if let Some(flow) = self.streams.outgoing {
            self.link.available(flow, end);
        }
        Ok(())
    }

    /// Marks everything that has arrived as read, which makes room again.
    fn read(&mut self) {
        let streams = &mut self.streams;
        streams.read = streams.arrived;
        let room = streams.read..streams.read + streams.sink.size();
        streams.sink.open(room.clone());
        self.link.credit(self.incoming, room.end);
    }
}

impl Chunks for Driver {
    fn send(&mut self) -> Result<(), Failure> {
        let (start, end) = (self.streams.written % self.streams.sink.size(), self.streams.written + self.size);
        mark(&self.streams.source, start as usize, end)?;
        self.write()?;
        self.step().map(drop)
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let (start, end) = (self.streams.read, self.streams.read + self.size);
        self.until(|streams| streams.arrived >= end)?;
        check(self.streams.sink.memory(), self.streams.sink.index(start), end)?;
        self.read();
        Ok(())
    }
}

/// Sleeps until the path has an event, an acknowledgement of the link is due, or the idle interval has passed.
pub fn sleep(listener: &mut Listener, due: Option<Instant>) {
    let limit = due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()).min(TICK));
    wait_at_most(&mut [listener], None, Idle::SLEEP, limit);
}
