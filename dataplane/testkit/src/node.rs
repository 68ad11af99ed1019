//! A store with functions in threads: a node without processes and scheduling.
//!
//! A test says which functions read and write which streams ([`Function`]), starts them ([`Node::start`]) and runs the
//! node until something holds. Whatever goes wrong in the node itself is a panic: this is only for tests.

use dflow_disk::IoChoice;
use dflow_function::{Context, Error, InputSpec, OutputSpec, OutputStreams, Setup, serve};
use dflow_protocol::limits::{MAX_MESSAGE, PROTOCOL_VERSION};
use dflow_protocol::message::ToDaemon;
use dflow_protocol::{InstanceId, PortId, RunId, SegmentId, StreamId};
use dflow_shm::channel;
use dflow_store::{Completion, Config, ProcessId, RunStream, Store, StoreEvent, Subscriber, TenantId, Threads};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel as queue};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the threads of a node send to it.
pub enum Arrival {
    /// A message of an attempt, with its descriptors.
    Message(ProcessId, ToDaemon, Vec<OwnedFd>),
    /// The channel of an attempt is closed.
    Gone(ProcessId),
    /// A job of the store is done.
    Completed(Completion),
    /// The channel can take packets again.
    Writable(ProcessId),
    /// Something that another thread wants to be done.
    Work(Work),
}

/// Something that a node does between two arrivals.
pub type Work = Box<dyn FnOnce(&mut Node) + Send>;

