//! Data transfer from one end to the other.

use crate::common::{bytes, pattern};
use crate::{DEPTH, connected, remote};
use dflow_shm::{Access, Segment, SegmentKind};
use dflow_verbs::{
    Data, MemoryError, MemoryRegion, Operation, ReceiveRequest, RegionAccess, SendOperation, SendRequest,
};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_write_arrives_where_it_was_sent() {
    let (one, two) = connected();
    let (source, from) = one.region(100_000, RegionAccess::Source);
    let (target, to) = two.region(200_000, RegionAccess::RemoteWrite);
    let sent = pattern(1, 70_000);
    source.write(17, &sent);
    let data = Data::Memory(from.slice(17..70_017).expect("within"));
    one.pair.write(5, data, remote(&to).offset(1000), true).expect("posted");
    let done = one.succeed(5);
    assert_eq!((done.operation, done.bytes, done.queue_pair), (Operation::Write, 70_000, one.pair.number()));
    assert_eq!(bytes(&target, 1000..71_000), sent);
    assert_eq!(bytes(&target, 0..1000), vec![0; 1000]);
    assert_eq!(bytes(&target, 71_000..72_000), vec![0; 1000]);
}

#[test]
fn a_write_with_immediate_data_reports_its_length() {
    let (one, two) = connected();
    let (source, from) = one.region(8192, RegionAccess::Source);
    let (target, to) = two.region(8192, RegionAccess::RemoteWrite);
    two.pair
        .post_receives(&[ReceiveRequest { id: 70, into: None }, ReceiveRequest { id: 71, into: None }])
        .expect("posted");
    let sent = pattern(2, 5000);
    source.write(0, &sent);
    let data = Data::Memory(from.slice(0..5000).expect("within"));
    one.pair.write_with_immediate(1, data, remote(&to), 0xdead_beef, true).expect("posted");
    let got = two.succeed(70);
    assert_eq!((got.operation, got.bytes, got.immediate), (Operation::Receive, 5000, Some(0xdead_beef)));
    assert_eq!(bytes(&target, 0..5000), sent);
    one.succeed(1);

    // Without data it is only a notification.
    one.pair.write_with_immediate(2, Data::Empty, remote(&to), 7, true).expect("posted");
    let got = two.succeed(71);
    assert_eq!((got.bytes, got.immediate), (0, Some(7)));
    one.succeed(2);
}

#[test]
fn messages_arrive_in_order_also_inline() {
    let (one, two) = connected();
    let (inbox, receive) = two.region(4096, RegionAccess::Receive);
    let slots: Vec<_> = (0..4)
        .map(|at| ReceiveRequest {
            id: at,
            into: Some(receive.slice(at as usize * 64..at as usize * 64 + 64).expect("within")),
        })
        .collect();
    two.pair.post_receives(&slots).expect("posted");
    let (outbox, send) = one.region(4096, RegionAccess::Source);
    outbox.write(0, b"from memory");
    assert!(one.pair.max_inline() >= 64);
    let stack = *b"inline from the stack";
    one.pair
        .post(&[
            SendRequest { id: 1, operation: SendOperation::Send, data: Data::Inline(&stack), signaled: false },
            SendRequest {
                id: 2,
                operation: SendOperation::Send,
                data: Data::Memory(send.slice(0..11).expect("within")),
                signaled: false,
            },
            SendRequest {
                id: 3,
                operation: SendOperation::SendWithImmediate(9),
                data: Data::InlineMemory(send.slice(5..11).expect("within")),
                signaled: false,
            },
            SendRequest { id: 4, operation: SendOperation::Send, data: Data::Empty, signaled: true },
        ])
        .expect("posted");
    let expected: [(&[u8], Option<u32>); 4] =
        [(b"inline from the stack", None), (b"from memory", None), (b"memory", Some(9)), (b"", None)];
    for (at, (text, immediate)) in expected.into_iter().enumerate() {
        let got = two.succeed(at as u64);
        assert_eq!((got.bytes as usize, got.immediate), (text.len(), immediate));
        assert_eq!(bytes(&inbox, at * 64..at * 64 + text.len()), text);
    }
    // One completion for the four requests, because only one is signaled.
    one.succeed(4);
    assert!(one.next_within(Duration::ZERO).is_none());
    assert_eq!(one.pair.free_sends(), DEPTH as usize);
}

#[test]
fn a_read_fetches_bytes() {
    let (one, two) = connected();
    let (source, from) = two.region(65536, RegionAccess::RemoteRead);
    let (target, into) = one.region(65536, RegionAccess::Receive);
    source.write(0, &pattern(3, 65536));
    one.pair.read(8, into.slice(0..60_000).expect("within"), remote(&from).offset(5)).expect("posted");
    let done = one.succeed(8);
    assert_eq!((done.operation, done.bytes), (Operation::Read, 60_000));
    assert_eq!(bytes(&target, 0..60_000), pattern(3, 65536)[5..60_005]);
}

#[test]
fn shared_memory_is_registered_and_written_in_place() {
    let (one, two) = connected();
    let source = Segment::create("source", 1 << 20, SegmentKind::FunctionWritten).expect("a segment");
    let target = Segment::create("target", 1 << 20, SegmentKind::CreatorWritten).expect("a segment");
    let text = pattern(4, 1 << 20);
    assert_eq!(rustix::io::pwrite(&source, &text, 0).expect("written"), text.len());
    // Read-only memory can be registered as a source only, and before Linux 6.2 not at all.
    let from = Arc::new(source.map(Access::Read).expect("mapped"));
    let error =
        MemoryRegion::register(&one.domain, from.clone(), RegionAccess::RemoteWrite).expect_err("only readable");
    assert!(matches!(error, MemoryError::ReadOnly), "{error}");
    let from_region = match MemoryRegion::register(&one.domain, from, RegionAccess::Source) {
        Err(MemoryError::KernelWantsWritable) => {
            let from = Arc::new(source.map(Access::Write).expect("mapped"));
            MemoryRegion::register(&one.domain, from, RegionAccess::Source)
        }
        other => other,
    }
    .expect("a region");
    let into = Arc::new(target.map(Access::Write).expect("mapped"));
    let into_region = MemoryRegion::register(&two.domain, into, RegionAccess::RemoteWrite).expect("a region");
    one.pair
        .write(1, Data::Memory(from_region.slice(0..1 << 20).expect("within")), remote(&into_region), true)
        .expect("posted");
    one.succeed(1);
    // Read through the file instead of the mapping, to check that both have the same pages.
    let mut seen = vec![0; text.len()];
    assert_eq!(rustix::io::pread(&target, &mut seen[..], 0).expect("read"), text.len());
    assert_eq!(seen, text);
}
