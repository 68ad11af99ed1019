//! Almost valid messages for every decoder of data from other processes and nodes, and for the state machine behind one
//! of them.

use dflow_protocol::exchange::Exchange;
use dflow_protocol::limits::{MAX_INLINE, MAX_PEER_REASON, PEER_VERSION};
use dflow_protocol::message::{
    ArgPiece, InputSpec, OutputSpec, OutputStreams, Piece, ProgramState, SegmentUse, Setup, ToDaemon, ToFunction,
    Window,
};
use dflow_protocol::wire::{FlowId, Grant, GrantId, PeerMessage, StreamKey};
use dflow_protocol::{Epoch, PortId, RunId, SegmentId, StreamId};
use dflow_testkit::fuzz::{Random, Verdict, fuzz};

/// A small range, so that messages refer to the same flows.
fn flow(random: &mut Random) -> FlowId {
    FlowId(if random.below(8) == 0 { random.next() } else { random.below(4) as u64 })
}

fn stream(random: &mut Random) -> StreamKey {
    StreamKey::new(RunId(1), StreamId(random.below(4) as u32), Epoch(1))
}

fn grant(random: &mut Random) -> Grant {
    let size = 1 << (12 + random.below(12));
    let (id, base) = (GrantId(random.below(4) as u32), random.number() >> 2);
    Grant { id, base, size, ring: random.flag(), address: random.number() >> 2, key: random.next() as u32 }
}

fn peer(random: &mut Random) -> PeerMessage {
    let (one, other) = (random.number(), random.number());
    let (received, until) = (one.min(other), one.max(other));
    match random.below(12) {
        0 => PeerMessage::Begin { version: PEER_VERSION, life: 9, incarnation: 1, flows: random.below(3) as u32 },
        1 => PeerMessage::Subscribe { flow: flow(random), stream: stream(random), received, until },
        2 => PeerMessage::Close { flow: flow(random), received },
        3 => PeerMessage::Closed { flow: flow(random) },
        4 => PeerMessage::Credit { flow: flow(random), received, until },
        5 => PeerMessage::Grant { flow: flow(random), grant: grant(random), until },
        6 => PeerMessage::Stuck { flow: flow(random), stuck: random.flag() },
        7 => {
            let mut bytes = random.bytes(MAX_INLINE - 1);
            bytes.push(7);
            PeerMessage::Inline { flow: flow(random), at: received >> 1, bytes }
        }
        8 => PeerMessage::Finished { flow: flow(random), length: received },
        9 => PeerMessage::Aborted { flow: flow(random), reason: random.text(MAX_PEER_REASON / 4) },
        10 => PeerMessage::Ping(received),
        _ => PeerMessage::Pong(received),
    }
}

#[test]
fn messages_of_peers() {
    fuzz(
        |random| peer(random).encode().expect("a sound message"),
        |bytes| {
            let Ok(message) = PeerMessage::decode(bytes) else { return Verdict::Refused };
            let again = message.encode().expect("what is accepted can be sent");
            assert_eq!(PeerMessage::decode(&again).as_ref(), Ok(&message));
            Verdict::Accepted
        },
    );
}

/// Each case is a whole conversation: length-prefixed messages, each valid, damaged or missing.
#[test]
fn conversations_with_a_peer() {
    let sound = |random: &mut Random| {
        let begin = PeerMessage::Begin { version: PEER_VERSION, life: 9, incarnation: 1, flows: 1 };
        let subscribe = PeerMessage::Subscribe { flow: FlowId(1), stream: stream(random), received: 0, until: 100_000 };
        let mut messages = vec![begin, subscribe];
        messages.extend(random.list(10, peer));
        messages.iter().flat_map(|message| framed(&message.encode().expect("a sound message"))).collect()
    };
    fuzz(sound, |bytes| {
        let mut exchange = Exchange::new(5);
        let mine = [1, 2].map(|number| {
            let key = StreamKey::new(RunId(1), StreamId(10 + number), Epoch(1));
            exchange.subscribe(key, 65_536).expect("few")
        });
        exchange.path_up(1);
        let mut rest = bytes;
        while let Some((message, behind)) = unframed(rest) {
            rest = behind;
            let Ok(message) = PeerMessage::decode(message) else { return Verdict::Refused };
            if exchange.receive(message).is_err() {
                return Verdict::Refused;
            }
            while exchange.next_action().is_some() {}
            while let Some(order) = exchange.next_write() {
                assert!(order.most > 0);
                exchange.wrote(order.flow, order.most.min(1 << 20));
            }
        }
        exchange.path_down();
        exchange.path_up(2);
        mine.into_iter().for_each(|flow| exchange.unsubscribe(flow));
        exchange.path_down();
        Verdict::Accepted
    });
}

fn framed(message: &[u8]) -> Vec<u8> {
    // Messages are decoded in place, so each starts at a multiple of 16 bytes, as it would in a buffer of its own.
    let mut bytes = vec![0; 16];
    bytes[..4].copy_from_slice(&(message.len() as u32).to_le_bytes());
    bytes.extend_from_slice(message);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

fn unframed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let (message, rest) = bytes.get(16..)?.split_at_checked(length)?;
    Some((message, rest.get(length.next_multiple_of(16) - length..).unwrap_or_default()))
}

fn window(random: &mut Random) -> Window {
    let (segment, segment_offset) = (SegmentId(random.number()), random.number());
    Window { segment, segment_offset, base: random.number(), size: random.number(), ring: random.flag() }
}

fn port(random: &mut Random) -> PortId {
    PortId(random.number() as u32)
}

