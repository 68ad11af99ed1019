//! Which streams come to this node from others, and go to others.
//!
//! A stream crosses once to each node that reads it. The first node gets it from the writer and each further one from
//! the node before it, so the writer's link carries it once, however many nodes read it. Every node works out this order
//! by itself, so it counts only nodes with a reader that is part of the plan. A node whose readers are discovered later
//! gets the stream from the writer.

use crate::order::Order;
use dflow_protocol::{Epoch, StreamId};
use dflow_scheduler::Place;
use std::collections::HashMap;

/// Orders for this node.
pub(crate) type Local = Vec<Order>;

#[derive(Debug)]
pub(crate) struct Crossings {
    here: Place,
    streams: HashMap<StreamId, Crossing>,
}

/// A stream and the nodes to which it crosses.
#[derive(Debug)]
struct Crossing {
    writer: Place,
    epoch: Epoch,
    keep: bool,
    /// Its epoch is open, not void.
    is_open: bool,
    holds: u32,
    /// This node's store has the stream, even if its epoch is void.
    is_here: bool,
    /// It came from a node that is lost.
    is_cut: bool,
    /// The nodes that get it, in the order in which they subscribed.
    importers: Vec<Importer>,
}

#[derive(Debug)]
struct Importer {
    place: Place,
    /// One of its readers is part of the plan.
    is_planned: bool,
}

impl Crossings {
    /// Those of the node at this place.
    pub(crate) fn new(here: Place) -> Self {
        Self { here, streams: HashMap::new() }
    }

    /// Opens an epoch of a stream on the node that writes it. `continues`: the epoch continues the previous one, and so
    /// do its readers.
    pub(crate) fn open(&mut self, stream: StreamId, writer: Place, epoch: Epoch, keep: bool, continues: bool) -> Local {
        let crossing = self.streams.entry(stream).or_insert_with(|| Crossing {
            writer,
            epoch,
            keep,
            is_open: true,
            holds: 0,
            is_here: false,
            is_cut: false,
            importers: Vec::new(),
        });
        if continues {
            // To other nodes it is still the same stream.
            return Local::new();
        }
        (crossing.writer, crossing.epoch, crossing.keep, crossing.is_open) = (writer, epoch, keep, true);
        crossing.is_cut = false;
        // A node that has read the stream may write it now.
        crossing.importers.retain(|importer| importer.place != writer);
        let mut orders = Local::new();
        for index in 0..crossing.importers.len() {
            orders.extend(crossing.cross(self.here, stream, index));
        }
        if writer == self.here {
            orders.extend(crossing.arrive(stream));
        }
        orders
    }

    /// The orders that make a stream available on a node that is about to read it.
    pub(crate) fn read(&mut self, stream: StreamId, reader: Place, is_planned: bool) -> Local {
        let Some(crossing) = self.streams.get_mut(&stream) else { return Local::new() };
        if crossing.writer == reader || crossing.importers.iter().any(|importer| importer.place == reader) {
            return Local::new();
        }
        crossing.importers.push(Importer { place: reader, is_planned });
        if !crossing.is_open {
            return Local::new();
        }
        crossing.cross(self.here, stream, crossing.importers.len() - 1)
    }

    /// A node is lost: it gets nothing more, and what it passed on comes from the node before it. What came to this node from
    /// the lost one, and has not come to its end, is [cut](Crossings::is_cut).
    pub(crate) fn forsake(&mut self, lost: Place) -> Local {
        let (mut exports, mut orders) = (Vec::new(), Local::new());
        for (&stream, crossing) in &mut self.streams {
            let gets: Vec<Place> = crossing.importers.iter().map(|importer| importer.place).collect();
            let before: Vec<Place> = (0..gets.len()).map(|index| crossing.source(index)).collect();
            for (&to, &from) in gets.iter().zip(&before) {
                if to == lost && from == self.here {
                    exports.push(stream);
                }
                crossing.is_cut |= to == self.here && from == lost;
            }
            crossing.importers.retain(|importer| importer.place != lost);
            for index in 0..crossing.importers.len() {
                let (to, from) = (crossing.importers[index].place, crossing.source(index));
                let came_from_it = gets.iter().zip(&before).any(|(other, from)| *other == to && *from == lost);
                if came_from_it && from == self.here && crossing.is_open {
                    // The other node may have heard of the loss before it has heard of the epoch.
                    orders.push(Order::Export { stream, epoch: crossing.epoch, to });
                }
            }
        }
        orders.push(Order::Forsake { place: lost, exports });
        orders
    }

