//! The daemon's side of a session, for one attempt.

use super::drain::{Drain, Word};
use super::source::Stream;
use super::{LocalError, LocalInput, LocalOutput, LocalRun, LocalStreams, MAX_SINKS, MAX_SOURCES, Sinks};
use dflow_protocol::limits::{ARENA_SLOT, MAX_MESSAGE, MAX_PORTS, MAX_WINDOW, PROTOCOL_VERSION};
use dflow_protocol::message::{InputSpec, OutputSpec, OutputStreams, SegmentUse, Setup, ToDaemon, ToFunction, Window};
use dflow_protocol::{PortId, SegmentId};
use dflow_shm::{Access, Bells, Control, Memory, MemoryPiece, PeerControl, Reader, Segment, SegmentKind, channel};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The ring through which an output passes, in bytes, unless the function writes more at once.
const RING: u64 = 1024 * 1024;
/// The attempt's bell; it is the only one.
const BELL: u32 = 1;
const ARENA: SegmentId = SegmentId(0);
const CONTROL: SegmentId = SegmentId(1);
/// Segments that are sent later have the ids after these.
const FIRST_SEGMENT: u64 = 2;
/// Input ports begin here; output ports begin at 0.
const INPUTS: u32 = MAX_PORTS / 2;

const _: () = assert!(INPUTS as usize + MAX_SOURCES <= MAX_PORTS as usize && MAX_SINKS <= INPUTS as usize);

/// The way to the function. Any thread may send.
pub(super) struct Wire {
    socket: OwnedFd,
    bells: Bells,
    /// How many messages have been sent.
    sent: Mutex<u64>,
    segments: AtomicU64,
}

impl Wire {
    /// Sends a message. A function that is gone gets none.
    pub(super) fn send(&self, message: &ToFunction, fd: Option<BorrowedFd<'_>>) {
        // Only the setup can be too long, and that is encoded before.
        if let Ok(packet) = message.encode() {
            self.send_packet(&packet, fd);
        }
    }

    fn send_packet(&self, packet: &[u8], fd: Option<BorrowedFd<'_>>) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        *sent += 1;
        // Rung first: a function that sees the bell waits for the packet.
        self.bells.ring(BELL, *sent);
        let _ = channel::send(self.socket.as_fd(), packet, fd.as_slice(), true);
    }

    pub(super) fn next_segment(&self) -> SegmentId {
        SegmentId(self.segments.fetch_add(1, Ordering::Relaxed))
    }
}

/// A node for one attempt, in its own process.
pub struct Local {
    outputs: Arc<Mutex<Outputs>>,
    thread: JoinHandle<Result<(), LocalError>>,
}

/// Opens outputs of a running attempt that were not declared before: [`Local::declarer`].
#[derive(Clone)]
pub struct Declarer(Arc<Mutex<Outputs>>);

impl Declarer {
    /// Declares one more output. Its place among the outputs is behind those that were there before.
    ///
    /// # Errors
    /// [`LocalError`] if there are too many, or it cannot be written.
    pub fn declare(&self, output: LocalOutput) -> Result<(u32, OutputStreams), LocalError> {
        let mut outputs = lock(&self.0);
        let streams = outputs.add(&output)?;
        let index = outputs.list.len() - 1;
        outputs.open_all(index)?;
        Ok((index as u32, streams))
    }

    /// The ports of every output stream, opened or declared.
    #[must_use]
    pub fn ports(&self) -> Vec<PortId> {
        (0..lock(&self.0).next_port).map(PortId).collect()
    }
}

