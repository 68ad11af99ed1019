//! A writer and readers over real shared memory, without a daemon: rings of every size and pace, sleeping and spinning.

use dflow_protocol::message::Window;
use dflow_protocol::words::State;
use dflow_protocol::{PortId, SegmentId};
use dflow_shm::{Access, Control, Idle, Memory, MemoryPiece, PeerControl, Reader, Room, Seen, Segment, SegmentKind};
use dflow_shm::{Wait, Writer, wait};
use proptest::prelude::*;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

const OUT: PortId = PortId(0);
const IN: PortId = PortId(1);

fn peer(control: &Control) -> Arc<PeerControl> {
    Arc::new(PeerControl::adopt(control.segment().as_fd().try_clone_to_owned().unwrap()).unwrap())
}

fn byte_at(offset: u64) -> u8 {
    (offset ^ offset >> 8 ^ offset >> 16) as u8
}

fn write(writer: &mut Writer, mut at: u64, end: u64, step: u64, idle: Idle) {
    while at < end {
        let take = step.min(end - at);
        while writer.room(take) != Room::Enough {
            wait(&mut [writer], None, idle, None);
        }
        for (byte, offset) in writer.spare()[..take as usize].iter_mut().zip(at..) {
            *byte = byte_at(offset);
        }
        writer.commit(take);
        at += take;
    }
    writer.end(State::Finished);
}

/// Reads to the end, consuming at most `step` bytes at a time, and says how many bytes were right.
fn read(reader: &mut Reader, step: u64, idle: Idle) -> u64 {
    let mut at = 0;
    loop {
        match reader.look() {
            Seen::Bytes(length) => {
                let take = length.min(step);
                for (byte, offset) in reader.bytes(take).iter().zip(at..) {
                    assert_eq!(*byte, byte_at(offset), "at {offset}");
                }
                reader.consume(take);
                at += take;
            }
            Seen::Nothing => {
                wait(&mut [reader as &mut dyn Wait], None, idle, None);
            }
            Seen::End => return at,
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_loses_and_changes_nothing(
        pages in prop_oneof![Just(1u64), Just(4), Just(64)],
        length in 0u64..400_000,
        write_step in 1u64..4096,
        read_steps in proptest::collection::vec(1u64..9000, 1..4),
        spin in prop_oneof![Just(0u64), Just(20)],
    ) {
        let size = pages * 4096;
        let idle = Idle { spin: Duration::from_micros(spin) };
        let segment = Segment::create("test", size as usize, SegmentKind::FunctionWritten).unwrap();
        let ours = Arc::new(Control::create().unwrap());
        let mut writer = Writer::new(Arc::clone(&ours), OUT);
        let window = Window { segment: SegmentId(1), segment_offset: 0, base: 0, size, ring: true };
        let memory = Memory::ring(segment.as_fd(), 0, size as usize, Access::Write).unwrap();
        let mut readers = Vec::new();
        for step in read_steps {
            let theirs = Arc::new(Control::create().unwrap());
            writer.add_reader(peer(&theirs), IN);
            let mut reader = Reader::new(theirs, IN);
            let memory = Arc::new(Memory::ring(segment.read_only().unwrap().as_fd(), 0, size as usize, Access::Read).unwrap());
            let producer = Some((peer(&ours), OUT));
            reader.set_piece(MemoryPiece { memory, start: 0, base: 0, size, ring: true, end: None, producer });
            readers.push(std::thread::spawn(move || read(&mut reader, step, idle)));
        }
        writer.set_window(&window, Arc::new(memory), 0);
        write(&mut writer, 0, length, write_step.min(size), idle);
        for reader in readers {
            prop_assert_eq!(reader.join().unwrap(), length);
        }
    }
}

/// A reader that lies about its position damages only what it reads itself.
#[test]
fn a_lying_reader_changes_nothing_for_the_writer() {
    let size = 4096u64;
    let segment = Segment::create("test", size as usize, SegmentKind::FunctionWritten).unwrap();
    let ours = Arc::new(Control::create().unwrap());
    let liar = Control::create().unwrap();
    let mut writer = Writer::new(Arc::clone(&ours), OUT);
    writer.add_reader(peer(&liar), IN);
    let window = Window { segment: SegmentId(1), segment_offset: 0, base: 0, size, ring: true };
    let memory = Memory::ring(segment.as_fd(), 0, size as usize, Access::Write).unwrap();
    writer.set_window(&window, Arc::new(memory), 0);
    for word in [0, 1, u64::MAX, u64::MAX / 2, 4 << 2, 3 << 2, 0, 1 << 40] {
        liar.port(IN).progress.store(word, std::sync::atomic::Ordering::Relaxed);
        liar.port(IN).ticket.store(word, std::sync::atomic::Ordering::Relaxed);
        let _ = writer.room(size);
        assert!(writer.spare().len() as u64 <= size, "more room than the window has");
        let take = writer.spare().len().min(3) as u64;
        writer.commit(take);
    }
}

/// A producer that lies about its watermark is found out, or shows its own window: never memory outside of it.
#[test]
fn a_lying_writer_is_found_out() {
    let size = 8192u64;
    let segment = Segment::create("test", size as usize, SegmentKind::FunctionWritten).unwrap();
    for ring in [true, false] {
        let liar = Control::create().unwrap();
        let mut reader = Reader::new(Arc::new(Control::create().unwrap()), IN);
        let memory = if ring {
            Memory::ring(segment.as_fd(), 0, size as usize, Access::Read).unwrap()
        } else {
            segment.map(Access::Read).unwrap()
        };
        let end = (!ring).then_some(size);
        let producer = Some((peer(&liar), OUT));
        reader.set_piece(MemoryPiece { memory: Arc::new(memory), start: 0, base: 0, size, ring, end, producer });
        for word in [u64::MAX, 5 << 2, 1, 2, u64::MAX - 3, (size + 1) << 2, 3, 0] {
            liar.port(OUT).progress.store(word, std::sync::atomic::Ordering::Relaxed);
            match reader.look() {
                Seen::Bytes(length) => assert!(reader.bytes(length).len() as u64 == length && length <= size),
                Seen::Violation => assert!(ring),
                Seen::Nothing | Seen::NeedPiece | Seen::End | Seen::Aborted => {}
            }
        }
    }
}

#[test]
fn a_segment_cannot_shrink_and_a_control_page_has_one_writer() {
    let segment = Segment::create("test", 8192, SegmentKind::FunctionWritten).unwrap();
    assert!(rustix::fs::ftruncate(segment.as_fd(), 0).is_err(), "shrinks");
    assert!(rustix::fs::ftruncate(segment.as_fd(), 1 << 20).is_err(), "grows");
    let control = Control::create().unwrap();
    let other = control.segment().as_fd().try_clone_to_owned().unwrap();
    assert!(Memory::map(other.as_fd(), 0, 4096, Access::Write).is_err(), "somebody else can write control words");
    assert!(Memory::map(other.as_fd(), 0, 4096, Access::Read).is_ok());
    let read_only = segment.read_only().unwrap();
    assert!(Memory::map(read_only.as_fd(), 0, 4096, Access::Write).is_err());
}

#[test]
fn what_is_no_sealed_segment_is_refused() {
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    assert!(PeerControl::adopt(reader).unwrap_err().to_string().contains("memfd"));
    let unsealed = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    assert!(Segment::adopt(unsealed, 4096).unwrap_err().to_string().contains("shrink"));
    let small = Segment::create("test", 4096, SegmentKind::CreatorWritten).unwrap();
    assert!(Segment::adopt(small.as_fd().try_clone_to_owned().unwrap(), 8192).is_err());
}
