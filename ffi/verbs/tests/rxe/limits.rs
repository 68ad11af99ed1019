//! The capacity of queues and of locked memory, and wake-ups by completions.

use crate::common::{PATIENCE, Side, bytes, open};
use crate::{DEPTH, connected, remote};
use dflow_verbs::{
    AsyncEvent, Buffer, Completion, CompletionQueue, Data, MemoryError, MemoryRegion, PostError, ProtectionDomain,
    QueueError, QueuePair, QueuePairConfig, QueuePairState, ReceiveRequest, RegionAccess, RemoteKey, RemoteMemory,
    SendOperation, SendRequest,
};
use rustix::thread::CapabilitySet;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn a_full_queue_rejects_requests_and_loses_none() {
    let (one, two) = connected();
    let (target, to) = two.region(4096, RegionAccess::RemoteWrite);
    // Without polling, there is room for exactly the depth of the queue, signaled or not.
    let mut posted = 0u64;
    let refused = loop {
        let data = (posted + 1).to_le_bytes();
        match one.pair.write(posted, Data::Inline(&data), remote(&to), false) {
            Ok(()) => posted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PostError::QueueFull { wanted: 1, free: 0 }), "{refused}");
    assert_eq!(posted, u64::from(DEPTH));
    let batch = [SendRequest {
        id: 0,
        operation: SendOperation::Write(remote(&to)),
        data: Data::Inline(&[0; 8]),
        signaled: true,
    }; 2];
    // Room is returned although no request was signaled by the caller.
    let deadline = Instant::now() + PATIENCE;
    while one.pair.free_sends() < 2 {
        assert!(Instant::now() < deadline, "no room came back");
        assert_eq!(one.completions.poll(&mut [Completion::default(); 4]).expect("polled"), 0);
    }
    let free = one.pair.free_sends();
    let many = vec![batch[0]; free + 1];
    assert!(matches!(one.pair.post(&many), Err(PostError::QueueFull { wanted, .. }) if wanted == free + 1));
    one.pair.write(99, Data::Inline(&77u64.to_le_bytes()), remote(&to), true).expect("posted");
    one.succeed(99);
    assert_eq!(bytes(&target, 0..8), 77u64.to_le_bytes());
}

#[test]
fn room_in_a_completion_queue_is_never_reserved_twice() {
    let (context, port, gid) = open();
    let domain = ProtectionDomain::new(&context).expect("a domain");
    let completions = CompletionQueue::new(&context, 20, false).expect("a completion queue");
    let config = QueuePairConfig {
        port,
        gid,
        send_depth: 5,
        receive_depth: 5,
        inline: 0,
        remote_write: false,
        remote_read: false,
    };
    let make = || QueuePair::new(&domain, &completions, &completions, &config);
    let (first, second) = (make().expect("room"), make().expect("room"));
    let error = make().expect_err("no room");
    assert!(matches!(error, QueueError::NoCompletionRoom { wanted: 5, free: 0, capacity: 20 }), "{error}");
    assert_eq!(first.max_inline(), 0, "inline is off");
    assert!(matches!(
        first.write(0, Data::Empty, RemoteMemory { address: 0, key: RemoteKey::from_number(0) }, true),
        Err(PostError::State { state: QueuePairState::Initialized })
    ));
    drop(second);
    make().expect("room again");
    assert!(matches!(completions.arm(), Err(QueueError::NoChannel)));
    assert!(matches!(CompletionQueue::new(&context, 0, false), Err(QueueError::Depth { .. })));
}

#[test]
fn the_limit_on_locked_memory_is_reported_with_the_need() {
    let one = Side::new(DEPTH);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let set = |current| {
        rustix::process::setrlimit(
            rustix::process::Resource::Memlock,
            rustix::process::Rlimit { current, maximum: limit.maximum },
        )
        .expect("set");
    };
    // The limit does not apply with CAP_IPC_LOCK, so this runs in a thread that has dropped it.
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let mut rights = rustix::thread::capabilities(None).expect("capabilities");
                rights.effective.remove(CapabilitySet::IPC_LOCK);
                rustix::thread::set_capabilities(None, rights).expect("given up");
                set(Some(64 << 10));
                MemoryRegion::register(&one.domain, Arc::new(Buffer::zeroed(1 << 20)), RegionAccess::Source)
            })
            .join()
            .expect("no panic")
    });
    set(limit.current);
    let error = result.expect_err("too much");
    assert!(
        matches!(error, MemoryError::Memlock { bytes: 0x10_0000, needed, limit: 0x1_0000 } if needed >= 1 << 20),
        "{error}"
    );
    assert!(error.to_string().contains("ulimit -l "), "{error}");
}

#[test]
fn an_armed_sleeper_is_woken_by_the_next_completion() {
    let (one, two) = connected();
    two.pair.post_receives(&[ReceiveRequest { id: 1, into: None }]).expect("posted");
    assert!(!two.completions.wait(Some(Duration::from_millis(20))).expect("waited"), "not armed, nothing came");
    two.completions.arm().expect("armed");
    assert_eq!(two.completions.poll(&mut [Completion::default()]).expect("polled"), 0);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| two.completions.wait(Some(PATIENCE)).expect("waited"));
        one.pair.send(2, Data::Empty, true).expect("posted");
        assert!(sleeper.join().expect("no panic"), "woken");
    });
    two.succeed(1);
    one.succeed(2);
}

#[test]
fn there_are_no_events_while_nothing_happens() {
    let one = Side::new(DEPTH);
    let seen: Vec<AsyncEvent> = std::iter::from_fn(|| one.context.next_event().expect("read")).collect();
    assert_eq!(seen, []);
}
