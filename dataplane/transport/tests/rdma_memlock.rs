//! A node that may lock no more memory in the middle of a stream, over real verbs, continues over QUIC.
//! `scripts/soft-roce` makes the device.

#[allow(dead_code, reason = "the suite needs more of it")]
mod conformance {
    pub mod node;
    pub mod pattern;
    pub mod world;
}
mod quic_common;

use conformance::node::Layout;
use conformance::world::{Network, World, stream};
use dflow_transport::quic::QuicPath;
use dflow_transport::rdma::{RdmaConfig, RdmaDevice, RdmaPath};
use dflow_transport::{LinkEvent, Path, PathError, PathKind};
use dflow_verbs::Connection;
use quic_common::{Bell, Pair};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// If nothing has arrived for this long, nothing will, including retries of the device.
const QUIET: Duration = Duration::from_secs(10);

/// By RDMA first, by QUIC from then on.
struct FirstRdma {
    device: Option<RdmaDevice>,
    pair: Pair,
    quic: Option<[dflow_transport::quic::Connection; 2]>,
    bell: Arc<Bell>,
}

impl Network for FirstRdma {
    fn connect(&mut self) -> [Box<dyn Path>; 2] {
        let Some(device) = self.device.take() else {
            let connections = self.quic.insert(self.pair.connect());
            return connections.each_ref().map(|connection| {
                Box::new(QuicPath::new(connection, 2, self.bell.waker()).expect("a connection")) as Box<dyn Path>
            });
        };
        let config =
            RdmaConfig { connection: Connection { timeout: 14, ..Connection::default() }, ..RdmaConfig::default() };
        let prepare = || RdmaPath::prepare(&device, &config, self.bell.waker()).expect("prepared");
        let ends = [prepare(), prepare()];
        let [one, other] = ends.each_ref().map(|end| end.endpoint());
        let [first, second] = ends;
        [first.connect(&other), second.connect(&one)].map(|path| Box::new(path.expect("connected")) as Box<dyn Path>)
    }

    fn cut(&mut self) {}

    fn idle(&mut self) -> bool {
        self.bell.wait(QUIET)
    }

    fn large(&self) -> u64 {
        1 << 30
    }
}

fn may_lock(bytes: Option<u64>) {
    setrlimit(Resource::Memlock, Rlimit { current: bytes, maximum: None }).expect("set");
}

#[test]
fn a_node_that_may_lock_no_more_memory_in_mid_stream_continues_over_quic() {
    may_lock(None);
    // The limit binds those without the right to pass it. The kernel wants a device to be used with the rights with
    // which it was opened, and all paths are driven by this thread.
    let mut rights = capabilities(None).expect("capabilities");
    rights.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, rights).expect("given up");
    let peer = std::env::var("DFLOW_VM_PEER").expect("run this test through scripts/soft-roce");
    let device = RdmaDevice::open_towards(peer.parse::<IpAddr>().expect("an address")).expect("the route's device");
    let network = FirstRdma { device: Some(device), pair: Pair::new(), quic: None, bell: Bell::new() };
    let mut world = World::new(network);
    let length = 8 << 20;
    for number in 1..=2 {
        world.nodes[0].write(stream(number), length);
        let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
        node.read(link, stream(number), Layout::Extents);
    }
    world.until(|world| world.nodes[1].sinks.values().all(|sink| sink.read > 1 << 20));
    assert!(world.links.iter().all(|link| link.path_kind() == Some(PathKind::Rdma)));

    may_lock(Some(64 << 10));
    // The other one may have nothing in transit, and learns it when both fall back.
    world.until(|world| world.events.iter().any(|events| !events.is_empty()));
    assert!(!world.nodes[1].is_done(), "it was in the middle");
    let events: Vec<&LinkEvent> = world.events.iter().flatten().collect();
    let lacks = |event: &&&LinkEvent| match event {
        LinkEvent::PathLost(PathError::Resource(reason)) => reason.contains("raise it with 'ulimit -l "),
        LinkEvent::PathLost(_) | LinkEvent::Violated(_) => false,
    };
    assert_eq!(events.iter().filter(lacks).count(), 1, "{events:?}");
    assert!(events.iter().all(|event| matches!(event, LinkEvent::PathLost(_))), "no peer is blamed: {events:?}");

    world.connect();
    world.until_done();
    assert!(world.links.iter().all(|link| link.path_kind() == Some(PathKind::Quic)));
    assert!(world.nodes[1].sinks.values().all(|sink| sink.ended == Some(length) && sink.aborted.is_none()));
}
