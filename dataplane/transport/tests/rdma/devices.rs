//! Settings, a link that goes down, a device that is to go away.

use super::{Rdma, device, look_until, strict, works};
use crate::conformance::world::{Network, World, stream};
use dflow_protocol::wire::PeerMessage;
use dflow_shm::Doorbell;
use dflow_transport::rdma::{RdmaConfig, RdmaError, RdmaPath};
use dflow_transport::{Path, PathError, PathEvent};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn bad_settings_and_endpoints_are_refused() {
    let device = device();
    let waker = Arc::new(Doorbell::default()).waker();
    let none = RdmaConfig { send_depth: 2, ..strict() };
    let error = RdmaPath::prepare(&device, &none, waker.clone()).expect_err("too small");
    assert!(matches!(error, RdmaError::Depth { what: "send queue", value: 2 }), "{error}");
    for endpoint in [vec![], vec![1; 7], vec![1, 0, 0, 0, 64, 0, 0, 0, 5], vec![0; 36]] {
        let prepared = RdmaPath::prepare(&device, &strict(), waker.clone()).expect("prepared");
        prepared.connect(&endpoint).expect_err("no endpoint");
    }
    assert!(device.describe().contains("rxe0 port 1"), "{}", device.describe());
    assert!(device.guard().contains("protection domain"));
}

#[test]
fn a_link_that_goes_down_is_said_at_once() {
    let mut world = World::new(Rdma::new(strict()));
    world.nodes[0].write(stream(1), 8 << 20);
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let flow = node.read(link, stream(1), crate::conformance::node::Layout::Ring);
    world.until(|world| world.nodes[1].sinks[&flow].read > 1 << 20);
    let start = Instant::now();
    world.network.cut();
    world.until(|world| world.links.iter().all(|link| link.path_kind().is_none()));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(
        world.events.iter().flatten().any(|event| format!("{event:?}").contains("lost its link")),
        "{:?}",
        world.events
    );
}

/// soft-RoCE has no surprise removal: its device disappears when it is no longer in use.
#[test]
fn a_device_that_is_to_go_away_is_let_go_of() {
    let mut paths = Rdma::new(strict()).pair();
    let mut deleting = Command::new("rdma").args(["link", "delete", "rxe0"]).spawn().expect("rdma");
    let lost = |event: &PathEvent| matches!(event, PathEvent::Lost(PathError::Lost { .. }));
    let seen = look_until(&mut paths, lost);
    assert!(format!("{seen:?}").contains("rxe0 has failed or is being removed"), "{seen:?}");
    assert!(paths[1].send(&PeerMessage::Ping(1)).is_err(), "both ends have it");
    assert!(deleting.try_wait().expect("a process").is_none(), "the paths are there, and so is the device");
    drop(paths);
    assert!(deleting.wait().expect("a process").success());
    let add = ["link", "add", "rxe0", "type", "rxe", "netdev", "rdma0"];
    assert!(Command::new("rdma").args(add).status().expect("rdma").success());
    works(&Rdma::new(strict()));
}
