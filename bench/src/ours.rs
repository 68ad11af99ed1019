//! Streams of dflow between two processes without a daemon: the `Writer` and `Reader` that functions use, with the same
//! windows, and a bell that both check as functions do.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use dflow_protocol::message::Window;
use dflow_protocol::{PortId, SegmentId};
use dflow_shm::{
    Access, Bell, Bells, Control, Idle, Memory, MemoryPiece, PeerControl, Reader, Room, Seen as Look, Segment,
    SegmentKind, Wait, Writer, channel, wait,
};

use crate::failure::{Failure, Trying};
use crate::memory::PAGE;
use crate::payload::{Seen, fill, from_bytes, from_bytes_mut};
use crate::subject::{Card, End, Role, Subject, Waiting};

/// The ports of a process: for writing and for reading.
const OUT: PortId = PortId(0);
const IN: PortId = PortId(1);

/// The smallest window that the store grants to a stream whose readers keep up.
pub const WINDOW: usize = dflow_store::Config::WINDOW as usize;

/// The window that the store grants for messages of this size.
pub fn window_for(message: usize) -> usize {
    WINDOW.max(message.next_power_of_two())
}

/// dflow as a subject. Each topic implements its trait for it.
pub struct Ours {
    /// Its name.
    pub name: &'static str,
    /// Its description in that topic.
    pub about: &'static str,
    /// How its ends wait.
    pub waiting: Waiting,
}

impl Subject for Ours {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: Role::Ours, waiting: self.waiting }
    }
}

/// The equivalent setting of dflow.
pub fn idle(waiting: Waiting) -> Idle {
    match waiting {
        Waiting::Spinning => Idle::SPIN,
        Waiting::Sleeping => Idle::SLEEP,
    }
}

/// The resources of a process: its control page and a bell.
pub struct Own {
    control: Arc<Control>,
    bell: Bell,
    idle: Idle,
    // Keeps the memory of the bell alive.
    _bells: Bells,
}

impl Own {
    /// Creates them.
    pub fn new(idle: Idle) -> Result<Own, Failure> {
        let control = Arc::new(Control::create().trying("create a control page")?);
        let bells = Bells::create().trying("create a page of bells")?;
        let page = duplicate(bells.segment().as_fd())?;
        let bell = Bell::adopt(page, 1).trying("map the page of bells")?;
        Ok(Own { control, bell, idle, _bells: bells })
    }
}

/// The writing end.
pub struct Sender {
    own: Own,
    writer: Writer,
    segment: Segment,
    window: usize,
    message: usize,
}

impl Sender {
    /// A ring of `window` bytes for messages of `message` bytes.
    pub fn new(own: Own, window: usize, message: usize) -> Result<Sender, Failure> {
        let window = window.next_multiple_of(PAGE).next_power_of_two();
        let segment = Segment::create("dflow-bench", window, SegmentKind::FunctionWritten).trying("create a window")?;
        segment.fault_in(0, window as u64).trying("fault the window in")?;
        let memory = Memory::ring(segment.as_fd(), 0, window, Access::Write).trying("map the window")?;
        let mut writer = Writer::new(Arc::clone(&own.control), OUT);
        writer.set_window(&described(window), Arc::new(memory), 0);
        Ok(Sender { own, writer, segment, window, message })
    }

    /// Adds the process at the other end of the socket as a reader.
    pub fn meet(&mut self, socket: &UnixStream) -> Result<(), Failure> {
        let read_only = self.segment.read_only().trying("reopen the window")?;
        let fds = [self.own.control.segment().as_fd(), read_only.as_fd()];
        channel::send(socket.as_fd(), &(self.window as u64).to_le_bytes(), &fds, true).trying("send the window")?;
        let (_, mut fds) = exchange(socket)?;
        let control = fds.pop().ok_or_else(|| Failure::new("a reader sent no control page"))?;
        self.writer.add_reader(Arc::new(PeerControl::adopt(control).trying("map a reader's words")?), IN);
        channel::send(socket.as_fd(), b"go", &[], true).trying("start the reader")
    }

    /// Writes a message that begins with `first`.
    pub fn send(&mut self, first: u64) {
        while self.writer.room(self.message as u64) != Room::Enough {
            wait(&mut [&mut self.writer], Some((&self.own.bell, 0)), self.own.idle, None);
        }
        fill(from_bytes_mut(&mut self.writer.spare()[..self.message]), first);
        self.writer.commit(self.message as u64);
        // At this point a function checks for messages of its daemon.
        std::hint::black_box(self.own.bell.count());
    }