fn setup(random: &mut Random) -> Setup {
    let streams = |random: &mut Random| match random.below(3) {
        0 => OutputStreams::Single(port(random)),
        1 => OutputStreams::Fixed(port(random), random.number() as u32),
        _ => OutputStreams::Discovered,
    };
    let argument = |random: &mut Random| match random.below(3) {
        0 => ArgPiece::Text(random.text(20)),
        1 => ArgPiece::Input(random.number() as u32),
        _ => ArgPiece::Output(random.number() as u32),
    };
    Setup {
        version: random.number() as u32,
        run: random.text(32),
        instance: random.text(20),
        part: random.option(|random| random.number() as u32),
        part_file: random.option(|random| random.bytes(9)),
        attempt: random.number() as u32,
        params: random.list(4, |random| (random.text(12), random.text(12))),
        inputs: random.list(4, |random| InputSpec {
            name: random.text(12),
            many: random.flag(),
            keep: random.flag(),
            stdin: random.flag(),
        }),
        outputs: random.list(4, |random| OutputSpec {
            name: random.text(12),
            streams: streams(random),
            stdout: random.flag(),
        }),
        bell: random.number() as u32,
        arena: SegmentId(random.number()),
        spin_nanos: random.number(),
        command: random.option(|random| random.list(4, |random| random.list(3, argument))),
    }
}

fn to_function(random: &mut Random) -> ToFunction {
    match random.below(8) {
        0 => ToFunction::Setup(setup(random)),
        1 => ToFunction::Segment { segment: SegmentId(random.number()), kind: SegmentUse::Arena(random.number()) },
        2 => {
            let producer = random.option(|random| (SegmentId(random.number()), port(random)));
            let piece = Piece::Memory { window: window(random), producer, end: random.option(Random::number) };
            ToFunction::Piece { port: port(random), piece }
        }
        3 => {
            let (file, file_offset) = (SegmentId(random.number()), random.number());
            let piece = Piece::File { file, file_offset, base: random.number(), end: random.number() };
            ToFunction::Piece { port: port(random), piece }
        }
        4 => {
            let end = if random.flag() { Ok(random.number()) } else { Err(random.text(40)) };
            ToFunction::StreamEnd { port: port(random), end }
        }
        5 => ToFunction::Window { port: port(random), window: window(random) },
        6 => ToFunction::Stuck { port: port(random), answer: random.flag() },
        _ => {
            let port = if random.flag() { Ok(port(random)) } else { Err(random.text(40)) };
            ToFunction::PartOpened { output: random.number() as u32, port }
        }
    }
}

fn to_daemon(random: &mut Random) -> ToDaemon {
    match random.below(9) {
        0 => ToDaemon::Hello { version: random.number() as u32 },
        1 => ToDaemon::FirstBytes { port: port(random) },
        2 => {
            let (at, least) = (random.number(), random.number());
            ToDaemon::NeedWindow { port: port(random), at, least, held: random.flag() }
        }
        3 => ToDaemon::NextPiece { port: port(random), at: random.number(), lends: random.number().is_multiple_of(2) },
        4 => ToDaemon::ReaderStuck { port: port(random), stuck: random.flag() },
        5 => ToDaemon::OpenPart { output: random.number() as u32 },
        6 => ToDaemon::Done,
        7 => ToDaemon::Program(match random.below(3) {
            0 => ProgramState::Computing,
            1 => ProgramState::Idle,
            _ => ProgramState::HeldOpen { by: random.text(30) },
        }),
        _ => ToDaemon::Failed { reason: random.text(60), unread: random.flag() },
    }
}

#[test]
fn messages_to_functions() {
    fuzz(
        |random| to_function(random).encode().expect("a sound message"),
        |bytes| {
            let Ok(message) = ToFunction::decode(bytes) else { return Verdict::Refused };
            let again = message.encode().expect("what is accepted can be sent");
            assert_eq!(ToFunction::decode(&again).expect("it was sent"), message);
            Verdict::Accepted
        },
    );
}

#[test]
fn messages_to_the_daemon() {
    fuzz(
        |random| to_daemon(random).encode().expect("a sound message"),
        |bytes| {
            let Ok(message) = ToDaemon::decode(bytes) else { return Verdict::Refused };
            let again = message.encode().expect("what is accepted can be sent");
            assert_eq!(ToDaemon::decode(&again).expect("it was sent"), message);
            Verdict::Accepted
        },
    );
}

/// The fuzzer finds decoders with known faults.
#[test]
fn decoders_that_are_wrong_are_found_out() {
    let sound = |random: &mut Random| {
        let text = random.bytes(40);
        [&(text.len() as u32).to_le_bytes()[..], &text].concat()
    };
    let trusting = |bytes: &[u8]| {
        let Some(head) = bytes.get(..4) else { return Verdict::Refused };
        let length = u32::from_le_bytes(head.try_into().expect("4 bytes")) as usize;
        let _text = &bytes[4..4 + length];
        Verdict::Accepted
    };
    let forgetful = |bytes: &[u8]| {
        // Accepts trailing bytes that belong to no field.
        let Some(head) = bytes.get(..4) else { return Verdict::Refused };
        let length = u32::from_le_bytes(head.try_into().expect("4 bytes")) as usize;
        let Some(text) = bytes.get(4..).and_then(|rest| rest.get(..length)) else { return Verdict::Refused };
        assert_eq!([head, text].concat(), bytes);
        Verdict::Accepted
    };
    for wrong in [&trusting as &dyn Fn(&[u8]) -> Verdict, &forgetful] {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fuzz(sound, wrong)));
        assert!(result.is_err(), "a wrong decoder passes");
    }
}
