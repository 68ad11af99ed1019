//! Bytes land in the windows that were granted to the path, and nowhere else; the memory that they come from.

use super::{FLOW, GRANT, PATIENCE, QUIET, Rdma, SIZE, chunk, landing, look_until, mapped, order, strict};
use dflow_protocol::exchange::Order;
use dflow_protocol::wire::{Grant, GrantId, PeerMessage};
use dflow_shm::{Access, Memory};
use dflow_transport::{Path, PathError, PathEvent, PathKind};
use std::sync::Arc;
use std::time::Instant;

fn bytes(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; memory.length()];
    memory.shared(0..memory.length()).copy_to(&mut bytes);
    bytes
}

#[test]
fn bytes_land_in_their_window_and_nowhere_else() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    paths[1].write(&order(remote, 0), chunk(7, 5000)).expect("written");
    paths[1].write(&order(remote, 5000), chunk(8, 3192)).expect("written");
    let end = |event: &PathEvent| matches!(event, PathEvent::Placed { at: 5000, length: 3192, flow: FLOW });
    look_until(&mut paths, end);
    let (start, bytes) = (SIZE as usize, bytes(landing.memory()));
    assert!(bytes[start..start + 5000].iter().all(|&byte| byte == 7));
    assert!(bytes[start + 5000..2 * start].iter().all(|&byte| byte == 8));
    assert!(bytes[..start].iter().chain(&bytes[2 * start..]).all(|&byte| byte == 0));
    assert_eq!(paths[0].kind(), PathKind::Rdma);
}

/// As a reader of a stream has it. Kernels before 6.2 do not let a device read it.
#[test]
fn memory_that_can_only_be_read_is_sent_too() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    paths[1].write(&order(remote, 0), mapped(7, 4000, Access::Read)).expect("written");
    paths[1].write(&order(remote, 4000), mapped(8, 4000, Access::Read).passing()).expect("written");
    look_until(&mut paths, |event| matches!(event, PathEvent::Placed { at: 4000, .. }));
    let (start, bytes) = (SIZE as usize, bytes(landing.memory()));
    assert!(bytes[start..start + 4000].iter().all(|&byte| byte == 7));
    assert!(bytes[start + 4000..start + 8000].iter().all(|&byte| byte == 8));
}

/// The device says it to the attacked side with the receive that a write of one packet uses up. Of the first packet of
/// a longer one soft-RoCE says nothing there but that the queue pair is at its end: the path is lost like one whose
/// peer is gone.
#[test]
fn a_write_outside_of_its_window_is_refused_and_ends_the_connection() {
    let outside = [(SIZE, 64, true), (SIZE - 10, 64, true), (0u64.wrapping_sub(64), 64, true), (0, SIZE + 1, false)];
    for (from, length, is_told) in outside {
        let network = Rdma::new(strict());
        let (mut paths, mut bystander) = (network.pair(), network.pair());
        let landing = landing(SIZE);
        landing.open(0..SIZE);
        let mut remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
        remote.address = remote.address.wrapping_add(from);
        paths[1].write(&order(remote, 0), chunk(7, length as usize)).expect("posted");
        // The connection has ended for the attacked side, too. A side that gets no event learns it with its next
        // message.
        let [attacked, attacker] = &mut paths;
        let (start, mut told, mut seen, mut asked) = (Instant::now(), Vec::new(), Vec::new(), false);
        let error = loop {
            attacker.poll(&mut told);
            attacked.poll(&mut seen);
            if let (Some(PathEvent::Lost(_)), Some(PathEvent::Lost(error))) = (told.last(), seen.last()) {
                break error.clone();
            }
            if start.elapsed() >= QUIET && seen.is_empty() && !std::mem::replace(&mut asked, true) {
                attacked.send(&PeerMessage::Ping(1)).expect("it does not know");
            }
            assert!(start.elapsed() < PATIENCE, "only {told:?} and {seen:?}");
        };
        assert!(format!("{told:?}").contains("refused the access"), "{told:?}");
        assert_eq!(error.is_violation(), is_told, "from {from}, {length} bytes: {error}");
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(bytes(landing.memory()).iter().all(|&byte| byte == 0), "none of its bytes have landed");
        bystander[1].send(&PeerMessage::Ping(2)).expect("sent");
        look_until(&mut bystander, |event| matches!(event, PathEvent::Message(PeerMessage::Ping(2))));
    }
}

#[test]
fn a_withdrawn_window_is_closed() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    paths[0].withdraw(FLOW);
    paths[1].write(&order(remote, 0), chunk(7, 100)).expect("posted");
    paths.reverse();
    look_until(&mut paths, |event| matches!(event, PathEvent::Lost(_)));
    assert!(bytes(landing.memory()).iter().all(|&byte| byte == 0));
}

