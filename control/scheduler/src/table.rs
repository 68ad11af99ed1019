//! The instances and streams of a run, found by their ids.
//!
//! An id must mean the same on every node, but nodes discover parts independently of each other. So an id is a *lane* and
//! a number within it: what a plan contains is in lane 0, and what an instance discovers is in the lane of its place,
//! [`lane_of`]. A machine that decides the whole run uses lane 0 alone, where an id is an index.

use crate::limits::MAX_OF_LANE;
use crate::options::Place;
use dflow_protocol::{InstanceId, StreamId};
use std::marker::PhantomData;

/// The number of bits of an id that count within a lane.
const LANE_SHIFT: u32 = MAX_OF_LANE.trailing_zeros();
/// The lane of what the instances of a place discover.
pub(crate) fn lane_of(place: Place) -> u32 {
    place + 1
}

/// No object has this id here.
const UNKNOWN: u32 = u32::MAX;

/// An id of the protocol.
pub(crate) trait Id: Copy + Eq {
    fn lane(self) -> u32 {
        self.number() >> LANE_SHIFT
    }

    fn from_number(number: u32) -> Self;
    fn number(self) -> u32;
}

impl Id for InstanceId {
    fn from_number(number: u32) -> Self {
        Self(number)
    }

    fn number(self) -> u32 {
        self.0
    }
}

impl Id for StreamId {
    fn from_number(number: u32) -> Self {
        Self(number)
    }

    fn number(self) -> u32 {
        self.0
    }
}

#[derive(Debug)]
pub(crate) struct Table<I, T> {
    items: Vec<T>,
    ids: Vec<I>,
    /// By lane and number, the index of the item. Lane 0 is left out as long as its ids are indices.
    lanes: Vec<Vec<u32>>,
    /// The id of the next item.
    next: (u32, u32),
    of: PhantomData<I>,
}

impl<I: Id, T> Table<I, T> {
    pub(crate) fn new() -> Self {
        Self { items: Vec::new(), ids: Vec::new(), lanes: Vec::new(), next: (0, 0), of: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The id that the next item will have.
    pub(crate) fn next_id(&self) -> I {
        let (lane, number) = self.next;
        I::from_number(lane << LANE_SHIFT | number)
    }

    /// The next items continue this lane.
    pub(crate) fn continue_lane(&mut self, lane: u32) {
        let number = if lane == 0 && self.lanes.is_empty() { self.items.len() } else { self.lane(lane).len() };
        self.next = (lane, number as u32);
    }

    /// The next items have the ids from this one on. False if one that is known already has it.
    pub(crate) fn continue_at(&mut self, id: I) -> bool {
        let (lane, number) = (id.lane(), id.number() % MAX_OF_LANE);
        let known = self.get(id).is_some();
        let entries = self.lane(lane);
        if entries.len() < number as usize {
            entries.resize(number as usize, UNKNOWN);
        }
        self.next = (lane, number);
        !known
    }

    /// Adds an item under [`Table::next_id`]; `None` if the lane is full, or another item has this id.
    pub(crate) fn push(&mut self, item: T) -> Option<I> {
        let (lane, number) = self.next;
        if number >= MAX_OF_LANE {
            return None;
        }
        let (id, index) = (self.next_id(), self.items.len());
        self.next.1 += 1;
        if lane > 0 || !self.lanes.is_empty() {
            let entries = self.lane(lane);
            if entries.len() <= number as usize {
                entries.resize(number as usize + 1, UNKNOWN);
            }
            if entries[number as usize] != UNKNOWN {
                return None;
            }
            entries[number as usize] = index as u32;
        }
        self.items.push(item);
        self.ids.push(id);
        Some(id)
    }

    pub(crate) fn get(&self, id: I) -> Option<&T> {
        self.items.get(self.index(id)?)
    }

    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let index = self.index(id)?;
        self.items.get_mut(index)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = I> + use<I, T> {
        self.ids.clone().into_iter()
    }

    pub(crate) fn id_at(&self, index: usize) -> Option<I> {
        self.ids.get(index).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    fn index(&self, id: I) -> Option<usize> {
        if self.lanes.is_empty() {
            return Some(id.number() as usize);
        }
        let (lane, number) = (id.lane(), id.number() % MAX_OF_LANE);
        let index = *self.lanes.get(lane as usize)?.get(number as usize)?;
        (index != UNKNOWN).then_some(index as usize)
    }

    fn lane(&mut self, lane: u32) -> &mut Vec<u32> {
        if self.lanes.is_empty() {
            self.lanes.push((0..self.items.len() as u32).collect());
        }
        if self.lanes.len() <= lane as usize {
            self.lanes.resize_with(lane as usize + 1, Vec::new);
        }
        &mut self.lanes[lane as usize]
    }
}

impl<I: Id, T> std::ops::Index<I> for Table<I, T> {
    type Output = T;

    /// # Panics
    /// If there is no item with this id. Ids from outside are looked up with [`Table::get`].
    fn index(&self, id: I) -> &T {
        let index = Table::index(self, id).unwrap_or(usize::MAX);
        &self.items[index]
    }
}

impl<I: Id, T> std::ops::IndexMut<I> for Table<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        let index = Table::index(self, id).unwrap_or(usize::MAX);
        &mut self.items[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_lane_are_indices() {
        let mut table: Table<StreamId, char> = Table::new();
        assert_eq!([table.push('a'), table.push('b')], [Some(StreamId(0)), Some(StreamId(1))]);
        assert_eq!(table[StreamId(1)], 'b');
        assert_eq!(table.get(StreamId(2)), None);
        assert!(table.lanes.is_empty());
    }

    #[test]
    fn items_of_other_lanes_are_found_under_the_ids_that_their_node_gave_them() {
        let mut table: Table<StreamId, char> = Table::new();
        table.push('a');
        let theirs = StreamId(3 << LANE_SHIFT | 5);
        assert!(table.continue_at(theirs));
        assert_eq!(table.push('x'), Some(theirs));
        assert_eq!(table.push('y'), Some(StreamId(theirs.0 + 1)));
        assert!(!table.continue_at(theirs), "it is there");
        table.continue_lane(1);
        assert_eq!(table.push('z'), Some(StreamId(1 << LANE_SHIFT)));
        table.continue_lane(0);
        assert_eq!(table.push('b'), Some(StreamId(1)));
        assert_eq!((table[theirs], table[StreamId(0)], table[StreamId(1)]), ('x', 'a', 'b'));
        assert_eq!(table.get(StreamId(3 << LANE_SHIFT | 4)), None, "a hole");
        assert_eq!(table.get(StreamId(u32::MAX)), None);
    }
}
