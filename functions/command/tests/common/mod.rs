//! Commands in adapter processes and functions in threads, connected by a real store: a node without a scheduler.

use dflow_command::ARGUMENT;
use dflow_disk::IoChoice;
use dflow_function::{ArgPiece, Context, Error, Input, InputSpec, Output, OutputSpec, OutputStreams, Setup, serve};
use dflow_protocol::limits::{MAX_MESSAGE, PROTOCOL_VERSION};
use dflow_protocol::message::ToDaemon;
use dflow_protocol::{InstanceId, PortId, RunId, SegmentId, StreamId};
use dflow_shm::channel;
use dflow_store::{Completion, Config, ProcessId, RunStream, Store, StoreEvent, Subscriber, TenantId, Threads};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel as queue};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The memory of a flow's store, in bytes.
const MEMORY: u64 = 64 << 20;

/// How long the functions of a test may take together.
const PATIENCE: Duration = Duration::from_secs(60);

type Work = Box<dyn FnOnce(&mut Context) -> Result<(), Error> + Send>;

/// A stream of a flow.
#[derive(Clone, Copy)]
pub struct Stream(u32);

/// A function of a flow, by which its outcome is found.
#[derive(Clone, Copy)]
pub struct Function(usize);

/// Functions and their streams, all of which are known before anything starts.
pub struct Flow {
    adapter: (PathBuf, Vec<OsString>),
    functions: Vec<Declared>,
    streams: u32,
}

struct Declared {
    inputs: Vec<(InputSpec, Vec<u32>)>,
    outputs: Vec<(OutputSpec, u32)>,
    env: Vec<(&'static str, &'static str)>,
    command: Option<Vec<Vec<ArgPiece>>>,
    work: Option<Work>,
}

/// A command of a flow: ports first, then its arguments.
pub struct Ports {
    inputs: Vec<(InputSpec, Vec<u32>)>,
    outputs: Vec<(OutputSpec, u32)>,
    env: Vec<(&'static str, &'static str)>,
}

impl Ports {
    pub fn none() -> Self {
        Self { inputs: Vec::new(), outputs: Vec::new(), env: Vec::new() }
    }

    pub fn stdin(self, streams: &[Stream]) -> Self {
        self.port("stdin", streams, true)
    }

    pub fn input(self, name: &str, streams: &[Stream]) -> Self {
        self.port(name, streams, false)
    }

    /// The last input is kept.
    pub fn kept(mut self) -> Self {
        self.inputs.last_mut().unwrap().0.keep = true;
        self
    }

    pub fn stdout(mut self, flow: &mut Flow) -> (Self, Stream) {
        let stream = flow.stream();
        self.outputs.push((single("stdout", true), stream.0));
        (self, stream)
    }

    pub fn output(mut self, name: &str, flow: &mut Flow) -> (Self, Stream) {
        let stream = flow.stream();
        self.outputs.push((single(name, false), stream.0));
        (self, stream)
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.push((name, value));
        self
    }

    fn port(mut self, name: &str, streams: &[Stream], stdin: bool) -> Self {
        let spec = InputSpec { name: name.into(), many: streams.len() != 1, keep: false, stdin };
        self.inputs.push((spec, streams.iter().map(|stream| stream.0).collect()));
        self
    }

    /// The pieces of an argument with `{in.NAME}` and `{out.NAME}`.
    fn pieces(&self, argument: &str) -> Vec<ArgPiece> {
        let mut pieces = Vec::new();
        let mut rest = argument;
        while let Some((before, after)) = rest.split_once('{')
            && let Some((port, after)) = after.split_once('}')
        {
            let index = |found: Option<usize>| found.unwrap() as u32;
            let piece = match port.split_once('.') {
                Some(("in", name)) => {
                    ArgPiece::Input(index(self.inputs.iter().position(|(spec, _)| spec.name == name)))
                }
                Some(("out", name)) => {
                    ArgPiece::Output(index(self.outputs.iter().position(|(spec, _)| spec.name == name)))
                }
                _ => panic!("{{{port}}} names no port"),
            };
            if !before.is_empty() {
                pieces.push(ArgPiece::Text(before.into()));
            }
            pieces.push(piece);
            rest = after;
        }
        if !rest.is_empty() || pieces.is_empty() {
            pieces.push(ArgPiece::Text(rest.into()));
        }
        pieces
    }
}

fn single(name: &str, stdout: bool) -> OutputSpec {
    OutputSpec { name: name.into(), streams: OutputStreams::Single(PortId(0)), stdout }
}

/// How the functions of a flow ended.
pub struct Outcomes {
    results: Vec<Result<(), (String, bool)>>,
    stderr: Vec<String>,
    finished: BTreeSet<RunStream>,
}

impl Outcomes {
    /// Asserts that a function has ended well.
    pub fn well(&self, function: Function) {
        assert_eq!(self.results[function.0], Ok(()), "stderr: {}", self.stderr[function.0]);
    }

    /// Why a function has failed.
    pub fn reason(&self, function: Function) -> &str {
        match &self.results[function.0] {
            Err((reason, false)) => reason,
            other => panic!("{other:?}, stderr: {}", self.stderr[function.0]),
        }
    }