#[test]
fn a_write_past_its_credit_or_without_a_grant_is_a_violation() {
    for (grant, open) in [(GRANT, 99), (GrantId(10), SIZE)] {
        let mut paths = Rdma::new(strict()).pair();
        let landing = landing(SIZE);
        landing.open(0..open);
        let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
        let mut order = order(remote, 0);
        order.grant = order.grant.map(|sound| Grant { id: grant, ..sound });
        paths[1].write(&order, chunk(7, 100)).expect("posted");
        let seen = look_until(&mut paths, |event| matches!(event, PathEvent::Lost(_)));
        assert!(matches!(&seen[..], [PathEvent::Lost(error)] if error.is_violation()), "{seen:?}");
    }
}

#[test]
fn one_path_cannot_use_the_windows_of_another() {
    let network = Rdma::new(strict());
    let (mut mine, others) = (network.pair(), network.pair());
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = mine[0].offer(FLOW, GRANT, &landing).expect("offered");
    let mut others = others;
    others[1].write(&order(remote, 0), chunk(7, 100)).expect("posted");
    others.reverse();
    look_until(&mut others, |event| matches!(event, PathEvent::Lost(_)));
    assert!(bytes(landing.memory()).iter().all(|&byte| byte == 0));
    // The one whose window it is has not noticed anything.
    mine[1].write(&order(remote, 0), chunk(7, 100)).expect("posted");
    look_until(&mut mine, |event| matches!(event, PathEvent::Placed { at: 0, length: 100, .. }));
}

#[test]
fn nothing_lands_when_the_path_is_gone() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(1 << 20);
    landing.open(0..1 << 20);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    let grant = Grant { id: GRANT, base: 0, size: 1 << 20, ring: false, address: remote.address, key: remote.key };
    let mut at = 0;
    while paths[1].has_room() && at < 3 << 18 {
        let order = Order { flow: FLOW, grant: Some(grant), at, most: 1 << 18 };
        paths[1].write(&order, chunk(7, 1 << 18)).expect("posted");
        at += 1 << 18;
    }
    let [receiver, mut sender] = paths;
    drop(receiver);
    let before = bytes(landing.memory());
    let again = sender.write(&order(remote, 0), chunk(9, 4096)).and_then(|()| sender.send(&PeerMessage::Ping(1)));
    let lost = |event: &PathEvent| matches!(event, PathEvent::Lost(PathError::Lost { .. }));
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while again.is_ok() && !seen.iter().any(lost) {
        assert!(Instant::now() < deadline, "the sender has not noticed: {seen:?}");
        sender.poll(&mut seen);
    }
    assert!(bytes(landing.memory()) == before, "something has landed afterwards");
}

#[test]
fn source_memory_is_released_when_it_is_sent_and_unused() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    let chunk = chunk(7, 4096);
    let memory = Arc::downgrade(chunk.memory());
    paths[1].write(&order(remote, 0), chunk).expect("written");
    assert!(memory.upgrade().is_some());
    look_until(&mut paths, |event| matches!(event, PathEvent::Placed { .. }));
    let deadline = Instant::now() + PATIENCE;
    let mut at = 4096;
    // Something must follow for its end to be reported, as a sign of life does now and then.
    while memory.upgrade().is_some() {
        assert!(Instant::now() < deadline, "it is kept");
        if at < SIZE && paths[1].has_room() {
            paths[1].rest();
            paths[1].write(&order(remote, at), self::chunk(8, 1)).expect("written");
            at += 1;
        }
        paths[1].poll(&mut Vec::new());
        paths[0].poll(&mut Vec::new());
        paths[1].rest();
    }
}

#[test]
fn memory_is_registered_ahead_of_its_first_chunk() {
    let mut paths = Rdma::new(strict()).pair();
    let landing = landing(SIZE);
    landing.open(0..SIZE);
    let remote = paths[0].offer(FLOW, GRANT, &landing).expect("offered");
    let chunks = [7, 8, 9].map(|byte| chunk(byte, 100));
    chunks.iter().for_each(|chunk| paths[1].ready(chunk.memory()));
    // One in each turn.
    chunks.iter().for_each(|_| paths[1].poll(&mut Vec::new()));
    for (number, chunk) in (0..).zip(chunks) {
        paths[1].write(&order(remote, 100 * number), chunk).expect("written");
    }
    look_until(&mut paths, |event| matches!(event, PathEvent::Placed { at: 200, .. }));
    assert_eq!(paths[1].registered_late(), 0);
    paths[1].write(&order(remote, 300), chunk(9, 100)).expect("written");
    assert_eq!(paths[1].registered_late(), 1, "nothing was said of this one");
}
