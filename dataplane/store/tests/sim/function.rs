//! A function that is a state machine: it acts once each time it is asked to.

use super::Dice;
use dflow_protocol::limits::{ARENA_SLOT, PROTOCOL_VERSION};
use dflow_protocol::message::{Piece, SegmentUse, ToDaemon, ToFunction, Window};
use dflow_protocol::words::State;
use dflow_protocol::{PortId, RunId, SegmentId};
use dflow_shm::{Access, Control, Memory, MemoryPiece, PeerControl, Reader, Room, Seen, Wait, Writer};
use dflow_store::{Outgoing, ProcessId, Store};
use dflow_testkit::node as testkit;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// After so long an output that was told to stay asks again.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// What a function does.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The streams that it reads. In order, one after the other, or whichever has bytes.
    pub reads: Vec<u32>,
    pub in_order: bool,
    /// The streams that it writes, in step with what it has read, and their lengths.
    pub writes: Vec<(u32, u64)>,
    /// The most bytes that it reads or writes at once.
    pub chunk: u64,
    /// It dies when it has acted so often.
    pub dies_after: Option<u64>,
}

/// The byte at an offset of a stream. The highest three bits tell the tenant, and are never zero.
pub fn byte_at(tenant: u64, stream: u32, offset: u64) -> u8 {
    let mixed = offset.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) as u8;
    ((tenant % 7 + 1) << 5) as u8 | (mixed.wrapping_add(stream as u8) & 31)
}

/// Whether a byte that is found in memory before it is written is one that the tenant may see.
fn is_own(tenant: u64, byte: u8) -> bool {
    byte == 0 || u64::from(byte >> 5) == tenant % 7 + 1
}

struct In {
    port: PortId,
    stream: u32,
    length: u64,
    reader: Reader,
    /// A piece that is a file: descriptor, where it starts in there, and the offsets in the stream.
    file: Option<(OwnedFd, u64, u64, u64)>,
    asked: bool,
    ended: bool,
}

struct Out {
    port: PortId,
    stream: u32,
    length: u64,
    writer: Writer,
    asked: bool,
    /// When it may ask again.
    again: Duration,
    ended: bool,
}

enum Known {
    Arena(Arc<Memory>),
    Control(Arc<PeerControl>),
}

/// A live function.
pub struct Function {
    pub id: ProcessId,
    pub run: RunId,
    tenant: u64,
    plan: Plan,
    control: Arc<Control>,
    inputs: Vec<In>,
    outputs: Vec<Out>,
    known: BTreeMap<SegmentId, Known>,
    once: Option<OwnedFd>,
    started: bool,
    said_done: bool,
    acts: u64,
    read: u64,
    /// The bytes of all its inputs.
    to_read: u64,
}

/// What has become of a function that was asked to act.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// It has done something.
    Moved,
    /// It waits.
    Waits,
    /// It has said that it is done and ends.
    Done,
    /// It has died.
    Died,
}

impl Function {
    /// Ports are given in order: those of the outputs first. `lengths`: of the streams that it reads.
    pub fn new(id: ProcessId, run: RunId, tenant: u64, plan: Plan, lengths: &[u64]) -> Self {
        let control = Arc::new(Control::create().unwrap());
        let ports = |from: usize| (from as u32..).map(PortId);
        let outputs = (plan.writes.iter().zip(ports(0)))
            .map(|(&(stream, length), port)| Out {
                port,
                stream,
                length,
                writer: Writer::new(Arc::clone(&control), port),
                asked: false,
                again: Duration::ZERO,
                ended: false,
            })
            .collect();
        let inputs = (plan.reads.iter().zip(lengths).zip(ports(plan.writes.len())))
            .map(|((&stream, &length), port)| In {
                port,
                stream,
                length,
                reader: Reader::new(Arc::clone(&control), port),
                file: None,
                asked: false,
                ended: false,
            })
            .collect();
        let (known, to_read) = (BTreeMap::new(), lengths.iter().sum());
        let (once, started, said_done, acts, read) = (None, false, false, 0, 0);
        Self { id, run, tenant, plan, control, inputs, outputs, known, once, started, said_done, acts, read, to_read }
    }