    /// Asserts that a function has ended because it had no reader left.
    pub fn unread(&self, function: Function) {
        let result = &self.results[function.0];
        assert!(matches!(result, Err((_, true))), "{result:?}, stderr: {}", self.stderr[function.0]);
    }

    /// Whether a stream is complete.
    pub fn is_finished(&self, stream: Stream) -> bool {
        self.finished.contains(&key(stream.0))
    }

    /// The standard error of a command.
    pub fn stderr(&self, function: Function) -> &str {
        &self.stderr[function.0]
    }
}

impl Flow {
    /// `adapter`: the program that becomes the adapter when [`ARGUMENT`] and the path of the command's program follow.
    pub fn new(adapter: &str) -> Self {
        Self { adapter: (adapter.into(), vec![ARGUMENT.into()]), functions: Vec::new(), streams: 0 }
    }

    fn stream(&mut self) -> Stream {
        self.streams += 1;
        Stream(self.streams)
    }

    fn declare(&mut self, ports: Ports, command: Option<Vec<Vec<ArgPiece>>>, work: Option<Work>) -> Function {
        self.functions.push(Declared { inputs: ports.inputs, outputs: ports.outputs, env: ports.env, command, work });
        Function(self.functions.len() - 1)
    }

    /// A function that writes a stream.
    pub fn source(
        &mut self,
        work: impl FnOnce(&mut Output) -> Result<(), Error> + Send + 'static,
    ) -> (Function, Stream) {
        let (ports, stream) = Ports::none().output("out", self);
        let function = self.declare(ports, None, Some(Box::new(|ctx| work(&mut ctx.output("out")?))));
        (function, stream)
    }

    /// A stream that consists of this text.
    pub fn text(&mut self, text: &'static str) -> Stream {
        self.source(|out| out.write_all(text.as_bytes())).1
    }

    /// A function that reads a stream.
    pub fn sink(
        &mut self,
        stream: Stream,
        work: impl FnOnce(&mut Input) -> Result<(), Error> + Send + 'static,
    ) -> Function {
        let ports = Ports::none().input("in", &[stream]);
        self.declare(ports, None, Some(Box::new(|ctx| work(&mut ctx.input("in")?))))
    }

    /// Everything of a stream, once the flow has run.
    pub fn collect(&mut self, stream: Stream) -> Receiver<String> {
        let (sender, receiver) = queue();
        self.sink(stream, move |input| {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes)?;
            sender.send(String::from_utf8_lossy(&bytes).into_owned())?;
            Ok(())
        });
        receiver
    }

    /// A command. Its program is searched as a shell does.
    pub fn command(&mut self, ports: Ports, arguments: &[&str]) -> Function {
        let pieces = arguments.iter().map(|argument| ports.pieces(argument)).collect();
        self.declare(ports, Some(pieces), None)
    }

    /// Runs all of it, to the end of every function.
    pub fn run(mut self) -> Outcomes {
        let mut node = Node::new();
        for stream in 1..=self.streams {
            node.store.open_stream(key(stream), false);
        }
        for (id, function) in self.functions.iter().enumerate() {
            for (index, (spec, streams)) in function.inputs.iter().enumerate() {
                for &stream in streams {
                    node.store.subscribe(now(), key(stream), subscriber(id, index), spec.keep);
                }
            }
        }
        let adapter = self.adapter.clone();
        let captured: Vec<_> = self
            .functions
            .iter_mut()
            .enumerate()
            .map(|(id, function)| {
                let socket = node.begin(id, function);
                match function.work.take() {
                    Some(work) => {
                        std::thread::spawn(move || {
                            let _ = serve(socket, work);
                        });
                        None
                    }
                    None => Some(adapt(&adapter, function, socket)),
                }
            })
            .collect();
        node.run();
        let stderr = captured.into_iter().map(|thread| thread.map_or(String::new(), |it| it.join().unwrap()));
        Outcomes { stderr: stderr.collect(), results: node.outcomes.into_values().collect(), finished: node.finished }
    }
}

/// Starts an adapter process and collects its standard error.
fn adapt(adapter: &(PathBuf, Vec<OsString>), function: &Declared, socket: OwnedFd) -> JoinHandle<String> {
    use command_fds::CommandFdExt;
    let Some([ArgPiece::Text(name)]) = function.command.as_ref().map(|command| &command[0][..]) else {
        panic!("a command begins with a program");
    };
    let mut command = Command::new(&adapter.0);
    command.args(&adapter.1).arg(resolve(name)).env("DFLOW_SOCKET", socket.as_raw_fd().to_string());
    command.envs(function.env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::piped());
    command.preserved_fds(vec![socket]);
    let mut child = command.spawn().unwrap();
    std::thread::spawn(move || {
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        text
    })
}

fn resolve(name: &str) -> PathBuf {
    if name.contains('/') {
        return name.into();
    }
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists()).unwrap_or(name.into())
}

/// The one run of the store.
const RUN: RunId = RunId(7);

