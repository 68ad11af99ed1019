//! An idle path lets its driver sleep until an event; a path that polls for completions keeps it awake.

use super::{PATIENCE, Rdma, idle, look_until};
use dflow_protocol::wire::PeerMessage;
use dflow_shm::{Idle, Wait, wait_at_most};
use dflow_transport::{Path, PathEvent};
use std::time::{Duration, Instant};

#[test]
fn an_idle_driver_is_woken() {
    let mut network = Rdma::new(idle(Idle::SLEEP));
    let mut paths = network.pair();
    for number in 0..20 {
        for path in &mut paths {
            path.rest();
        }
        network.listener.hear();
        let ping = PeerMessage::Ping(number);
        paths[1].send(&ping).expect("sent");
        assert!(wait_at_most(&mut [&mut network.listener], None, Idle::SLEEP, PATIENCE).is_some(), "woken");
        let seen = look_until(&mut paths, |event| matches!(event, PathEvent::Message(_)));
        assert!(matches!(&seen[..], [PathEvent::Message(message)] if *message == ping), "{seen:?}");
    }
}

/// The device sends no event then, so the driver must not sleep.
#[test]
fn a_path_that_looks_for_completions_keeps_its_driver_awake() {
    let mut network = Rdma::new(idle(Idle::SPIN));
    let [mut one, mut other] = network.pair();
    let start = Instant::now();
    let mut rests = 0;
    while start.elapsed() < Duration::from_millis(20) {
        network.listener.hear();
        one.rest();
        rests += 1;
        assert!(network.listener.ready(), "after {rests} rests");
    }
    other.send(&PeerMessage::Ping(1)).expect("sent");
    look_until(&mut [one, other], |event| matches!(event, PathEvent::Message(_)));
}

#[test]
fn after_the_time_for_looking_a_path_has_itself_woken() {
    let spin = Duration::from_millis(5);
    let mut network = Rdma::new(idle(Idle { spin }));
    let mut paths = network.pair();
    for number in 0..3 {
        let start = Instant::now();
        let mut looks = 0;
        loop {
            network.listener.hear();
            paths[0].rest();
            if !network.listener.ready() {
                break;
            }
            looks += 1;
            assert!(start.elapsed() < PATIENCE, "it never rests");
        }
        assert!(looks > 0 && start.elapsed() >= spin, "{looks} looks");
        paths[1].send(&PeerMessage::Ping(number)).expect("sent");
        assert!(wait_at_most(&mut [&mut network.listener], None, Idle::SLEEP, PATIENCE).is_some(), "woken");
        look_until(&mut paths, |event| matches!(event, PathEvent::Message(_)));
    }
}