    pub fn hello(&self, store: &mut Store, now: Duration) {
        let page = self.control.segment().as_fd().try_clone_to_owned().unwrap();
        store.receive(now, self.id, ToDaemon::Hello { version: PROTOCOL_VERSION }, vec![page]);
    }

    /// Takes a message of the store.
    pub fn take(&mut self, message: Outgoing, now: Duration) {
        match message.message {
            ToFunction::Segment { segment, kind } => {
                let fd = message.fd.expect("a segment has a descriptor");
                match kind {
                    SegmentUse::OwnArena(length) => self.adopt_arena(segment, &fd, length, Access::Write),
                    SegmentUse::Arena(length) => self.adopt_arena(segment, &fd, length, Access::Read),
                    SegmentUse::Control => {
                        self.known.insert(segment, Known::Control(Arc::new(PeerControl::adopt(fd).unwrap())));
                    }
                    SegmentUse::Once => self.once = Some(fd),
                }
            }
            ToFunction::Start => self.started = true,
            ToFunction::Window { port, window } => self.take_window(port, &window),
            ToFunction::AddReader { port, control, reader } => {
                let page = self.page(control);
                self.output(port).writer.add_reader(page, reader);
            }
            ToFunction::DropReader { port, control, reader } => {
                let page = self.page(control);
                self.output(port).writer.drop_reader(&page, reader);
            }
            ToFunction::Stay { port } => {
                if let Some(output) = self.outputs.iter_mut().find(|output| output.port == port) {
                    (output.asked, output.again) = (false, now + ASK_AGAIN);
                }
                if let Some(input) = self.inputs.iter_mut().find(|input| input.port == port) {
                    input.asked = false;
                }
            }
            ToFunction::Unread { port } => self.output(port).ended = true,
            ToFunction::Piece { port, piece } => self.take_piece(port, piece),
            ToFunction::PieceEnd { port, end } => self.input(port).reader.set_end(end),
            ToFunction::StreamEnd { port, end } => {
                let input = self.input(port);
                assert_eq!(end, Ok(input.length), "stream {}", input.stream);
                assert_eq!(input.reader.position(), input.length);
                input.ended = true;
                input.reader.close();
            }
            _ => {}
        }
    }

    fn adopt_arena(&mut self, id: SegmentId, fd: &OwnedFd, length: u64, access: Access) {
        let memory = Arc::new(Memory::map(fd.as_fd(), 0, length as usize, access).unwrap());
        if access == Access::Write {
            for output in &mut self.outputs {
                let start = u64::from(output.port.0) * ARENA_SLOT;
                let window = Window { segment: id, segment_offset: start, base: 0, size: ARENA_SLOT, ring: false };
                output.writer.set_window(&window, Arc::clone(&memory), start as usize);
            }
        }
        self.known.insert(id, Known::Arena(memory));
    }

    fn page(&self, control: SegmentId) -> Arc<PeerControl> {
        match &self.known[&control] {
            Known::Control(page) => Arc::clone(page),
            Known::Arena(_) => panic!("segment {control} is no control page"),
        }
    }

    fn output(&mut self, port: PortId) -> &mut Out {
        self.outputs.iter_mut().find(|output| output.port == port).expect("an output")
    }

    fn input(&mut self, port: PortId) -> &mut In {
        self.inputs.iter_mut().find(|input| input.port == port).expect("an input")
    }