impl Local {
    /// Starts the node, and gives the function's end of its channel, for [`crate::Session::open`].
    ///
    /// # Errors
    /// [`LocalError`] if there are too many streams, or something cannot be opened.
    pub fn start(run: LocalRun, sinks: Arc<dyn Sinks>) -> Result<(Self, OwnedFd), LocalError> {
        let count = run.inputs.iter().map(|input| input.sources.len()).sum();
        if count > MAX_SOURCES {
            return Err(LocalError::TooMany { what: "input streams", count, most: MAX_SOURCES });
        }
        let (ours, theirs) = channel::pair().map_err(LocalError::system("make a channel"))?;
        let wire = Arc::new(Wire {
            socket: ours,
            bells: Bells::create()?,
            sent: Mutex::new(0),
            segments: AtomicU64::new(FIRST_SEGMENT),
        });
        let arena = Segment::create("dflow-arena", MAX_SINKS * ARENA_SLOT as usize, SegmentKind::FunctionWritten)?;
        let mut outputs = Outputs {
            wire: Arc::clone(&wire),
            sinks,
            control: Arc::new(Control::create()?),
            arena: Arc::new(arena.map(Access::Read)?),
            peer: None,
            next_port: 0,
            list: Vec::new(),
            places: HashMap::new(),
        };
        for output in &run.outputs {
            outputs.add(output)?;
        }
        let setup = setup(&run, &outputs).encode()?;
        let outputs = Arc::new(Mutex::new(outputs));
        let host = Host { wire, outputs: Arc::clone(&outputs), inputs: HashMap::new() };
        let (inputs, piece) = (run.inputs, run.piece);
        let thread = std::thread::Builder::new()
            .name("dflow-local".into())
            .spawn(move || host.run(&setup, &arena, inputs, piece))
            .map_err(|source| LocalError::System { action: "start a thread", source })?;
        Ok((Self { outputs, thread }, theirs))
    }

    /// A handle that opens outputs while the function runs.
    #[must_use]
    pub fn declarer(&self) -> Declarer {
        Declarer(Arc::clone(&self.outputs))
    }

    /// Waits until the function has ended and all its outputs are written.
    ///
    /// # Errors
    /// [`LocalError`] if an output cannot be written, or the node could not go on.
    pub fn join(self) -> Result<(), LocalError> {
        self.thread.join().unwrap_or_else(|_| {
            let source = std::io::Error::other("its thread panicked");
            Err(LocalError::System { action: "serve the function", source })
        })
    }
}

fn setup(run: &LocalRun, outputs: &Outputs) -> ToFunction {
    ToFunction::Setup(Setup {
        version: PROTOCOL_VERSION,
        run: "alone".into(),
        instance: run.instance.clone(),
        part: run.part,
        part_file: run.part_file.as_ref().map(|file| file.as_os_str().as_bytes().to_vec()),
        attempt: run.attempt,
        params: run.params.clone(),
        inputs: run
            .inputs
            .iter()
            .map(|input| InputSpec { name: input.name.clone(), many: input.many, keep: input.keep, stdin: false })
            .collect(),
        outputs: outputs
            .list
            .iter()
            .map(|it| OutputSpec { name: it.name.clone(), streams: it.streams, stdout: false })
            .collect(),
        bell: BELL,
        arena: ARENA,
        spin_nanos: 0,
        command: None,
    })
}

/// The output streams, and who drains them.
struct Outputs {
    wire: Arc<Wire>,
    sinks: Arc<dyn Sinks>,
    /// Where the drains' readers publish their positions, each at the number of the port that it reads.
    control: Arc<Control>,
    arena: Arc<Memory>,
    /// The function's control page, once it has said hello.
    peer: Option<Arc<PeerControl>>,
    next_port: u32,
    list: Vec<Output>,
    /// Which output a port belongs to.
    places: HashMap<PortId, usize>,
}

struct Output {
    name: String,
    streams: OutputStreams,
    /// How many parts are open.
    open: u32,
    drain: Option<Drain>,
}

impl Outputs {
    /// Gives an output its ports.
    fn add(&mut self, output: &LocalOutput) -> Result<OutputStreams, LocalError> {
        let first = PortId(self.next_port);
        let (streams, count) = match output.streams {
            LocalStreams::Single => (OutputStreams::Single(first), 1),
            LocalStreams::Fixed(count) => (OutputStreams::Fixed(first, count), count),
            LocalStreams::Discovered => (OutputStreams::Discovered, 0),
        };
        self.take_ports(count)?;
        self.list.push(Output { name: output.name.clone(), streams, open: 0, drain: None });
        Ok(streams)
    }

    fn take_ports(&mut self, count: u32) -> Result<PortId, LocalError> {
        let (first, all) = (self.next_port, self.next_port.saturating_add(count));
        if all as usize > MAX_SINKS {
            return Err(LocalError::TooMany { what: "output streams", count: all as usize, most: MAX_SINKS });
        }
        self.next_port = all;
        Ok(PortId(first))
    }