    /// Whether the stream comes from a lost node.
    pub(crate) fn is_cut(&self, stream: StreamId) -> bool {
        self.streams.get(&stream).is_some_and(|crossing| crossing.is_cut)
    }

    /// The streams of which this node has an epoch.
    pub(crate) fn present(&self) -> impl Iterator<Item = StreamId> {
        self.streams.iter().filter(|(_, crossing)| crossing.is_open && crossing.is_here).map(|(stream, _)| *stream)
    }

    /// Further readers may appear (`true`), or all readers are known from now on (`false`).
    pub(crate) fn hold(&mut self, stream: StreamId, holds: bool) -> Option<Order> {
        let crossing = self.streams.get_mut(&stream)?;
        crossing.holds = if holds { crossing.holds + 1 } else { crossing.holds.saturating_sub(1) };
        crossing.is_here.then_some(if holds { Order::Hold { stream } } else { Order::Unhold { stream } })
    }

    /// Ends the epoch. Other nodes know a continued stream by its first epoch.
    pub(crate) fn abort(&mut self, stream: StreamId) -> Option<Order> {
        let crossing = self.streams.get_mut(&stream)?;
        crossing.is_open = false;
        crossing.is_here.then_some(Order::Abort { stream, epoch: crossing.epoch })
    }

    /// Whether this epoch of a stream comes from another node.
    pub(crate) fn is_imported(&self, stream: StreamId, epoch: Epoch) -> bool {
        self.streams.get(&stream).is_some_and(|crossing| crossing.writer != self.here && crossing.epoch == epoch)
    }
}

impl Crossing {
    /// The node from which one of the importers gets the stream.
    fn source(&self, index: usize) -> Place {
        let before = self.importers[..index].iter().rev().find(|importer| importer.is_planned);
        before.filter(|_| self.importers[index].is_planned).map_or(self.writer, |importer| importer.place)
    }

    /// The stream comes to this node's store. Readers that appear later need all of it, too.
    fn arrive(&mut self, stream: StreamId) -> Local {
        let is_new = !std::mem::replace(&mut self.is_here, true);
        (0..self.holds).filter(|_| is_new).map(|_| Order::Hold { stream }).collect()
    }

    /// What brings the stream to one of the nodes that read it, as far as it concerns this node.
    fn cross(&mut self, here: Place, stream: StreamId, index: usize) -> Local {
        let (to, from) = (self.importers[index].place, self.source(index));
        let (epoch, keep) = (self.epoch, self.keep);
        let export = (from == here).then_some(Order::Export { stream, epoch, to });
        let import = (to == here).then_some(Order::Import { stream, epoch, from, keep });
        let holds = if to == here { self.arrive(stream) } else { Local::new() };
        export.into_iter().chain(import).chain(holds).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId(7);

    /// What each of three nodes does about the streams.
    fn crossings() -> [Crossings; 3] {
        [0, 1, 2].map(Crossings::new)
    }

    /// The nodes from which each node imports, after the same has happened on all of them; every import has its export.
    fn imports(nodes: &mut [Crossings; 3], happens: impl Fn(&mut Crossings) -> Local) -> Vec<(Place, Place)> {
        let (mut imports, mut exports) = (Vec::new(), Vec::new());
        for node in nodes {
            for order in happens(node) {
                match order {
                    Order::Import { from, .. } => imports.push((from, node.here)),
                    Order::Export { to, .. } => exports.push((node.here, to)),
                    _ => {}
                }
            }
        }
        exports.sort_unstable();
        let mut sorted = imports.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, exports);
        imports
    }

