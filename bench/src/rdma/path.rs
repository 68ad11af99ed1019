//! dflow's path over RDMA, without the state machine of streams.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use dflow_protocol::SegmentId;
use dflow_protocol::exchange::Order;
use dflow_protocol::message::Window;
use dflow_protocol::wire::{FlowId, Grant, GrantId, PeerMessage};
use dflow_shm::{Access, Doorbell, Idle, Landing, Memory, Segment, SegmentKind};
use dflow_transport::rdma::RdmaPath;
use dflow_transport::{Chunk, Path, PathEvent};

use super::{Chunks, Machine, Patience, Side, Transfer, Work, timed};
use crate::failure::{Failure, Trying};
use crate::subject::{Card, Role, Subject, Waiting};

/// Minimum size of the ring for chunks, and the default of the ring for streams.
pub const RING: usize = 2 << 20;
const FLOW: FlowId = FlowId(1);
const GRANT: GrantId = GrantId(1);

/// The path.
pub struct OurPath;

impl Subject for OurPath {
    fn card(&self) -> Card {
        Card {
            name: "dflow-path",
            about: "dflow's RDMA path alone: WRITE with immediate data, receives posted again, and their credit",
            role: Role::Ours,
            waiting: Waiting::Spinning,
        }
    }
}

impl Transfer for OurPath {
    fn chunks(&self, machine: &mut Machine, work: &Work) -> Result<Option<Box<dyn Chunks>>, Failure> {
        Ok(Some(Box::new(Bare::connect(machine, work.size)?)))
    }

    fn stream(&self, machine: &mut Machine, work: &Work) -> Result<Option<Duration>, Failure> {
        let mut bare = Bare::connect(machine, work.size)?;
        machine.line.swap(&())?;
        let total = work.count * work.size as u64;
        let took = if machine.side == Side::First {
            timed(|| {
                for _ in 0..work.count {
                    bare.write()?;
                }
                bare.until(|bare| bare.answered)
            })?
        } else {
            bare.until(|bare| bare.arrived == total)?;
            bare.path.send(&PeerMessage::Ping(total)).trying("send a message")?;
            None
        };
        machine.line.swap(&())?;
        Ok(took)
    }
}

/// Memory for a stream, mapped twice back to back.
pub fn ring(size: usize) -> Result<Arc<Memory>, Failure> {
    let segment = Segment::create("dflow-bench", size, SegmentKind::FunctionWritten).trying("create a segment")?;
    Memory::ring(segment.as_fd(), 0, size, Access::Write).map(Arc::new).trying("map a segment")
}

/// A ring used as the window of a stream.
pub fn window(memory: &Arc<Memory>) -> Landing {
    let size = memory.length() as u64 / 2;
    let window = Window { segment: SegmentId(0), segment_offset: 0, base: 0, size, ring: true };
    Landing::new(&window, Arc::clone(memory), 0)
}

struct Bare {
    path: RdmaPath,
    grant: Grant,
    source: Arc<Memory>,
    target: Arc<Landing>,
    size: u64,
    sent: u64,
    arrived: u64,
    answered: bool,
    events: Vec<PathEvent>,
}

impl Bare {
    fn connect(machine: &mut Machine, size: usize) -> Result<Bare, Failure> {
        let mut path = machine.path(Arc::new(Doorbell::default()).waker(), Idle::SPIN)?;
        let length = RING.max(4 * size).next_power_of_two();
        let (source, target) = (ring(length)?, Arc::new(window(&ring(length)?)));
        target.open(0..length as u64);
        let offered = path.offer(FLOW, GRANT, &target).trying("offer a window")?;
        // All room is granted at once: the other machine may overwrite chunks, because no one reads them later.
        target.open(1 << 60..u64::MAX);
        let theirs: (u64, u32) = machine.line.swap(&(offered.address, offered.key))?;
        let (address, key) = theirs;
        let grant = Grant { id: GRANT, base: 0, size: length as u64, ring: true, address, key };
        let size = size as u64;
        Ok(Bare { path, grant, source, target, size, sent: 0, arrived: 0, answered: false, events: Vec::new() })
    }

    fn look(&mut self) -> Result<(), Failure> {
        self.path.poll(&mut self.events);
        for event in self.events.drain(..) {
            match event {
                PathEvent::Placed { length, .. } => self.arrived += length,
                PathEvent::Message(_) => self.answered = true,
                PathEvent::Room => {}
                PathEvent::Lost(error) => return Err(Failure::new(error.to_string())),
            }
        }
        Ok(())
    }

    fn until(&mut self, holds: impl Fn(&Bare) -> bool) -> Result<(), Failure> {
        let mut patience = Patience::new();
        while !holds(self) {
            self.look()?;
            patience.check()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Failure> {
        self.until(|bare| bare.path.has_room())?;
        let start = (self.sent % self.grant.size) as usize;
        let chunk = Chunk::new(Arc::clone(&self.source), start..start + self.size as usize);
        let order = Order { flow: FLOW, grant: Some(self.grant), at: self.sent, most: self.size };
        self.sent += self.size;
        self.path.write(&order, chunk).trying("write a chunk")
    }
}

impl Chunks for Bare {
    fn send(&mut self) -> Result<(), Failure> {
        mark(&self.source, (self.sent % self.grant.size) as usize, self.sent + self.size)?;
        self.write()
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let wanted = self.arrived + self.size;
        self.until(|bare| bare.arrived >= wanted)?;
        check(self.target.memory(), self.target.index(wanted - self.size), wanted)
    }
}

/// Writes its number into a chunk.
pub fn mark(memory: &Arc<Memory>, start: usize, number: u64) -> Result<(), Failure> {
    let place = window(memory);
    place.open(0..u64::MAX);
    place.place(start as u64, &number.to_le_bytes()).trying("write a chunk")
}

/// Checks the number of a chunk.
pub fn check(memory: &Memory, start: usize, number: u64) -> Result<(), Failure> {
    let mut mark = [0; 8];
    memory.shared(start..start + mark.len()).copy_to(&mut mark);
    if u64::from_le_bytes(mark) == number {
        Ok(())
    } else {
        Err(Failure::new(format!("the chunk up to {number} is not the one that was sent")))
    }
}
