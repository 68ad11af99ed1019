//! Where the streams of a run are written and read. (Where instances run is the scheduler's decision.)
//!
//! A stream crosses once to each node that reads it. The first node gets it from the writer and each further one from
//! the node before it, so the writer's link carries it once, however many nodes read it.

use crate::order::Order;
use dflow_protocol::{Epoch, StreamId};
use dflow_scheduler::Place;
use std::collections::HashMap;

/// Orders, each with the node that it is for.
pub(crate) type Orders = Vec<(Place, Order)>;

#[derive(Debug)]
pub(crate) struct Nodes {
    /// By place; the node that drives the run is place 0.
    names: Vec<String>,
    streams: HashMap<StreamId, Crossing>,
}

/// A stream and the nodes to which it crosses.
#[derive(Debug)]
struct Crossing {
    writer: Place,
    epoch: Epoch,
    keep: bool,
    holds: u32,
    /// The nodes that get it, in the order in which they subscribed.
    importers: Vec<Place>,
}

impl Nodes {
    /// These nodes.
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { names, streams: HashMap::new() }
    }

    /// The names of the nodes, by their places.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn place_of(&self, name: &str) -> Option<Place> {
        (0..).zip(&self.names).find(|(_, known)| *known == name).map(|(place, _)| place)
    }

    pub(crate) fn name_of(&self, place: Place) -> &str {
        self.names.get(place as usize).map_or("", String::as_str)
    }

    /// Opens an epoch of a stream on the node that writes it. `continues`: the epoch continues the previous one, and so
    /// do its readers.
    pub(crate) fn open(
        &mut self,
        stream: StreamId,
        writer: Place,
        epoch: Epoch,
        keep: bool,
        continues: bool,
    ) -> Orders {
        let crossing = self.streams.entry(stream).or_insert_with(|| Crossing {
            writer,
            epoch,
            keep,
            holds: 0,
            importers: Vec::new(),
        });
        if continues {
            // To other nodes it is still the same stream.
            return Orders::new();
        }
        (crossing.writer, crossing.epoch, crossing.keep) = (writer, epoch, keep);
        let mut orders = Orders::new();
        for index in 0..crossing.importers.len() {
            orders.extend(crossing.cross(stream, index));
        }
        orders
    }

    /// The orders that make a stream available on a node that is about to read it.
    pub(crate) fn read(&mut self, stream: StreamId, reader: Place) -> Orders {
        let Some(crossing) = self.streams.get_mut(&stream) else { return Orders::new() };
        if crossing.writer == reader || crossing.importers.contains(&reader) {
            return Orders::new();
        }
        crossing.importers.push(reader);
        let mut orders = crossing.cross(stream, crossing.importers.len() - 1);
        // Readers that appear on that node later need all of it, too.
        orders.extend((0..crossing.holds).map(|_| (reader, Order::Hold { stream })));
        orders
    }

    /// The order, for every node that has the stream.
    pub(crate) fn everywhere(&self, stream: StreamId, order: &Order) -> Orders {
        let Some(crossing) = self.streams.get(&stream) else { return vec![(0, order.clone())] };
        let importers = crossing.importers.iter().map(|&place| (place, order.clone()));
        std::iter::once((crossing.writer, order.clone())).chain(importers).collect()
    }

    /// Further readers may appear (`true`), or all readers are known from now on (`false`).
    pub(crate) fn hold(&mut self, stream: StreamId, holds: bool) -> Orders {
        if let Some(crossing) = self.streams.get_mut(&stream) {
            crossing.holds = if holds { crossing.holds + 1 } else { crossing.holds.saturating_sub(1) };
        }
        self.everywhere(stream, &if holds { Order::Hold { stream } } else { Order::Unhold { stream } })
    }

    /// Ends the epoch on every node that has the stream. Other nodes know a continued stream by its first epoch.
    pub(crate) fn abort(&self, stream: StreamId) -> Orders {
        let epoch = self.streams.get(&stream).map_or(Epoch(1), |crossing| crossing.epoch);
        self.everywhere(stream, &Order::Abort { stream, epoch })
    }

    /// The node that writes a stream.
    pub(crate) fn writer(&self, stream: StreamId) -> Place {
        self.streams.get(&stream).map_or(0, |crossing| crossing.writer)
    }
}

impl Crossing {
    /// What brings the stream to one of the nodes that read it.
    fn cross(&self, stream: StreamId, index: usize) -> Orders {
        let to = self.importers[index];
        let from = if index == 0 { self.writer } else { self.importers[index - 1] };
        let epoch = self.epoch;
        vec![(from, Order::Export { stream, epoch, to }), (to, Order::Import { stream, epoch, from, keep: self.keep })]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId(7);

    fn crossings(orders: &Orders) -> Vec<(Place, Place)> {
        orders
            .iter()
            .filter_map(|(place, order)| match order {
                Order::Import { from, .. } => Some((*from, *place)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_stream_crosses_to_a_node_once_and_from_node_to_node() {
        let mut nodes = Nodes::new(vec!["a".into(), "b".into(), "c".into()]);
        assert!(nodes.open(STREAM, 1, Epoch(1), false, false).is_empty());
        assert!(nodes.read(STREAM, 1).is_empty(), "it is there already");
        assert_eq!(crossings(&nodes.read(STREAM, 0)), [(1, 0)]);
        assert!(nodes.read(STREAM, 0).is_empty(), "it comes already");
        assert_eq!(crossings(&nodes.read(STREAM, 2)), [(0, 2)], "the writer's link carries it once");
        let again = nodes.open(STREAM, 1, Epoch(2), false, false);
        assert_eq!(crossings(&again), [(1, 0), (0, 2)], "a new epoch crosses anew");
        assert!(nodes.open(STREAM, 1, Epoch(3), false, true).is_empty(), "one that goes on is the same stream");
        assert!(nodes.abort(STREAM).iter().all(|(_, order)| matches!(order, Order::Abort { epoch: Epoch(2), .. })));
    }

    #[test]
    fn a_node_that_comes_late_holds_what_its_writer_holds() {
        let mut nodes = Nodes::new(vec!["a".into(), "b".into()]);
        nodes.open(STREAM, 0, Epoch(1), true, false);
        nodes.hold(STREAM, true);
        let orders = nodes.read(STREAM, 1);
        assert_eq!(orders.last(), Some(&(1, Order::Hold { stream: STREAM })));
        let released = nodes.hold(STREAM, false);
        assert_eq!(released.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 1]);
    }
}