    /// What is in the window already must not be of another tenant.
    fn take_window(&mut self, port: PortId, window: &Window) {
        let (fd, tenant) = (self.once.take().expect("a window's segment"), self.tenant);
        let size = window.size as usize;
        let memory = match window.ring {
            true => Memory::ring(fd.as_fd(), 0, size, Access::Write),
            false => Memory::map(fd.as_fd(), 0, size, Access::Write),
        };
        let mut found = vec![0; size];
        rustix::io::pread(&fd, &mut found, 0).unwrap();
        let foreign = found.iter().position(|&byte| !is_own(tenant, byte));
        assert_eq!(foreign, None, "a byte of another tenant");
        let output = self.output(port);
        output.writer.set_window(window, Arc::new(memory.unwrap()), 0);
        output.asked = false;
    }

    fn take_piece(&mut self, port: PortId, piece: Piece) {
        let (fd, file) = (self.once.take(), matches!(piece, Piece::File { .. }));
        if let Piece::Memory { window, producer, end } = piece {
            let length = window.size as usize;
            let (memory, start) = match (fd, self.known.get(&window.segment)) {
                (Some(fd), _) if window.ring => (Memory::ring(fd.as_fd(), 0, length, Access::Read).map(Arc::new), 0),
                (Some(fd), _) => (Memory::map(fd.as_fd(), 0, length, Access::Read).map(Arc::new), 0),
                (None, Some(Known::Arena(memory))) => (Ok(Arc::clone(memory)), window.segment_offset as usize),
                (None, _) => panic!("a piece without memory"),
            };
            let producer = producer.map(|(control, port)| (self.page(control), port));
            let Window { base, size, ring, .. } = window;
            let memory = memory.unwrap();
            self.input(port).reader.set_piece(MemoryPiece { memory, start, base, size, ring, end, producer });
        } else if let (Piece::File { file_offset, base, end, .. }, Some(fd)) = (piece, fd) {
            self.input(port).file = Some((fd, file_offset, base, end));
        }
        assert_eq!(file, self.input(port).file.is_some());
        self.input(port).asked = false;
    }

    /// Does one thing.
    pub fn act(&mut self, store: &mut Store, now: Duration, dice: &mut Dice) -> Act {
        if !self.started {
            return Act::Waits;
        }
        self.acts += 1;
        if self.plan.dies_after.is_some_and(|limit| self.acts > limit) {
            return Act::Died;
        }
        let count = (self.inputs.len() + self.outputs.len()) as u64;
        let first = dice.below(count) as usize;
        for index in (first..first + count as usize).map(|index| index % count as usize) {
            let moved = match index.checked_sub(self.inputs.len()) {
                None => self.read(index, store, now, dice),
                Some(index) => self.write(index, store, now, dice),
            };
            if moved {
                return Act::Moved;
            }
        }
        let over = self.inputs.iter().all(|input| input.ended) && self.outputs.iter().all(|output| output.ended);
        if over && !self.said_done {
            self.said_done = true;
            store.receive(now, self.id, ToDaemon::Done, Vec::new());
            return Act::Done;
        }
        Act::Waits
    }

    fn read(&mut self, index: usize, store: &mut Store, now: Duration, dice: &mut Dice) -> bool {
        let blocked = self.plan.in_order && self.inputs[..index].iter().any(|input| !input.ended);
        let (id, tenant, chunk) = (self.id, self.tenant, self.plan.chunk);
        let input = &mut self.inputs[index];
        if input.ended || input.asked || blocked {
            return false;
        }
        input.reader.retract();
        let at = input.reader.position();
        if let Some((fd, start, base, end)) = &input.file
            && at < *end
        {
            let mut bytes = vec![0; (1 + dice.below(chunk)).min(end - at) as usize];
            let got = rustix::io::pread(fd, &mut bytes, start + (at - base)).unwrap();
            assert!(got > 0, "a piece of a file ends early");
            check(tenant, input.stream, at, &bytes[..got]);
            input.reader.consume(got as u64);
            self.read += got as u64;
            return true;
        }
        let ask = |input: &mut In, store: &mut Store, message| {
            input.reader.publish();
            input.asked = true;
            store.receive(now, id, message, Vec::new());
            true
        };
        let port = input.port;
        match input.reader.look() {
            Seen::Bytes(there) => {
                let take = (1 + dice.below(chunk)).min(there);
                check(tenant, input.stream, at, input.reader.bytes(take));
                input.reader.consume(take);
                self.read += take;
                true
            }
            Seen::Nothing => {
                input.reader.announce();
                false
            }
            Seen::NeedPiece => {
                input.reader.drop_piece();
                input.file = None;
                ask(input, store, ToDaemon::NextPiece { port, at, lends: false })
            }
            Seen::End | Seen::Aborted | Seen::Violation => ask(input, store, ToDaemon::Verify { port, at }),
        }
    }