    /// Opens the sinks of the streams that an output has from the start.
    fn open_all(&mut self, index: usize) -> Result<(), LocalError> {
        match self.list[index].streams {
            OutputStreams::Single(port) => self.open(index, port, None),
            OutputStreams::Fixed(first, count) => {
                (0..count).try_for_each(|part| self.open(index, PortId(first.0 + part), Some(part)))
            }
            OutputStreams::Discovered => Ok(()),
        }
    }

    /// Opens the next part of an output.
    fn open_part(&mut self, index: usize) -> Result<PortId, LocalError> {
        let port = self.take_ports(1)?;
        let part = self.list[index].open;
        self.open(index, port, Some(part))?;
        Ok(port)
    }

    fn open(&mut self, index: usize, port: PortId, part: Option<u32>) -> Result<(), LocalError> {
        let output = &mut self.list[index];
        let failed = |source| LocalError::Output { output: output.name.clone(), source };
        let sink = self.sinks.open(&output.name, part).map_err(failed)?;
        output.open += 1;
        let mut reader = Reader::new(Arc::clone(&self.control), port);
        reader.set_piece(MemoryPiece {
            memory: Arc::clone(&self.arena),
            start: port.0 as usize * ARENA_SLOT as usize,
            base: 0,
            size: ARENA_SLOT,
            ring: false,
            end: Some(ARENA_SLOT),
            producer: self.peer.clone().map(|page| (page, port)),
        });
        if output.drain.is_none() {
            let wire = Arc::clone(&self.wire);
            let unread = move |port| wire.send(&ToFunction::Unread { port }, None);
            output.drain = Some(Drain::start(output.name.clone(), unread)?);
        }
        if let Some(drain) = &output.drain {
            drain.tell(Word::Open(port, Box::new(reader), sink));
        }
        self.places.insert(port, index);
        self.wire.send(&ToFunction::AddReader { port, control: CONTROL, reader: port }, None);
        Ok(())
    }

    /// Gives an output a new ring from `at` on. `false` if there is no memory for it.
    fn grant(&self, port: PortId, at: u64, least: u64) -> bool {
        let Some(drain) = self.places.get(&port).and_then(|&index| self.list[index].drain.as_ref()) else {
            return false;
        };
        let size = least.clamp(RING, MAX_WINDOW).next_power_of_two();
        let made = Segment::create_backed("dflow-ring", size as usize, SegmentKind::FunctionWritten, false)
            .and_then(|segment| Ok((Memory::ring(segment.as_fd(), 0, size as usize, Access::Read)?, segment)));
        let Ok((memory, segment)) = made else { return false };
        let producer = self.peer.clone().map(|page| (page, port));
        let piece = MemoryPiece { memory: Arc::new(memory), start: 0, base: at, size, ring: true, end: None, producer };
        // Before the function may write there.
        drain.tell(Word::Window(port, piece));
        let id = self.wire.next_segment();
        self.wire.send(&ToFunction::Segment { segment: id, kind: SegmentUse::Once }, Some(segment.as_fd()));
        let window = Window { segment: id, segment_offset: 0, base: at, size, ring: true };
        self.wire.send(&ToFunction::Window { port, window }, None);
        true
    }

    /// Ends the drains, and waits for them.
    fn finish(&mut self, well: bool) -> Result<(), LocalError> {
        let drains: Vec<Drain> = self.list.iter_mut().filter_map(|output| output.drain.take()).collect();
        for drain in &drains {
            drain.tell(Word::End(well));
        }
        // All of them are joined, whatever becomes of the first.
        drains.into_iter().map(Drain::join).fold(Ok(()), Result::and)
    }
}

/// The thread that answers the function.
struct Host {
    wire: Arc<Wire>,
    outputs: Arc<Mutex<Outputs>>,
    inputs: HashMap<PortId, Arc<Stream>>,
}

