//! The conformance suite over QUIC on loopback, with a new connection for each path and with one connection for all.

mod conformance;
mod quic_common;

use conformance::node::Layout;
use conformance::world::{Network, World, stream};
use dflow_transport::Path;
use dflow_transport::quic::{Connection, QuicPath, QuicSettings};
use quic_common::{Bell, Pair};
use std::sync::Arc;
use std::time::Duration;

/// If nothing has arrived for this long, nothing is in transit any more: far longer than the retransmission of a
/// packet.
const QUIET: Duration = Duration::from_millis(700);

struct Loopback {
    pair: Pair,
    bell: Arc<Bell>,
    connections: Option<[Connection; 2]>,
    beside: Vec<[Connection; 2]>,
    /// Whether the next path uses the same connection.
    keep: bool,
    incarnation: u64,
}

impl Loopback {
    fn new(keep: bool) -> Self {
        Self::with(keep, quic_common::settings())
    }

    fn with(keep: bool, settings: QuicSettings) -> Self {
        Self {
            pair: Pair::with(settings),
            bell: Bell::new(),
            connections: None,
            beside: Vec::new(),
            keep,
            incarnation: 0,
        }
    }

    fn paths(&mut self) -> [QuicPath; 2] {
        if !self.keep {
            self.connections = None;
        }
        let connections = self.connections.get_or_insert_with(|| self.pair.connect());
        self.incarnation += 1;
        paths(connections, self.incarnation, &self.bell)
    }
}

fn paths(connections: &[Connection; 2], incarnation: u64, bell: &Arc<Bell>) -> [QuicPath; 2] {
    [0, 1].map(|side| QuicPath::new(&connections[side], incarnation, bell.waker()).expect("a connection"))
}

impl Network for Loopback {
    fn connect(&mut self) -> [Box<dyn Path>; 2] {
        self.paths().map(|path| Box::new(path) as Box<dyn Path>)
    }

    fn connect_beside(&mut self) -> [Box<dyn Path>; 2] {
        let connections = self.pair.connect();
        let paths = paths(&connections, 1, &self.bell);
        self.beside.push(connections);
        paths.map(|path| Box::new(path) as Box<dyn Path>)
    }

    fn cut(&mut self) {
        if self.keep {
            // The paths before end when there are new ones.
            self.paths();
        } else {
            self.connections = None;
        }
    }

    fn idle(&mut self) -> bool {
        self.bell.wait(QUIET)
    }

    /// Where paths share a connection nothing depends on the length that does not without that.
    fn large(&self) -> u64 {
        if self.keep { 64 << 20 } else { 1 << 30 }
    }
}

mod one_connection_for_each_path {
    use super::Loopback;
    crate::conformance!(Loopback::new(false));
}

mod one_connection_for_all_paths {
    use super::Loopback;
    crate::conformance!(Loopback::new(true));
}

/// Ten packets of this size, which quinn sends at once, are more than the kernel takes in one call.
#[test]
fn large_packets_are_cut_into_calls_that_fit() {
    let settings = QuicSettings { first_packet: 8952, largest_packet: 8952, ..quic_common::settings() };
    let mut network = Loopback::with(true, settings);
    network.paths();
    let connections = network.connections.as_ref().expect("just made");
    assert_eq!(connections[0].stats().packet_size, 8952);
    conformance::suite::a_large_stream_passes_through_small_windows(network);
}

/// Each is a stream of QUIC's, of which a peer may have fewer at first.
#[test]
fn more_windows_than_there_may_be_streams_at_first() {
    conformance::suite::windows_at_once(Loopback::new(true), 1500);
}

/// Before a few bytes arrive, other streams transfer at most the bytes already in transit and one turn each.
#[test]
fn a_stream_with_little_now_and_then_is_not_held_up_by_large_ones() {
    const LARGE: u32 = 6;
    const LENGTH: u64 = 24 << 20;
    const TURN: u64 = 320 * 1024;
    let most = quic_common::settings().in_flight + u64::from(LARGE) * TURN;
    let mut world = World::new(Loopback::new(true));
    // Beyond its first bytes, which always precede those of others.
    world.nodes[0].write(stream(99), 1 << 20).limit = 100 << 10;
    let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
    let small = node.read(link, stream(99), Layout::Ring);
    for number in 1..=LARGE {
        world.nodes[0].write(stream(number), LENGTH);
        let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
        node.read(link, stream(number), Layout::Ring);
    }
    let arrived = |world: &World<Loopback>| world.nodes[1].sinks.values().map(|sink| sink.arrived).sum::<u64>();
    let mut waits = Vec::new();
    for wanted in (100 << 10..1 << 20).step_by(64) {
        if arrived(&world) >= u64::from(LARGE) * LENGTH * 3 / 4 {
            break;
        }
        let before = arrived(&world);
        world.nodes[0].sources.get_mut(&stream(99)).expect("it is written").limit = wanted;
        world.nodes[0].work_on_all(&mut world.links[0]);
        world.until(|world| world.nodes[1].sinks[&small].arrived >= wanted);
        waits.push(arrived(&world) - before);
    }
    // The first one waits for its windows, too.
    waits.remove(0);
    assert!(waits.len() >= 5, "the large ones were there at once: {waits:?}");
    waits.sort_unstable();
    assert!(waits[waits.len() / 2] <= most, "{most} bytes of others are enough: {waits:?}");
}
