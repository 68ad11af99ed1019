//! Two nodes and the path between them.

use super::node::Node;
use dflow_protocol::wire::StreamKey;
use dflow_protocol::{Epoch, RunId, StreamId};
use dflow_transport::{Link, LinkEvent, Path};
use std::time::Instant;

/// The operations of a kind of path that the tests need.
pub trait Network {
    /// Both ends of a new connection.
    fn connect(&mut self) -> [Box<dyn Path>; 2];

    /// Both ends of a connection between two others, which leaves those before as they are.
    fn connect_beside(&mut self) -> [Box<dyn Path>; 2] {
        self.connect()
    }

    /// Breaks every connection, as a cable that is pulled does.
    fn cut(&mut self);

    /// Nothing is to be done now: lets time pass until something has happened. `false` if nothing ever will.
    fn idle(&mut self) -> bool;

    /// The length of a large stream, in bytes.
    fn large(&self) -> u64;
}

pub struct World<N> {
    pub network: N,
    pub nodes: [Node; 2],
    pub links: [Link; 2],
    incarnation: u64,
    /// The path events of each side.
    pub events: [Vec<LinkEvent>; 2],
}

impl<N: Network> World<N> {
    /// Two nodes that are connected.
    pub fn new(network: N) -> Self {
        let mut world = Self {
            network,
            nodes: Default::default(),
            links: [Link::new(71), Link::new(72)],
            incarnation: 0,
            events: Default::default(),
        };
        world.connect();
        world
    }

    /// A new path between the two.
    pub fn connect(&mut self) {
        self.incarnation += 1;
        let paths = self.network.connect();
        // Both are closed before one is used.
        self.links.iter_mut().for_each(Link::disconnect);
        for (link, path) in self.links.iter_mut().zip(paths) {
            link.connect(path, self.incarnation);
        }
    }

    /// Runs each side once, and returns whether any of them did anything.
    pub fn step(&mut self) -> bool {
        let mut busy = false;
        for side in 0..2 {
            let (node, link) = (&mut self.nodes[side], &mut self.links[side]);
            busy |= node.work(link);
            busy |= link.step(node);
            self.events[side].extend(link.take_events());
        }
        // A test may have changed the permissions of a source or a reader.
        busy || (0..2).any(|side| self.nodes[side].work_on_all(&mut self.links[side]))
    }

    /// Goes on until this holds.
    ///
    /// # Panics
    /// If it does not, although nothing can happen any more.
    #[track_caller]
    pub fn until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        self.go_on(&mut holds);
        assert!(holds(self), "nothing moves any more");
    }

    /// Goes on until nothing can happen any more.
    pub fn rest(&mut self) {
        self.go_on(&mut |_| false);
    }

    fn go_on(&mut self, holds: &mut dyn FnMut(&Self) -> bool) {
        while !holds(self) {
            if self.step() {
                continue;
            }
            let due = (0..2).filter_map(|side| self.links[side].settle(&mut self.nodes[side])).min();
            if self.step() || self.network.idle() {
                continue;
            }
            // Delayed work is still pending.
            let Some(due) = due else { return };
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    /// Goes on until both nodes have read everything.
    #[track_caller]
    pub fn until_done(&mut self) {
        self.until(|world| world.nodes.iter().all(Node::is_done));
    }

    /// Fails if a path was lost or a violation was reported.
    #[track_caller]
    pub fn assert_undisturbed(&self) {
        assert!(self.events.iter().all(Vec::is_empty), "{:?}", self.events);
    }
}

/// A stream by its number, in its first epoch.
pub fn stream(number: u32) -> StreamKey {
    epoch(number, 1)
}

/// An epoch of a stream.
pub fn epoch(number: u32, epoch: u32) -> StreamKey {
    StreamKey::new(RunId(0xdf), StreamId(number), Epoch(epoch))
}
