//! Memory windows: parts of a region that are open to one peer.

use crate::common::{PATIENCE, Side, bytes, open};
use crate::lifetimes::watched;
use crate::{DEPTH, connected};
use dflow_verbs::{
    CompletionQueue, Connection, Data, MemoryWindow, Operation, PostError, ProtectionDomain, QueuePair,
    QueuePairConfig, RegionAccess, Status,
};
use std::sync::atomic::Ordering;
use std::time::Instant;

#[test]
fn a_window_opens_a_part_to_one_peer_and_closes_again() {
    let (one, two) = connected();
    let (_, from) = one.region(4096, RegionAccess::Source);
    let (target, memory) = two.region(8192, RegionAccess::Windows);
    let window = MemoryWindow::new(&two.domain).expect("a window");
    let place = two.pair.bind_window(1, &window, memory.slice(4096..8192).expect("within"), true).expect("posted");
    assert_eq!(two.succeed(1).operation, Operation::BindWindow);
    one.pair.write(2, Data::Inline(b"through the window"), place, true).expect("posted");
    one.succeed(2);
    assert_eq!(bytes(&target, 4096..4114), b"through the window");

    two.pair.close_window(3, &window, true).expect("posted");
    assert_eq!(two.succeed(3).operation, Operation::Invalidate);
    one.pair.write(4, Data::Memory(from.slice(0..8).expect("within")), place, true).expect("posted");
    assert_eq!(one.next().status, Status::RemoteAccess);
    assert_eq!(bytes(&target, 4096..4104), b"through ");
}

#[test]
fn a_window_is_closed_to_another_queue_pair() {
    let (one, two) = connected();
    let (target, memory) = two.region(4096, RegionAccess::Windows);
    let window = MemoryWindow::new(&two.domain).expect("a window");
    let place = two.pair.bind_window(1, &window, memory.slice(0..4096).expect("within"), true).expect("posted");
    two.succeed(1);
    // Another connection, even into the same domain.
    let beside = beside(&two.domain);
    let stranger = Side::new(DEPTH);
    stranger.pair.connect(&beside.endpoint(), &Connection::default()).expect("connected");
    beside.connect(&stranger.pair.endpoint(), &Connection::default()).expect("connected");
    stranger.pair.write(2, Data::Inline(b"not for you"), place, true).expect("posted");
    assert_eq!(stranger.next().status, Status::RemoteAccess);
    assert_eq!(bytes(&target, 0..11), vec![0; 11]);
    one.pair.write(3, Data::Inline(b"for you"), place, true).expect("posted");
    one.succeed(3);
    drop(window);
}

/// The fence of a fail-over: destroying the queue pair is fast and closes the windows that were open to its peer.
#[test]
fn windows_end_with_the_queue_pair_that_opened_them() {
    let (_one, two) = connected();
    let (memory, gone) = watched(&two, RegionAccess::Windows);
    let window = MemoryWindow::new(&two.domain).expect("a window");
    let slice = memory.slice(0..4096).expect("within");
    two.pair.bind_window(1, &window, slice, true).expect("posted");
    two.succeed(1);
    // Soft-RoCE needs a minute to destroy a queue pair that has a window.
    let start = Instant::now();
    drop(two.pair);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let next = beside(&two.domain);
    let refused = next.bind_window(2, &window, slice, true);
    assert!(matches!(refused, Err(PostError::Unsuitable(reason)) if reason.contains("was freed")));
    drop(memory);
    assert!(gone.load(Ordering::Acquire), "the window no longer keeps it");
}

/// One more queue pair in a domain, not connected.
fn beside(domain: &ProtectionDomain) -> QueuePair {
    let (_, port, gid) = open();
    let completions = CompletionQueue::new(domain.context(), 8, false).expect("a completion queue");
    let config = QueuePairConfig {
        port,
        gid,
        send_depth: 4,
        receive_depth: 4,
        inline: 64,
        remote_write: true,
        remote_read: false,
    };
    QueuePair::new(domain, &completions, &completions, &config).expect("a queue pair")
}
