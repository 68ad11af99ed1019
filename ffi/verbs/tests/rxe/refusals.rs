//! Requests rejected by the device, by the other end, or before either receives them.

use crate::common::{Side, bytes};
use crate::{DEPTH, connect, connected, remote};
use dflow_verbs::{
    Buffer, Connection, Data, MemoryRegion, Operation, PostError, ProtectionDomain, QueueError, QueuePairState,
    ReceiveRequest, RegionAccess, RemoteKey, RemoteMemory, Status,
};
use std::sync::Arc;

#[test]
fn a_wrong_key_ends_the_connection_with_its_reason() {
    let (one, two) = connected();
    let (_, from) = one.region(4096, RegionAccess::Source);
    let (target, to) = two.region(4096, RegionAccess::RemoteWrite);
    let good = remote(&to);
    let bad = RemoteMemory { key: RemoteKey::from_number(good.key.number() ^ 0x5500), ..good };
    let data = Data::Memory(from.slice(0..100).expect("within"));
    one.pair.write(1, data, bad, true).expect("posted");
    one.pair.write(2, data, good, false).expect("posted");
    let failed = one.next();
    assert_eq!((failed.id, failed.status), (1, Status::RemoteAccess));
    assert!(failed.status.to_string().contains("refused the access"));
    // Later requests are flushed, which is reported although they are unsignaled.
    let flushed = one.next();
    assert_eq!((flushed.id, flushed.status), (2, Status::Flushed));
    assert_eq!(one.pair.state().expect("a state"), QueuePairState::Error);
    assert_eq!(bytes(&target, 0..100), vec![0; 100]);
}

#[test]
fn a_write_past_the_end_of_a_region_is_rejected() {
    let (one, two) = connected();
    let (_, from) = one.region(8192, RegionAccess::Source);
    let (_, to) = two.region(4096, RegionAccess::RemoteWrite);
    let data = Data::Memory(from.slice(0..100).expect("within"));
    one.pair.write(1, data, remote(&to).offset(4000), true).expect("posted");
    assert_eq!(one.next().status, Status::RemoteAccess);
}

#[test]
fn memory_that_is_not_open_to_peers_cannot_be_written() {
    let (one, two) = connected();
    let (_, from) = one.region(4096, RegionAccess::Source);
    let (_, private) = two.region(4096, RegionAccess::Receive);
    let (_, open) = two.region(4096, RegionAccess::RemoteWrite);
    assert_eq!(private.remote(), None);
    // Not even with a guessed key: soft-RoCE assigns neighbouring keys.
    let address = private.memory().address().as_ptr() as u64;
    let guess = RemoteMemory { address, key: remote(&open).key };
    one.pair.write(1, Data::Memory(from.slice(0..8).expect("within")), guess, true).expect("posted");
    assert_eq!(one.next().status, Status::RemoteAccess);
}

#[test]
fn a_message_without_a_receive_fails_after_its_retries() {
    let (one, two) = (Side::new(DEPTH), Side::new(DEPTH));
    let connection = Connection { receiver_retries: 1, receiver_timer: 1, ..Connection::default() };
    connect(&one, &two, &connection);
    one.pair.send(1, Data::Inline(b"anybody there?"), true).expect("posted");
    assert_eq!(one.next().status, Status::ReceiverNotReady);
}

#[test]
fn a_message_longer_than_its_receive_fails_on_both_sides() {
    let (one, two) = connected();
    let (_, receive) = two.region(4096, RegionAccess::Receive);
    two.pair
        .post_receives(&[ReceiveRequest { id: 1, into: Some(receive.slice(0..8).expect("within")) }])
        .expect("posted");
    one.pair.send(2, Data::Inline(b"more than eight bytes"), true).expect("posted");
    let status = one.next().status;
    assert!(matches!(status, Status::RemoteInvalidRequest | Status::RemoteOperation), "devices differ: {status}");
    let got = two.next();
    assert_eq!((got.id, got.operation), (1, Operation::Receive));
    assert_ne!(got.status, Status::Success);
}

#[test]
fn invalid_requests_are_rejected_before_they_reach_the_device() {
    let (one, _two) = connected();
    let (_, source) = one.region(4096, RegionAccess::Source);
    let somewhere = RemoteMemory { address: 0, key: RemoteKey::from_number(1) };
    assert!(matches!(source.slice(4000..4097), Err(PostError::OutOfRange { start: 4000, end: 4097, length: 4096 })));
    assert!(matches!(one.pair.read(1, source.slice(0..8).expect("within"), somewhere), Err(PostError::Unsuitable(_))));
    let into = Some(source.slice(0..8).expect("within"));
    assert!(matches!(one.pair.post_receives(&[ReceiveRequest { id: 1, into }]), Err(PostError::Unsuitable(_))));
    let long = vec![0; one.pair.max_inline() + 1];
    assert!(matches!(one.pair.send(1, Data::Inline(&long), true), Err(PostError::InlineTooLong { .. })));
    let other = ProtectionDomain::new(&one.context).expect("a domain");
    let elsewhere =
        MemoryRegion::register(&other, Arc::new(Buffer::zeroed(64)), RegionAccess::Source).expect("a region");
    let data = Data::Memory(elsewhere.slice(0..8).expect("within"));
    assert!(matches!(one.pair.send(1, data, true), Err(PostError::Unsuitable(_))));
    assert!(matches!(
        one.pair.connect(&one.pair.endpoint(), &Connection::default()),
        Err(QueueError::State { state: QueuePairState::Connected, .. })
    ));
    assert_eq!(one.pair.free_sends(), DEPTH as usize);
}
