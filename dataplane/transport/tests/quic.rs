//! The conformance suite over QUIC on loopback, with a new connection for each path and with one connection for all.

mod conformance;
mod quic_common;

use conformance::world::Network;
use dflow_transport::Path;
use dflow_transport::quic::{Connection, QuicPath, QuicSettings};
use quic_common::{Bell, Pair};
use std::sync::Arc;
use std::time::Duration;

/// When nothing has come for so long, nothing is under way any more: far longer than it takes to send a lost packet again.
const QUIET: Duration = Duration::from_millis(700);

struct Loopback {
    pair: Pair,
    bell: Arc<Bell>,
    connections: Option<[Connection; 2]>,
    /// Whether the next path uses the same connection.
    keep: bool,
    incarnation: u64,
}

impl Loopback {
    fn new(keep: bool) -> Self {
        Self::with(keep, quic_common::settings())
    }

    fn with(keep: bool, settings: QuicSettings) -> Self {
        Self { pair: Pair::with(settings), bell: Bell::new(), connections: None, keep, incarnation: 0 }
    }

    fn paths(&mut self) -> [QuicPath; 2] {
        if !self.keep {
            self.connections = None;
        }
        let connections = self.connections.get_or_insert_with(|| self.pair.connect());
        self.incarnation += 1;
        let (incarnation, bell) = (self.incarnation, &self.bell);
        [0, 1].map(|side| QuicPath::new(&connections[side], incarnation, bell.waker()).expect("a connection"))
    }
}

impl Network for Loopback {
    fn connect(&mut self) -> [Box<dyn Path>; 2] {
        self.paths().map(|path| Box::new(path) as Box<dyn Path>)
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