    fn write(&mut self, index: usize, store: &mut Store, now: Duration, dice: &mut Dice) -> bool {
        let (id, tenant, chunk) = (self.id, self.tenant, self.plan.chunk);
        let (read, to_read) = (u128::from(self.read), u128::from(self.to_read));
        let output = &mut self.outputs[index];
        if output.ended || output.asked {
            return false;
        }
        output.writer.retract();
        let (port, at) = (output.port, output.writer.watermark());
        // In step with what has been read.
        let in_step = (u128::from(output.length) * read).checked_div(to_read);
        let target = in_step.map_or(output.length, |target| target as u64);
        if at == output.length && read == to_read {
            output.writer.end(State::Finished);
            output.ended = true;
            store.receive(now, id, ToDaemon::Finished { port }, Vec::new());
            return true;
        }
        if at >= target {
            return false;
        }
        let room = output.writer.room(1);
        if room == Room::Enough {
            let spare = output.writer.spare();
            let take = (1 + dice.below(chunk)).min(target - at).min(spare.len() as u64);
            for (byte, offset) in spare[..take as usize].iter_mut().zip(at..) {
                *byte = byte_at(tenant, output.stream, offset);
            }
            output.writer.commit(take);
            if at == 0 {
                store.receive(now, id, ToDaemon::FirstBytes { port }, Vec::new());
            }
            return true;
        }
        output.writer.announce();
        if now < output.again {
            return false;
        }
        output.asked = true;
        let least = 1 + dice.below(chunk);
        store.receive(now, id, ToDaemon::NeedWindow { port, at, least, held: room == Room::Held }, Vec::new());
        true
    }

    /// Where each port is, for the log of a simulation.
    pub fn positions(&self) -> impl Iterator<Item = u64> + '_ {
        let read = self.inputs.iter().map(|input| input.reader.position());
        read.chain(self.outputs.iter().map(|output| output.writer.watermark()))
    }

    pub fn describe(&self) -> String {
        let inputs =
            self.inputs.iter().map(|it| format!("in {}/{} asked {}", it.reader.position(), it.length, it.asked));
        let outputs =
            self.outputs.iter().map(|it| format!("out {}/{} asked {}", it.writer.watermark(), it.length, it.asked));
        format!("{:?} of {}: {:?}", self.id, self.run, inputs.chain(outputs).collect::<Vec<_>>())
    }

    /// The setup that the store is given for it.
    pub fn setup(&self) -> dflow_protocol::message::Setup {
        let function = testkit::Function {
            inputs: self.plan.reads.iter().map(|&stream| ("in", vec![stream], false)).collect(),
            outputs: self.plan.writes.iter().map(|&(stream, _)| ("out", vec![stream])).collect(),
            ..testkit::Function::default()
        };
        testkit::setup(self.id, &function)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

fn check(tenant: u64, stream: u32, at: u64, bytes: &[u8]) {
    let wrong = bytes.iter().zip(at..).find(|(byte, at)| **byte != byte_at(tenant, stream, *at));
    assert_eq!(wrong, None, "stream {stream} of tenant {tenant}");
}
