//! A map whose entries are awake or asleep, so that idle streams cost nothing in each turn of the carrier.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A map with more than about this many slots for each entry is shrunk.
const SPARSE: usize = 8;

/// Values by key, each awake or asleep. Iteration over those that are awake does not touch the others.
#[derive(Debug)]
pub(super) struct Ports<K, V> {
    awake: HashMap<K, V>,
    asleep: HashMap<K, V>,
}

impl<K, V> Default for Ports<K, V> {
    fn default() -> Self {
        Self { awake: HashMap::new(), asleep: HashMap::new() }
    }
}

impl<K: Hash + Eq + Copy, V> Ports<K, V> {
    /// Inserts a value, awake.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.asleep.remove(&key);
        self.awake.insert(key, value).or(before)
    }

    pub(super) fn remove<Q: Hash + Eq>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.awake.remove(key).or_else(|| self.asleep.remove(key))
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.awake.get_mut(key).or_else(|| self.asleep.get_mut(key))
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.awake.get(key).or_else(|| self.asleep.get(key))
    }

    /// Wakes a value. `woken` is called if it was asleep.
    pub(super) fn wake(&mut self, key: &K, woken: impl FnOnce(&mut V)) -> Option<&mut V> {
        if let Some(mut value) = self.asleep.remove(key) {
            woken(&mut value);
            self.awake.insert(*key, value);
        }
        self.awake.get_mut(key)
    }

    /// Puts the awake values to sleep for which `sleeps` holds.
    pub(super) fn put_to_sleep(&mut self, mut sleeps: impl FnMut(&K, &mut V) -> bool) {
        self.asleep.extend(self.awake.extract_if(|key, value| sleeps(key, value)));
        // Iteration over a map takes time in its capacity, which never shrinks by itself.
        if self.awake.capacity() > SPARSE * (self.awake.len() + SPARSE) {
            self.awake.shrink_to_fit();
        }
    }

    pub(super) fn awake(&self) -> impl Iterator<Item = &V> {
        self.awake.values()
    }

    pub(super) fn awake_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.awake.iter_mut()
    }
}
