//! Ports that are looked at, and those that are not because nothing can have happened to them.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A map has at most about so many places for each that is used.
const SPARSE: usize = 8;

/// Values by their key, each either awake or asleep. Going through those that are awake does not touch the others.
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
    /// A new one is awake.
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

    pub(super) fn len(&self) -> usize {
        self.awake.len() + self.asleep.len()
    }

    /// Wakes it, if it is asleep: `woken` is called then.
    pub(super) fn wake(&mut self, key: &K, woken: impl FnOnce(&mut V)) -> Option<&mut V> {
        if let Some(mut value) = self.asleep.remove(key) {
            woken(&mut value);
            self.awake.insert(*key, value);
        }
        self.awake.get_mut(key)
    }

    /// Lets those fall asleep for which this holds.
    pub(super) fn lull(&mut self, mut sleeps: impl FnMut(&K, &mut V) -> bool) {
        self.asleep.extend(self.awake.extract_if(|key, value| sleeps(key, value)));
        // Going through a map takes as long as it was ever large.
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

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.awake.iter_mut().chain(&mut self.asleep)
    }
}
