//! Which readers hold back their producer: the words of all attempts are this test's own.

mod sim;

use dflow_protocol::limits::{ARENA_SLOT, PROTOCOL_VERSION};
use dflow_protocol::message::{ToDaemon, ToFunction, Window};
use dflow_protocol::words::{Progress, Sleeper};
use dflow_protocol::{InstanceId, PortId, StreamId};
use dflow_shm::{Control, Kernel};
use dflow_store::{Config, ProcessId, Store, Subscriber, TenantId};
use dflow_testkit::node::{Function, RUN, key, setup};
use sim::machine::{Machine, Speed};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// After so long a reader that does not move is stuck.
const STUCK_AFTER: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(60);

/// A chain of three functions: the first writes stream 1, the middle one reads it and writes stream 2, the last reads
/// that.
const FIRST: usize = 1;
const MIDDLE: usize = 2;
const LAST: usize = 3;

struct Chain {
    store: Store,
    controls: Vec<Control>,
    ports: [PortId; 4],
    machine: Machine,
}

impl Chain {
    /// All of them run, and the first one has filled a ring that the one in the middle holds.
    fn with_held_ring() -> (Self, u64) {
        let machine = Machine::new(Speed { back: Duration::ZERO, ..Speed::default() });
        let mut store = Store::new(Config::new(64 * MIB), machine.backend()).unwrap();
        store.admit(RUN, TenantId(1), Config::MIN_MEMORY, 64 * MIB).unwrap();
        let controls = (0..4).map(|_| Control::create().unwrap()).collect();
        let mut chain = Self { store, controls, ports: [PortId(0); 4], machine };
        let input = |stream| vec![("in", vec![stream], false)];
        let output = |stream| vec![("out", vec![stream])];
        for stream in [1, 2] {
            chain.store.open_stream(key(stream), false);
            let reader = Subscriber { instance: InstanceId(stream + 1), input: 0 };
            chain.store.subscribe(Duration::ZERO, key(stream), reader, false);
        }
        chain.begin(FIRST, &Function { outputs: output(1), ..Function::default() });
        chain.begin(MIDDLE, &Function { inputs: input(1), outputs: output(2), ..Function::default() });
        chain.begin(LAST, &Function { inputs: input(2), ..Function::default() });
        chain.publish(FIRST, ARENA_SLOT);
        let ring = chain.ask(ARENA_SLOT, false).expect("a first window");
        assert!(ring.ring);
        let full = ARENA_SLOT + ring.size;
        chain.publish(FIRST, full);
        (chain, full)
    }

    fn begin(&mut self, which: usize, function: &Function) {
        let process = ProcessId(which as u64);
        let outputs: Vec<_> =
            function.outputs.iter().map(|(_, ids)| ids.iter().map(|&id| StreamId(id)).collect()).collect();
        self.store.begin(RUN, process, setup(process, function), &outputs).unwrap();
        let page = self.controls[which].segment().as_fd().try_clone_to_owned().unwrap();
        self.store.receive(self.machine.now(), process, ToDaemon::Hello { version: PROTOCOL_VERSION }, vec![page]);
        for (_, ids, _) in &function.inputs {
            let subscriber = Subscriber { instance: InstanceId(which as u32), input: 0 };
            self.store.add_input(process, subscriber, key(ids[0])).unwrap();
            // Ports are given in order: those of the outputs first.
            self.ports[which] = PortId(function.outputs.len() as u32);
        }
        self.store.start(process);
    }

    /// Where the first one writes or the last one reads.
    fn publish(&self, which: usize, offset: u64) {
        let words = self.controls[which].port(self.ports[which]);
        words.progress.store(Progress::open(offset).encode(), Ordering::Release);
    }

    /// The one in the middle waits until the last one, which is at `offset`, makes room in its output.
    fn middle_sleeps_for_room(&self, offset: u64) {
        let ticket = &self.controls[MIDDLE].port(PortId(0)).ticket;
        Sleeper::default().prepare::<Kernel>(ticket, Progress::open(offset).encode());
    }

    /// The first one asks for a window; `None` if it is to stay where it is.
    fn ask(&mut self, at: u64, held: bool) -> Option<Window> {
        let first = ProcessId(FIRST as u64);
        let question = ToDaemon::NeedWindow { port: PortId(0), at, least: 1, held };
        self.store.receive(self.machine.now(), first, question, Vec::new());
        while let Some(completion) = self.machine.take_done() {
            self.store.complete(self.machine.now(), completion);
        }
        let said = self.store.take_outgoing().into_iter().filter(|it| it.process == first);
        let answers: Vec<_> = said
            .filter_map(|it| match it.message {
                ToFunction::Window { window, .. } => Some(Some(window)),
                ToFunction::Stay { .. } => Some(None),
                _ => None,
            })
            .collect();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers[0]
    }

    /// Asks every few milliseconds until it gets a window; how long that took, `None` if it was [`LONG`].
    fn ask_for(&mut self, at: u64) -> Option<(Window, Duration)> {
        let start = self.machine.now();
        loop {
            let waited = self.machine.now() - start;
            if let Some(window) = self.ask(at, true) {
                return Some((window, waited));
            }
            if waited >= LONG {
                return None;
            }
            self.machine.advance(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_reader_that_neither_moves_nor_waits_holds_its_producer_for_a_moment() {
    let (mut chain, full) = Chain::with_held_ring();
    let (window, waited) = chain.ask_for(full).expect("a window");
    assert!(!window.ring);
    assert_eq!(waited, STUCK_AFTER);
}

/// The readers of the output decide: if they move, so will this reader.
#[test]
fn a_reader_that_waits_for_room_in_its_output_holds_its_producer() {
    let (mut chain, full) = Chain::with_held_ring();
    chain.publish(LAST, 100);
    chain.middle_sleeps_for_room(100);
    assert_eq!(chain.ask_for(full).map(|(window, _)| window), None);
}

/// A process that was stopped while it waited for room, which has come since.
#[test]
fn a_reader_that_was_woken_for_room_and_does_not_run_holds_its_producer_for_a_moment() {
    let (mut chain, full) = Chain::with_held_ring();
    chain.publish(LAST, 100);
    chain.middle_sleeps_for_room(100);
    assert_eq!(chain.ask_for(full).map(|(window, _)| window), None);
    chain.publish(LAST, 101);
    assert_eq!(chain.ask(full, true), None, "it has only just been woken");
    let (window, waited) = chain.ask_for(full).expect("a window");
    assert!(!window.ring);
    assert_eq!(waited, STUCK_AFTER);
}