fn key(stream: u32) -> RunStream {
    RunStream { run: RUN, stream: StreamId(stream) }
}

/// The time as the store counts it.
fn now() -> Duration {
    Duration::from_nanos(dflow_shm::now_nanos())
}

fn subscriber(function: usize, input: usize) -> Subscriber {
    Subscriber { instance: InstanceId(function as u32), input: input as u32 }
}

enum Arrival {
    Message(ProcessId, ToDaemon, Vec<OwnedFd>),
    Gone(ProcessId),
    Completed(Completion),
}

struct Node {
    store: Store,
    arrivals: Receiver<Arrival>,
    sender: Sender<Arrival>,
    sockets: BTreeMap<ProcessId, Arc<OwnedFd>>,
    counts: BTreeMap<ProcessId, u64>,
    outcomes: BTreeMap<ProcessId, Result<(), (String, bool)>>,
    finished: BTreeSet<RunStream>,
    live: usize,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sender, arrivals) = queue();
        let done = sender.clone();
        let threads = Threads::start(dir.path(), IoChoice::Auto, move |completion| {
            let _ = done.send(Arrival::Completed(completion));
        });
        let mut store = Store::new(Config::new(MEMORY), Box::new(threads.unwrap())).unwrap();
        store.admit(RUN, TenantId(1), Config::MIN_MEMORY, MEMORY).unwrap();
        let (sockets, counts, outcomes, finished) = Default::default();
        Self { store, arrivals, sender, sockets, counts, outcomes, finished, live: 0, _dir: dir }
    }

    /// Begins an attempt with an open gate; the function's end of its channel.
    fn begin(&mut self, id: usize, function: &Declared) -> OwnedFd {
        let process = ProcessId(id as u64);
        let setup = Setup {
            version: PROTOCOL_VERSION,
            run: "test".into(),
            instance: format!("f{id}"),
            part: None,
            part_file: None,
            attempt: 1,
            params: Vec::new(),
            inputs: function.inputs.iter().map(|(spec, _)| spec.clone()).collect(),
            outputs: function.outputs.iter().map(|(spec, _)| spec.clone()).collect(),
            bell: 0,
            arena: SegmentId(0),
            spin_nanos: 0,
            command: function.command.clone(),
        };
        let (ours, theirs) = channel::pair().unwrap();
        let ours = Arc::new(ours);
        self.sockets.insert(process, Arc::clone(&ours));
        let outputs: Vec<_> = function.outputs.iter().map(|(_, stream)| vec![StreamId(*stream)]).collect();
        self.store.begin(RUN, process, setup, &outputs).unwrap();
        for (index, (_, streams)) in function.inputs.iter().enumerate() {
            for &stream in streams {
                self.store.add_input(process, subscriber(id, index), key(stream)).unwrap();
            }
            self.store.inputs_complete(process, index as u32);
        }
        self.store.start(process);
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; MAX_MESSAGE];
            while let Ok((length @ 1.., fds)) = channel::receive(ours.as_fd(), &mut buffer, true) {
                let message = ToDaemon::decode(&buffer[..length]).unwrap();
                let _ = sender.send(Arrival::Message(process, message, fds));
            }
            let _ = sender.send(Arrival::Gone(process));
        });
        self.live += 1;
        self.flush();
        theirs
    }

    fn flush(&mut self) {
        for outgoing in self.store.take_outgoing() {
            let count = self.counts.entry(outgoing.process).or_default();
            *count += 1;
            let packet = outgoing.message.encode().unwrap();
            let fd: Vec<_> = outgoing.fd.iter().map(AsFd::as_fd).collect();
            // Rung first: a receiver that sees the bell waits for the packet.
            self.store.bells().ring(outgoing.bell, *count);
            let _ = channel::send(self.sockets[&outgoing.process].as_fd(), &packet, &fd, true);
        }
    }

    fn run(&mut self) {
        let start = Instant::now();
        while self.live > 0 {
            assert!(start.elapsed() < PATIENCE, "stuck: {:?}, {:?}", self.store.usage(), self.outcomes);
            self.step();
        }
    }

    fn step(&mut self) {
        match self.arrivals.recv_timeout(Duration::from_millis(20)) {
            Ok(Arrival::Message(process, message, fds)) => self.store.receive(now(), process, message, fds),
            Ok(Arrival::Gone(process)) => {
                let well = matches!(self.outcomes.get(&process), Some(Ok(())));
                self.store.end(now(), process, well);
                self.live -= 1;
            }
            Ok(Arrival::Completed(completion)) => self.store.complete(now(), completion),
            Err(_) => self.store.tick(now()),
        }
        for event in self.store.take_events() {
            match event {
                StoreEvent::Ended(process, outcome) => {
                    self.outcomes.insert(process, outcome);
                }
                StoreEvent::Finished(stream, _) => {
                    self.finished.insert(stream);
                }
                StoreEvent::Misbehaved(process, what) => panic!("{process:?}: {what}"),
                StoreEvent::Failed(_, why) => panic!("{why}"),
                _ => {}
            }
        }
        self.flush();
    }
}