/// The node's end of a channel.
struct Socket {
    socket: Arc<OwnedFd>,
    /// Packets that the channel did not take, because it is full.
    waiting: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

/// The attempt that carries the streams of [`RUN`], if there is one; those of other runs follow it.
pub const CARRIER: ProcessId = ProcessId(1 << 40);

/// The attempt that carries the streams of a run.
pub fn carrier_of(run: RunId) -> ProcessId {
    ProcessId(CARRIER.0 + (run.0 - RUN.0) as u64)
}

/// A node: a store, and the channels and threads of its functions.
pub struct Node {
    /// The store.
    pub store: Store,
    arrivals: Receiver<Arrival>,
    sender: Sender<Arrival>,
    sockets: BTreeMap<ProcessId, Socket>,
    counts: BTreeMap<ProcessId, u64>,
    bells: BTreeMap<ProcessId, u32>,
    /// How attempts have ended, as they said themselves.
    pub outcomes: BTreeMap<ProcessId, Result<(), (String, bool)>>,
    /// Attempts that have violated the protocol, and how.
    pub misbehaved: Vec<(ProcessId, String)>,
    /// Why the run has failed.
    pub failed: Option<String>,
    live: usize,
    threads: BTreeMap<ProcessId, JoinHandle<()>>,
    gone: BTreeSet<ProcessId>,
    /// Attempts that had been told, when they ended, that their outputs have no readers left.
    pub told_unread: BTreeSet<ProcessId>,
    /// All events of the store so far.
    pub events: Vec<StoreEvent>,
    memory: u64,
    _dir: tempfile::TempDir,
}

/// A function of a test: the streams it reads (with `keep`) and the streams it writes.
#[derive(Default)]
pub struct Function {
    /// Its inputs, each with its streams, and whether the function keeps their bytes.
    pub inputs: Vec<(&'static str, Vec<u32>, bool)>,
    /// Its outputs, each with its streams; without streams, its parts are discovered.
    pub outputs: Vec<(&'static str, Vec<u32>)>,
    /// How long it polls before it sleeps.
    pub spin: Duration,
    /// It may be started again, so that all its inputs keep their bytes.
    pub restartable: bool,
}

impl Node {
    /// A node with this budget, on which [`RUN`] is admitted.
    pub fn new(memory: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::spilling_to(memory, dir.path().to_owned(), dir)
    }

    /// The same with spill files in this directory, which `dir` removes at the end.
    pub fn spilling_to(memory: u64, path: std::path::PathBuf, dir: tempfile::TempDir) -> Self {
        let (sender, arrivals) = queue();
        let done = sender.clone();
        let threads = Threads::start(&path, IoChoice::Auto, move |completion| {
            let _ = done.send(Arrival::Completed(completion));
        });
        let mut store = Store::new(Config::new(memory), Box::new(threads.unwrap())).unwrap();
        store.admit(RUN, TenantId(1), Config::MIN_MEMORY, memory).unwrap();
        Self {
            store,
            arrivals,
            sender,
            sockets: BTreeMap::new(),
            counts: BTreeMap::new(),
            bells: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            misbehaved: Vec::new(),
            failed: None,
            live: 0,
            threads: BTreeMap::new(),
            gone: BTreeSet::new(),
            told_unread: BTreeSet::new(),
            events: Vec::new(),
            memory,
            _dir: dir,
        }
    }

    /// Opens streams and subscribes every function to what it reads, before anything starts.
    pub fn plan(&mut self, streams: &[u32], functions: &[(u32, &Function)]) {
        for &stream in streams {
            self.store.open_stream(key(stream), false);
        }
        for (instance, function) in functions {
            for (input, (_, streams, keep)) in function.inputs.iter().enumerate() {
                for &stream in streams {
                    let subscriber = Subscriber { instance: InstanceId(*instance), input: input as u32 };
                    self.store.subscribe(now(), key(stream), subscriber, *keep || function.restartable);
                }
            }
        }
    }

    /// Starts a function in a thread of its own, with its gate open. The attempt before under this id is over.
    pub fn start(
        &mut self,
        id: u32,
        function: &Function,
        work: impl FnOnce(&mut Context) -> Result<(), Error> + Send + 'static,
    ) {
        self.start_raw(id, function, move |socket| {
            let _ = serve(socket, work);
        });
    }

    /// Starts something that speaks with the store as it likes; its end is the end of its socket.
    pub fn start_raw(&mut self, id: u32, function: &Function, body: impl FnOnce(OwnedFd) + Send + 'static) {
        self.begin(id, function, body);
        self.get_slot(id);
    }

    /// The same as [`Node::start`] for a function that has no slot yet.
    pub fn queue(
        &mut self,
        id: u32,
        function: &Function,
        work: impl FnOnce(&mut Context) -> Result<(), Error> + Send + 'static,
    ) {
        self.begin(id, function, move |socket| {
            let _ = serve(socket, work);
        });
        self.store.set_queued(ProcessId(u64::from(id)), true);
    }

    /// A function that was queued gets its slot.
    pub fn get_slot(&mut self, id: u32) {
        self.store.start(ProcessId(u64::from(id)));
        self.flush();
    }

    /// Makes an attempt that is still to be started.
    fn begin(&mut self, id: u32, function: &Function, body: impl FnOnce(OwnedFd) + Send + 'static) {
        let process = ProcessId(u64::from(id));
        let setup = setup(process, function);
        let (ours, theirs) = channel::pair().unwrap();
        let ours = Arc::new(ours);
        self.counts.remove(&process);
        self.outcomes.remove(&process);
        self.gone.remove(&process);
        self.sockets.insert(process, Socket::new(&ours));
        let outputs: Vec<Vec<StreamId>> =
            function.outputs.iter().map(|(_, streams)| streams.iter().map(|&id| StreamId(id)).collect()).collect();
        self.store.begin(run_of(id), process, setup, &outputs).unwrap();
        for (input, (_, streams, _)) in function.inputs.iter().enumerate() {
            let subscriber = Subscriber { instance: InstanceId(id), input: input as u32 };
            for &stream in streams {
                self.store.add_input(process, subscriber, key(stream)).unwrap();
            }
            self.store.inputs_complete(process, input as u32);
        }
        self.listen(process, ours);
        self.threads.insert(process, std::thread::spawn(move || body(theirs)));
        self.live += 1;
        self.flush();
    }

    /// An attempt that carries the streams of a run: its end of the channel.
    pub fn attach(&mut self, run: RunId) -> OwnedFd {
        let carrier = carrier_of(run);
        let setup = setup(carrier, &Function::default());
        let (ours, theirs) = channel::pair().unwrap();
        let ours = Arc::new(ours);
        self.counts.remove(&carrier);
        self.gone.remove(&carrier);
        self.sockets.insert(carrier, Socket::new(&ours));
        self.store.begin_carrier(run, carrier, setup).unwrap();
        self.store.start(carrier);
        self.listen(carrier, ours);
        self.flush();
        theirs
    }

    /// One more run on this node.
    pub fn admit(&mut self, run: RunId) {
        self.store.admit(run, TenantId(1), Config::MIN_MEMORY, self.memory).unwrap();
    }

    /// Whether every function that was started has ended.
    pub fn is_idle(&self) -> bool {
        self.live == 0
    }

    /// Kills a function: it fails when it next looks at its channel, and is made to look.
    pub fn kill(&mut self, id: u32) -> Option<JoinHandle<()>> {
        let process = ProcessId(u64::from(id));
        if !self.gone.contains(&process) {
            self.hang_up(process);
            self.ring_in_vain(process);
        }
        self.threads.remove(&process)
    }

    /// Says nothing more to an attempt, and hears nothing of it.
    pub fn hang_up(&mut self, process: ProcessId) {
        if let Some(socket) = self.sockets.get(&process) {
            rustix::net::shutdown(&socket.socket, rustix::net::Shutdown::Both).unwrap();
        }
    }

    /// How many functions have not ended.
    pub fn functions(&self) -> usize {
        self.live
    }

    /// Announces a message to an attempt that is never sent.
    pub fn ring_in_vain(&mut self, process: ProcessId) {
        let count = self.counts.get(&process).copied().unwrap_or(0) + 1;
        self.store.bells().ring(self.bells[&process], count);
    }

    /// For other threads that have something for this node.
    pub fn sender(&self) -> Sender<Arrival> {
        self.sender.clone()
    }

    fn listen(&self, process: ProcessId, ours: Arc<OwnedFd>) {
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; MAX_MESSAGE];
            loop {
                match channel::receive(ours.as_fd(), &mut buffer, true) {
                    Ok((0, _)) | Err(_) => break,
                    Ok((length, fds)) => {
                        let message = ToDaemon::decode(&buffer[..length]).unwrap();
                        let _ = sender.send(Arrival::Message(process, message, fds));
                    }
                }
            }
            let _ = sender.send(Arrival::Gone(process));
        });
    }

