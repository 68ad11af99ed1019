//! Words that lie: whoever wrote them is found out, and nobody else is blamed.

use dflow_disk::IoChoice;
use dflow_protocol::limits::PROTOCOL_VERSION;
use dflow_protocol::message::{InputSpec, OutputSpec, OutputStreams, Setup, ToDaemon};
use dflow_protocol::words::Progress;
use dflow_protocol::{InstanceId, PortId, SegmentId, StreamId};
use dflow_shm::Control;
use dflow_store::{Config, Hasher, ProcessId, Spiller, Store, StoreEvent, Subscriber};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

const STREAM: StreamId = StreamId(1);
const PRODUCER: ProcessId = ProcessId(1);
const READER: ProcessId = ProcessId(2);
const PORT: PortId = PortId(0);

/// A store with a producer and a reader whose words this test writes itself.
struct Pair {
    store: Store,
    producer: Control,
    reader: Control,
    _dir: tempfile::TempDir,
}

fn setup(inputs: Vec<InputSpec>, outputs: Vec<OutputSpec>) -> Setup {
    Setup {
        version: PROTOCOL_VERSION,
        run: "test".into(),
        instance: "f".into(),
        part: None,
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
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spiller = Spiller::start(dir.path(), IoChoice::Plain, |_| ()).unwrap();
        let hasher = Hasher::start(|_| ()).unwrap();
        let mut store = Store::new(Config { memory: 1 << 20, window: Config::WINDOW }, spiller, hasher).unwrap();
        let subscriber = Subscriber { instance: InstanceId(2), input: 0 };
        store.open_stream(STREAM, false);
        store.subscribe(STREAM, subscriber, false);
        let output = OutputSpec { name: "o".into(), streams: OutputStreams::Single(PORT), stdout: false };
        store.begin(PRODUCER, setup(Vec::new(), vec![output]), &[vec![STREAM]]).unwrap();
        let input = InputSpec { name: "i".into(), many: false, keep: false, stdin: false };
        store.begin(READER, setup(vec![input], Vec::new()), &[]).unwrap();
        store.add_input(READER, subscriber, STREAM).unwrap();
        let mut pair =
            Self { store, producer: Control::create().unwrap(), reader: Control::create().unwrap(), _dir: dir };
        for process in [PRODUCER, READER] {
            let control = if process == PRODUCER { &pair.producer } else { &pair.reader };
            let page = control.segment().as_fd().try_clone_to_owned().unwrap();
            pair.store.receive(process, ToDaemon::Hello { version: PROTOCOL_VERSION }, vec![page]).unwrap();
            pair.store.start(process);
        }
        pair.blamed();
        pair
    }

    fn publish(&self, process: ProcessId, offset: u64) {
        let control = if process == PRODUCER { &self.producer } else { &self.reader };
        control.port(PORT).progress.store(Progress::open(offset).encode(), Ordering::Release);
    }

    fn say(&mut self, process: ProcessId, message: ToDaemon) {
        self.store.receive(process, message, Vec::new()).unwrap();
    }

    /// Who has been found to lie since the last call.
    fn blamed(&mut self) -> Vec<ProcessId> {
        let blamed = |event| match event {
            StoreEvent::Misbehaved(process, _) => Some(process),
            _ => None,
        };
        self.store.take_events().into_iter().filter_map(blamed).collect()
    }
}

#[test]
fn a_reader_is_not_blamed_for_a_watermark_that_its_producer_took_back() {
    let mut pair = Pair::new();
    pair.publish(PRODUCER, 1000);
    pair.publish(READER, 1000);
    pair.publish(PRODUCER, 10);
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 1000 });
    assert_eq!(pair.blamed(), []);
    // The producer is, as soon as somebody knows what it had said before.
    pair.publish(PRODUCER, 1000);
    pair.say(PRODUCER, ToDaemon::NeedWindow { port: PORT, at: 1000, least: 100_000, held: false });
    assert_eq!(pair.blamed(), []);
    pair.publish(PRODUCER, 10);
    pair.say(PRODUCER, ToDaemon::FirstBytes { port: PORT });
    assert_eq!(pair.blamed(), [PRODUCER]);
}

#[test]
fn positions_that_go_back_or_leave_the_room_are_found_out() {
    let mut pair = Pair::new();
    pair.publish(PRODUCER, 1000);
    pair.publish(READER, 500);
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 500 });
    assert_eq!(pair.blamed(), []);
    pair.publish(READER, 499);
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 499 });
    assert_eq!(pair.blamed(), [READER]);
    // The arena's slot is all that the producer has been granted.
    pair.publish(READER, 65_537);
    pair.say(READER, ToDaemon::NextPiece { port: PORT, at: 65_537 });
    assert_eq!(pair.blamed(), [READER]);
    pair.publish(PRODUCER, 65_537);
    pair.say(PRODUCER, ToDaemon::FirstBytes { port: PORT });
    assert_eq!(pair.blamed(), [PRODUCER]);
}
