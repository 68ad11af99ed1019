//! The lifetimes of memory and queue pairs while requests are in flight.

use crate::common::{PATIENCE, Side, bytes, open};
use crate::{DEPTH, connect, connected, remote};
use dflow_verbs::{
    Buffer, Completion, Connection, Data, MemoryRegion, Operation, QueueError, QueuePair, QueuePairConfig,
    QueuePairState, ReceiveRequest, RegionAccess, StableMemory, Status,
};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

#[test]
fn memory_lives_until_its_request_has_completed() {
    let (one, two) = connected();
    let (_, to) = two.region(1 << 20, RegionAccess::RemoteWrite);
    let (from, gone) = watched(&one, RegionAccess::Source);
    one.pair.write(1, Data::Memory(from.slice(0..1 << 20).expect("within")), remote(&to), true).expect("posted");
    drop(from);
    assert!(!gone.load(Ordering::Acquire), "the device still reads it");
    one.succeed(1);
    assert!(gone.load(Ordering::Acquire), "nobody needs it any more");

    let (into, gone) = watched(&two, RegionAccess::Receive);
    two.pair
        .post_receives(&[ReceiveRequest { id: 2, into: Some(into.slice(0..64).expect("within")) }])
        .expect("posted");
    drop(into);
    assert!(!gone.load(Ordering::Acquire), "the device will write to it");
    one.pair.send(3, Data::Inline(b"now"), true).expect("posted");
    two.succeed(2);
    assert!(gone.load(Ordering::Acquire));
}

#[test]
fn a_queue_pair_can_be_dropped_with_requests_in_flight() {
    let (one, two) = connected();
    let (target, to) = two.region(1 << 20, RegionAccess::RemoteWrite);
    let (from, gone) = watched(&one, RegionAccess::Source);
    for id in 0..u64::from(DEPTH) {
        one.pair.write(id, Data::Memory(from.slice(0..1 << 20).expect("within")), remote(&to), true).expect("posted");
    }
    drop(from);
    let Side { pair, completions, domain, context } = one;
    drop(pair);
    assert!(gone.load(Ordering::Acquire), "the device has let go of it");
    // Nothing of it is delivered to a successor in the same completion queue.
    let (_, port, gid) = open();
    let config = QueuePairConfig {
        port,
        gid,
        send_depth: DEPTH,
        receive_depth: DEPTH,
        inline: 64,
        remote_write: true,
        remote_read: false,
    };
    let deadline = Instant::now() + PATIENCE;
    let pair = loop {
        // Completions left by the old queue pair return their room when they are polled.
        assert_eq!(completions.poll(&mut [Completion::default(); 8]).expect("polled"), 0);
        match QueuePair::new(&domain, &completions, &completions, &config) {
            Ok(pair) => break pair,
            Err(QueueError::NoCompletionRoom { .. }) => assert!(Instant::now() < deadline, "no room came back"),
            Err(error) => panic!("{error}"),
        }
    };
    let one = Side { pair, completions, domain, context };
    let three = Side::new(DEPTH);
    connect(&one, &three, &Connection::default());
    let (other, to) = three.region(4096, RegionAccess::RemoteWrite);
    one.pair.write(1000, Data::Inline(b"next"), remote(&to), true).expect("posted");
    one.succeed(1000);
    assert_eq!(bytes(&other, 0..4), b"next");
    // The receiver's side of the fence: after its queue pair is destroyed, no write of a peer can reach its memory.
    drop(two.pair);
    target.write(0, &[1; 64]);
    assert_eq!(bytes(&target, 0..64), vec![1; 64]);
}

#[test]
fn ending_the_traffic_flushes_every_request() {
    let (one, two) = connected();
    let (_, to) = one.region(4096, RegionAccess::RemoteWrite);
    let (from, gone) = watched(&two, RegionAccess::Source);
    two.pair.fail().expect("ended");
    assert_eq!(two.pair.state().expect("a state"), QueuePairState::Error);
    for id in 0..5 {
        let data = Data::Memory(from.slice(0..64).expect("within"));
        two.pair.write(id, data, remote(&to), false).expect("posted");
    }
    drop(from);
    for id in 0..5 {
        let got = two.next();
        assert_eq!((got.id, got.status, got.operation), (id, Status::Flushed, Operation::Write));
    }
    assert!(gone.load(Ordering::Acquire));
    assert_eq!(two.pair.free_sends(), DEPTH as usize);
    // The other end notices with its next request.
    one.pair.send(1, Data::Inline(b"?"), true).expect("posted");
    assert_eq!(one.next().status, Status::RetryExceeded);
}

pub(crate) fn watched(side: &Side, access: RegionAccess) -> (MemoryRegion, Arc<AtomicBool>) {
    let gone = Arc::new(AtomicBool::new(false));
    let memory = Watched { buffer: Buffer::zeroed(1 << 20), gone: gone.clone() };
    (MemoryRegion::register(&side.domain, Arc::new(memory), access).expect("a region"), gone)
}

/// Memory that records when it is freed.
struct Watched {
    buffer: Buffer,
    gone: Arc<AtomicBool>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Release);
    }
}

// SAFETY: as the buffer.
unsafe impl StableMemory for Watched {
    fn address(&self) -> NonNull<u8> {
        self.buffer.address()
    }

    fn length(&self) -> usize {
        self.buffer.length()
    }

    fn writable(&self) -> bool {
        true
    }
}