impl Host {
    fn run(
        mut self,
        setup: &[u8],
        arena: &Segment,
        inputs: Vec<LocalInput>,
        piece: Option<u64>,
    ) -> Result<(), LocalError> {
        self.wire.send_packet(setup, Some(self.wire.bells.segment().as_fd()));
        let kind = SegmentUse::OwnArena(arena.length() as u64);
        self.wire.send(&ToFunction::Segment { segment: ARENA, kind }, Some(arena.as_fd()));
        let begun = self.begin(inputs, piece);
        let well = begun.is_ok() && self.serve()?;
        // Before anything is waited for: a function that has not started ends by it, and one that has ended needs it no more.
        if rustix::net::shutdown(&self.wire.socket, rustix::net::Shutdown::Both).is_err() {
            // A sandbox may forbid it. To the function an empty packet means the same.
            self.wire.send_packet(&[], None);
        }
        for stream in self.inputs.values() {
            stream.close();
        }
        begun.and(lock(&self.outputs).finish(well))
    }

    /// Waits for the function's hello, opens its streams and lets it start.
    fn begin(&mut self, inputs: Vec<LocalInput>, piece: Option<u64>) -> Result<(), LocalError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let receive = channel::receive(self.wire.socket.as_fd(), &mut buffer, true);
        let (_, mut fds) = receive.map_err(LocalError::system("hear of the function"))?;
        // Without it the function is gone, and the loop that follows finds that.
        let Some(page) = fds.pop() else { return Ok(()) };
        let peer = Arc::new(PeerControl::adopt(page)?);
        {
            let mut outputs = lock(&self.outputs);
            outputs.peer = Some(peer);
            let control = outputs.control.segment().as_fd();
            self.wire.send(&ToFunction::Segment { segment: CONTROL, kind: SegmentUse::Control }, Some(control));
            for index in 0..outputs.list.len() {
                outputs.open_all(index)?;
            }
        }
        let mut port = INPUTS;
        for (index, input) in (0..).zip(inputs) {
            for source in input.sources {
                let id = PortId(port);
                port += 1;
                let stream = Stream::open(&self.wire, id, &input.name, source, input.keep, piece)?;
                self.inputs.insert(id, stream);
                self.wire.send(&ToFunction::AddStream { input: index, port: id }, None);
            }
            self.wire.send(&ToFunction::StreamsComplete { input: index }, None);
        }
        self.wire.send(&ToFunction::Start, None);
        Ok(())
    }

    /// Answers the function until it ends; whether it has ended well.
    fn serve(&self) -> Result<bool, LocalError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let received = channel::receive(self.wire.socket.as_fd(), &mut buffer, true);
            let (length, _) = received.map_err(LocalError::system("hear of the function"))?;
            if length == 0 {
                return Ok(false);
            }
            match ToDaemon::decode(&buffer[..length])? {
                ToDaemon::NextPiece { port, at, .. } | ToDaemon::Verify { port, at } => {
                    if let Some(stream) = self.inputs.get(&port) {
                        stream.next_piece(at);
                    }
                }
                ToDaemon::CloseInput { port } => {
                    if let Some(stream) = self.inputs.get(&port) {
                        stream.close();
                    }
                }
                ToDaemon::NeedWindow { port, at, least, held } => {
                    if held || !lock(&self.outputs).grant(port, at, least) {
                        self.wire.send(&ToFunction::Stay { port }, None);
                    }
                }
                ToDaemon::OpenPart { output } => {
                    let mut outputs = lock(&self.outputs);
                    let known = (output as usize) < outputs.list.len();
                    let port = if known {
                        outputs.open_part(output as usize).map_err(|error| error.to_string())
                    } else {
                        Err("there is no such output".into())
                    };
                    self.wire.send(&ToFunction::PartOpened { output, port }, None);
                }
                ToDaemon::Done => return Ok(true),
                ToDaemon::Failed { .. } => return Ok(false),
                ToDaemon::Hello { .. }
                | ToDaemon::FirstBytes { .. }
                | ToDaemon::ReaderStuck { .. }
                | ToDaemon::GivenUp { .. }
                | ToDaemon::CloseOutput { .. }
                | ToDaemon::Retired { .. }
                | ToDaemon::Parked
                | ToDaemon::Program(_)
                | ToDaemon::Finished { .. } => {}
            }
        }
    }
}

fn lock(outputs: &Mutex<Outputs>) -> MutexGuard<'_, Outputs> {
    // Nothing panics while it holds the lock in an inconsistent state, so poisoned outputs can be used.
    outputs.lock().unwrap_or_else(PoisonError::into_inner)
}