    /// Sends what the store has to say.
    pub fn flush(&mut self) {
        for outgoing in self.store.take_outgoing() {
            let count = self.counts.entry(outgoing.process).or_default();
            *count += 1;
            self.bells.insert(outgoing.process, outgoing.bell);
            let packet = outgoing.message.encode().unwrap();
            // Rung first: an attempt that sees the bell waits for the packet.
            self.store.bells().ring(outgoing.bell, *count);
            // A carrier's channel is closed before its attempt has ended.
            let Some(socket) = self.sockets.get_mut(&outgoing.process) else { continue };
            socket.waiting.push_back((packet, outgoing.fd));
            // Otherwise a thread waits for room already.
            if socket.waiting.len() == 1 {
                self.send_waiting(outgoing.process);
            }
        }
    }

    /// Never blocks: a function that does not read must not delay the others.
    fn send_waiting(&mut self, process: ProcessId) {
        let Some(socket) = self.sockets.get_mut(&process) else { return };
        while let Some((packet, fd)) = socket.waiting.front() {
            let fd: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            if channel::send(socket.socket.as_fd(), packet, &fd, false) == Err(Errno::AGAIN) {
                let (socket, sender) = (Arc::clone(&socket.socket), self.sender.clone());
                std::thread::spawn(move || {
                    let _ = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], None);
                    let _ = sender.send(Arrival::Writable(process));
                });
                return;
            }
            // A packet to a closed channel is lost.
            socket.waiting.pop_front();
        }
    }

    /// Handles one arrival; gives up after a minute.
    pub fn step(&mut self) {
        match self.arrivals.recv_timeout(Duration::from_millis(20)) {
            Ok(Arrival::Message(process, message, fds)) => self.store.receive(now(), process, message, fds),
            Ok(Arrival::Gone(process)) if self.store.is_comparing(process) => {
                let _ = self.sender.send(Arrival::Gone(process));
            }
            // Its streams stay as they are.
            Ok(Arrival::Gone(process)) if process >= CARRIER => {
                self.sockets.remove(&process);
                self.gone.insert(process);
            }
            Ok(Arrival::Gone(process)) => {
                self.store.examine(process);
                if self.store.was_told_unread(process) {
                    self.told_unread.insert(process);
                }
                let well = matches!(self.outcomes.get(&process), Some(Ok(())));
                self.store.end(now(), process, well);
                self.live -= 1;
                self.gone.insert(process);
            }
            Ok(Arrival::Completed(completion)) => self.store.complete(now(), completion),
            Ok(Arrival::Writable(process)) => self.send_waiting(process),
            Ok(Arrival::Work(work)) => work(self),
            Err(_) => self.store.tick(now()),
        }
        for event in self.store.take_events() {
            match &event {
                StoreEvent::Ended(process, outcome) => {
                    self.outcomes.insert(*process, outcome.clone());
                }
                StoreEvent::Misbehaved(process, what) => self.misbehaved.push((*process, what.clone())),
                StoreEvent::Failed(_, why) => self.failed = Some(why.to_string()),
                _ => {}
            }
            self.events.push(event);
        }
        self.flush();
    }

    /// Runs until every function has ended.
    pub fn run(&mut self) {
        self.run_until(|node| node.live == 0);
    }

    /// Runs until something holds.
    pub fn run_until(&mut self, holds: impl Fn(&Self) -> bool) {
        self.try_until(holds, Duration::from_secs(60)).unwrap();
    }

    /// Runs until every function has ended; an error if that takes longer.
    pub fn run_within(&mut self, limit: Duration) -> Result<(), String> {
        self.try_until(|node| node.live == 0, limit)
    }

    fn try_until(&mut self, holds: impl Fn(&Self) -> bool, limit: Duration) -> Result<(), String> {
        let start = std::time::Instant::now();
        while !holds(self) {
            self.step();
            if start.elapsed() >= limit {
                return Err(format!("stuck: {:?}, {} functions have not ended", self.store.usage(), self.live));
            }
            if let Some(failed) = &self.failed {
                return Err(failed.clone());
            }
        }
        Ok(())
    }

    /// Whether nothing of an attempt runs any more.
    pub fn is_gone(&self, id: u32) -> bool {
        self.gone.contains(&ProcessId(u64::from(id)))
    }

    /// Whether the carrier has closed its channel for a run.
    pub fn is_detached(&self, run: RunId) -> bool {
        self.gone.contains(&carrier_of(run))
    }
}