    #[test]
    fn a_stream_crosses_to_a_node_once_and_from_node_to_node() {
        let mut nodes = crossings();
        assert_eq!(imports(&mut nodes, |node| node.open(STREAM, 1, Epoch(1), false, false)), []);
        assert_eq!(imports(&mut nodes, |node| node.read(STREAM, 1, true)), [], "it is there already");
        assert_eq!(imports(&mut nodes, |node| node.read(STREAM, 0, true)), [(1, 0)]);
        assert_eq!(imports(&mut nodes, |node| node.read(STREAM, 0, true)), [], "it comes already");
        assert_eq!(
            imports(&mut nodes, |node| node.read(STREAM, 2, true)),
            [(0, 2)],
            "the writer's link carries it once"
        );
        let again = imports(&mut nodes, |node| node.open(STREAM, 1, Epoch(2), false, false));
        assert_eq!(again, [(1, 0), (0, 2)], "a new epoch crosses anew");
        let continued = imports(&mut nodes, |node| node.open(STREAM, 1, Epoch(3), false, true));
        assert_eq!(continued, [], "one that goes on is the same stream");
        assert!(nodes[2].is_imported(STREAM, Epoch(2)) && !nodes[1].is_imported(STREAM, Epoch(2)));
        for node in &mut nodes {
            assert_eq!(node.abort(STREAM), Some(Order::Abort { stream: STREAM, epoch: Epoch(2) }));
        }
    }

    #[test]
    fn readers_that_nodes_discover_in_any_order_get_a_stream_from_its_writer() {
        let mut nodes = crossings();
        imports(&mut nodes, |node| node.open(STREAM, 1, Epoch(1), false, false));
        // Node 0 has discovered its own reader first, the writer that of node 2.
        let mut orders = Vec::new();
        for (here, readers) in [(0, [0, 2]), (1, [2, 0]), (2, [2, 0])] {
            for reader in readers {
                orders.extend(nodes[here].read(STREAM, reader, false).into_iter().map(|order| (here, order)));
            }
        }
        let imported = orders.iter().filter(|(_, order)| matches!(order, Order::Import { from: 1, .. })).count();
        let exported =
            orders.iter().filter(|(here, order)| *here == 1 && matches!(order, Order::Export { .. })).count();
        assert_eq!((imported, exported, orders.len()), (2, 2, 4));
    }

    #[test]
    fn a_void_epoch_does_not_cross() {
        let mut nodes = crossings();
        imports(&mut nodes, |node| node.open(STREAM, 1, Epoch(1), false, false));
        nodes.iter_mut().for_each(|node| _ = node.abort(STREAM));
        assert_eq!(imports(&mut nodes, |node| node.read(STREAM, 0, true)), []);
        assert_eq!(imports(&mut nodes, |node| node.open(STREAM, 1, Epoch(2), false, false)), [(1, 0)]);
    }

    #[test]
    fn what_a_lost_node_passed_on_comes_from_the_node_before_it() {
        let mut nodes = [0, 1, 2, 3].map(Crossings::new);
        for node in &mut nodes {
            node.open(STREAM, 1, Epoch(1), false, false);
            for reader in [0, 2, 3] {
                node.read(STREAM, reader, true);
            }
        }
        // 1 → 0 → 2 → 3, and 2 is lost.
        let orders = [0, 1, 3].map(|node| nodes[node].forsake(2));
        let export = Order::Export { stream: STREAM, epoch: Epoch(1), to: 3 };
        assert_eq!(orders[0], [export, Order::Forsake { place: 2, exports: vec![STREAM] }]);
        for quiet in &orders[1..] {
            assert_eq!(*quiet, [Order::Forsake { place: 2, exports: Vec::new() }]);
        }
        assert_eq!([0, 1, 3].map(|node| nodes[node].is_cut(STREAM)), [false, false, true]);
        // It is written again, on a node that has read it.
        for node in [0, 1, 3] {
            nodes[node].abort(STREAM);
        }
        let orders = [0, 1, 3].map(|node| nodes[node].open(STREAM, 3, Epoch(2), false, false));
        let import = Order::Import { stream: STREAM, epoch: Epoch(2), from: 3, keep: false };
        let export = Order::Export { stream: STREAM, epoch: Epoch(2), to: 0 };
        assert_eq!(orders, [vec![import], Vec::new(), vec![export]]);
        assert!(!nodes[3].is_cut(STREAM));
    }

    #[test]
    fn a_node_that_comes_late_holds_what_its_writer_holds() {
        let mut node = Crossings::new(1);
        node.open(STREAM, 0, Epoch(1), true, false);
        assert_eq!(node.hold(STREAM, true), None, "it is not here");
        let orders = node.read(STREAM, 1, true);
        assert_eq!(orders.last(), Some(&Order::Hold { stream: STREAM }));
        assert_eq!(node.hold(STREAM, false), Some(Order::Unhold { stream: STREAM }));
    }
}