    /// Waits until all readers have read everything.
    pub fn flush(&mut self) {
        while self.writer.room(self.window as u64) != Room::Enough {
            wait(&mut [&mut self.writer], Some((&self.own.bell, 0)), self.own.idle, None);
        }
    }
}

/// The reading end.
pub struct Receiver {
    own: Own,
    reader: Reader,
    message: usize,
}

impl Receiver {
    /// Joins as a reader of the process at the other end of the socket.
    pub fn meet(own: Own, socket: &UnixStream, message: usize) -> Result<Receiver, Failure> {
        let (bytes, mut fds) = exchange(socket)?;
        let window = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes) as usize);
        let (Some(segment), Some(control)) = (fds.pop(), fds.pop()) else {
            return Err(Failure::new("the writer did not send its window"));
        };
        let memory = Memory::ring(segment.as_fd(), 0, window, Access::Read).trying("map the window")?;
        let producer = Arc::new(PeerControl::adopt(control).trying("map the writer's words")?);
        let mut reader = Reader::new(Arc::clone(&own.control), IN);
        reader.set_piece(MemoryPiece {
            memory: Arc::new(memory),
            start: 0,
            base: 0,
            size: window as u64,
            ring: true,
            end: None,
            producer: Some((producer, OUT)),
        });
        channel::send(socket.as_fd(), b"here", &[own.control.segment().as_fd()], true)
            .trying("send the reader's words")?;
        exchange(socket)?;
        Ok(Receiver { own, reader, message })
    }

    /// Waits for a message and reads all of it.
    pub fn receive(&mut self) -> Result<Seen, Failure> {
        loop {
            match self.reader.look() {
                Look::Bytes(length) if length >= self.message as u64 => {
                    std::hint::black_box(self.own.bell.count());
                    let seen = Seen::reading(from_bytes(self.reader.bytes(self.message as u64)));
                    self.reader.consume(self.message as u64);
                    return Ok(seen);
                }
                Look::Nothing => {
                    let port: &mut dyn Wait = &mut self.reader;
                    wait(&mut [port], Some((&self.own.bell, 0)), self.own.idle, None);
                }
                other => return Err(Failure::new(format!("the stream broke: {other:?}"))),
            }
        }
    }

    /// Publishes the position to the writer.
    pub fn publish(&mut self) {
        self.reader.publish();
    }
}

/// Both directions of a hand-off.
pub struct Duplex {
    sender: Sender,
    receiver: Receiver,
}

impl Duplex {
    /// Connects two processes. One of them `leads`, so that they do not wait for each other.
    pub fn join(socket: &UnixStream, idle: Idle, message: usize, leads: bool) -> Result<Duplex, Failure> {
        let mut sender = Sender::new(Own::new(idle)?, window_for(message), message)?;
        let receiver = if leads {
            sender.meet(socket)?;
            Receiver::meet(Own::new(idle)?, socket, message)?
        } else {
            let receiver = Receiver::meet(Own::new(idle)?, socket, message)?;
            sender.meet(socket)?;
            receiver
        };
        Ok(Duplex { sender, receiver })
    }
}

impl End for Duplex {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        self.sender.send(first);
        Ok(())
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        self.receiver.receive()
    }
}

impl End for Sender {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        Sender::send(self, first);
        Ok(())
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        Err(Failure::new("the writer of a stream cannot receive"))
    }

    fn flush(&mut self) -> Result<(), Failure> {
        Sender::flush(self);
        Ok(())
    }
}

impl End for Receiver {
    fn send(&mut self, _: u64) -> Result<(), Failure> {
        Err(Failure::new("the reader of a stream cannot send"))
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        let seen = Receiver::receive(self);
        // At the end the writer waits until everything has been read. A function's reader publishes that when it waits
        // or ends.
        if matches!(self.reader.look(), Look::Nothing) {
            self.publish();
        }
        seen
    }
}

fn described(window: usize) -> Window {
    Window { segment: SegmentId(1), segment_offset: 0, base: 0, size: window as u64, ring: true }
}

fn exchange(socket: &UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
    let mut buffer = vec![0; 64];
    let (length, fds) = channel::receive(socket.as_fd(), &mut buffer, true).trying("receive from the other process")?;
    if length == 0 {
        return Err(Failure::new("the other process has ended"));
    }
    buffer.truncate(length);
    Ok((buffer, fds))
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    fd.try_clone_to_owned().trying("duplicate a descriptor")
}