impl Socket {
    fn new(socket: &Arc<OwnedFd>) -> Self {
        Self { socket: Arc::clone(socket), waiting: VecDeque::new() }
    }
}

/// The run of a test that has one.
pub const RUN: RunId = RunId(7);

/// Tests with more runs number their streams and functions by run, in steps of this: the first run is [`RUN`].
pub const RUN_STEP: u32 = 1_000_000;

/// The run of a stream or function with this number.
pub fn run_of(number: u32) -> RunId {
    RunId(RUN.0 + u128::from(number / RUN_STEP))
}

/// A stream, in the run that its number says.
pub fn key(stream: u32) -> RunStream {
    RunStream { run: run_of(stream), stream: StreamId(stream) }
}

/// The time as the store of a test counts it.
pub fn now() -> Duration {
    Duration::from_nanos(dflow_shm::now_nanos())
}

/// The setup of an attempt of a function.
pub fn setup(process: ProcessId, function: &Function) -> Setup {
    Setup {
        version: PROTOCOL_VERSION,
        run: "test".into(),
        instance: format!("f{}", process.0),
        part: None,
        part_file: None,
        attempt: 1,
        params: Vec::new(),
        inputs: function
            .inputs
            .iter()
            .map(|(name, streams, keep)| InputSpec {
                name: (*name).into(),
                many: streams.len() > 1,
                keep: *keep,
                stdin: false,
            })
            .collect(),
        outputs: function
            .outputs
            .iter()
            .map(|(name, streams)| OutputSpec {
                name: (*name).into(),
                streams: match streams.len() {
                    0 => OutputStreams::Discovered,
                    1 => OutputStreams::Single(PortId(0)),
                    count => OutputStreams::Fixed(PortId(0), count as u32),
                },
                stdout: false,
            })
            .collect(),
        bell: 0,
        arena: SegmentId(0),
        spin_nanos: function.spin.as_nanos() as u64,
        command: None,
    }
}

/// The byte at an offset of a test stream.
pub fn byte_at(stream: u32, offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) as u8).wrapping_add(stream as u8)
}

/// Writes `length` bytes of a test stream in rooms of changing sizes.
pub fn produce(ctx: &mut Context, name: &str, stream: u32, length: u64, most: usize) -> Result<(), Error> {
    let mut out = ctx.output(name)?;
    let mut at = 0;
    let mut step = 1usize;
    while at < length {
        step = (step * 7 + 13) % most + 1;
        let take = step.min((length - at) as usize);
        let mut room = out.reserve(take)?;
        for (index, byte) in room[..take].iter_mut().enumerate() {
            *byte = byte_at(stream, at + index as u64);
        }
        room.commit(take)?;
        at += take as u64;
    }
    Ok(())
}

/// Reads a test stream to its end and checks every byte.
pub fn verify(input: &mut dflow_function::Input, stream: u32) -> Result<u64, Error> {
    let mut at = input.position();
    while let Some(chunk) = input.chunk()? {
        for &byte in chunk {
            if byte != byte_at(stream, at) {
                return Err(Error::new(format!("stream {stream} has a wrong byte at {at}")));
            }
            at += 1;
        }
    }
    Ok(at)
}

/// The same by one slice over everything so far, which grows.
pub fn verify_slice(input: &mut dflow_function::Input, stream: u32) -> Result<u64, Error> {
    let mut have = 0;
    loop {
        let more = input.wait_for(have + 1)?;
        let all = input.so_far()?;
        if let Some((_, at)) = all.iter().zip(0..).find(|(byte, at)| **byte != byte_at(stream, *at)) {
            return Err(Error::new(format!("wrong byte at {at} of {}", all.len())));
        }
        if more <= have {
            return Ok(have);
        }
        have = more;
    }
}
