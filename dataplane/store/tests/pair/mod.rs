//! A store with a producer and a reader whose words and messages a test makes up.

#![allow(dead_code, reason = "no file of tests uses all of it")]

use crate::sim::machine::{Machine, Speed};
use dflow_protocol::limits::PROTOCOL_VERSION;
use dflow_protocol::message::{InputSpec, OutputSpec, OutputStreams, Setup, ToDaemon, ToFunction};
use dflow_protocol::words::{Progress, State};
use dflow_protocol::{InstanceId, PortId, SegmentId, StreamId};
use dflow_shm::Control;
use dflow_store::{Config, ProcessId, RunStream, Store, StoreEvent, Subscriber, TenantId};
use dflow_testkit::node::RUN;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub const STREAM: RunStream = RunStream { run: RUN, stream: StreamId(1) };
pub const PRODUCER: ProcessId = ProcessId(1);
pub const READER: ProcessId = ProcessId(2);
pub const PORT: PortId = PortId(0);

/// A store with a producer and a reader whose words this test writes itself.
pub struct Pair {
    pub store: Store,
    pub producer: Control,
    pub reader: Control,
}

pub fn setup(inputs: Vec<InputSpec>, outputs: Vec<OutputSpec>) -> Setup {
    Setup {
        version: PROTOCOL_VERSION,
        run: "test".into(),
        instance: "f".into(),
        part: None,
        part_file: None,
        attempt: 1,
        params: Vec::new(),
        inputs,
        outputs,
        bell: 0,
        arena: SegmentId(0),
        spin_nanos: 0,
        command: None,
    }
}

impl Pair {
    pub fn new() -> Self {
        Self::with(false)
    }

    /// With `carried`, the stream comes from another node.
    pub fn with(carried: bool) -> Self {
        let machine = Machine::new(Speed::default());
        let mut store = Store::new(Config::new(1 << 20), machine.backend()).unwrap();
        store.admit(RUN, TenantId(1), Config::MIN_MEMORY, 1 << 20).unwrap();
        let subscriber = Subscriber { instance: InstanceId(2), input: 0 };
        store.open_stream(STREAM, false);
        store.subscribe(Duration::ZERO, STREAM, subscriber, false);
        let output = OutputSpec { name: "o".into(), streams: OutputStreams::Single(PORT), stdout: false };
        if carried {
            store.begin_carrier(RUN, PRODUCER, setup(Vec::new(), Vec::new())).unwrap();
            assert_eq!(store.import(PRODUCER, STREAM).unwrap(), Some(PORT));
        } else {
            store.begin(RUN, PRODUCER, setup(Vec::new(), vec![output]), &[vec![STREAM.stream]]).unwrap();
        }
        let input = InputSpec { name: "i".into(), many: false, keep: false, stdin: false };
        store.begin(RUN, READER, setup(vec![input], Vec::new()), &[]).unwrap();
        store.add_input(READER, subscriber, STREAM).unwrap();
        let mut pair = Self { store, producer: Control::create().unwrap(), reader: Control::create().unwrap() };
        for process in [PRODUCER, READER] {
            let control = if process == PRODUCER { &pair.producer } else { &pair.reader };
            let page = control.segment().as_fd().try_clone_to_owned().unwrap();
            pair.store.receive(Duration::ZERO, process, ToDaemon::Hello { version: PROTOCOL_VERSION }, vec![page]);
            pair.store.start(process);
        }
        pair.blamed();
        pair
    }

    pub fn publish(&self, process: ProcessId, offset: u64) {
        self.publish_state(process, offset, State::Open);
    }

    pub fn publish_state(&self, process: ProcessId, offset: u64, state: State) {
        let control = if process == PRODUCER { &self.producer } else { &self.reader };
        control.port(PORT).progress.store(Progress { offset, state }.encode(), Ordering::Release);
    }

    /// The reader has its first piece and has read so far in it.
    pub fn reader_at(&mut self, offset: u64) {
        self.say(READER, ToDaemon::NextPiece { port: PORT, at: 0, lends: false });
        self.publish(READER, offset);
        self.told();
    }

    pub fn verify(&mut self, at: u64) {
        self.say(READER, ToDaemon::Verify { port: PORT, at });
    }

    /// The messages to the reader since the last call.
    pub fn told(&mut self) -> Vec<ToFunction> {
        self.told_to(READER)
    }

    /// The messages to one of them since the last call; those to the other are lost.
    pub fn told_to(&mut self, process: ProcessId) -> Vec<ToFunction> {
        self.store.take_outgoing().into_iter().filter(|it| it.process == process).map(|it| it.message).collect()
    }

    pub fn is_finished(&mut self) -> bool {
        self.store.take_events().iter().any(|event| matches!(event, StoreEvent::Finished(..)))
    }

    pub fn say(&mut self, process: ProcessId, message: ToDaemon) {
        self.store.receive(Duration::ZERO, process, message, Vec::new());
    }

    /// The processes that were condemned since the last call.
    pub fn blamed(&mut self) -> Vec<ProcessId> {
        let blamed = |event| match event {
            StoreEvent::Misbehaved(process, _) => Some(process),
            _ => None,
        };
        self.store.take_events().into_iter().filter_map(blamed).collect()
    }
}
