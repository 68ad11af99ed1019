//! Finds names that are given twice in a list, without copies of them.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Searching so few names is faster than making a table of them, and most lists of a large file have fewer.
pub(crate) const FEW: usize = 16;

/// Which names a list has had so far: names are known by their index among the different ones.
pub(crate) struct Seen {
    count: usize,
    /// The indices by name; none for a list of few.
    table: Option<(HashTable<usize>, RandomState)>,
}

impl Seen {
    /// For a list of at most this many names.
    pub(crate) fn new(most: usize) -> Self {
        let table = (most > FEW).then(|| (HashTable::with_capacity(most), RandomState::default()));
        Self { count: 0, table }
    }

    /// Adds a name. If it is there already, returns its index instead. `name_of` gives the name with an index.
    pub(crate) fn add<'n>(&mut self, name: &str, name_of: impl Fn(usize) -> &'n str) -> Option<usize> {
        let first = match &mut self.table {
            None => (0..self.count).find(|&index| name_of(index) == name),
            Some((table, state)) => {
                let hash = state.hash_one(name);
                let first = table.find(hash, |&index| name_of(index) == name).copied();
                if first.is_none() {
                    table.insert_unique(hash, self.count, |&index| state.hash_one(name_of(index)));
                }
                first
            }
        };
        self.count += usize::from(first.is_none());
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_equal_names_is_found_in_short_and_long_lists() {
        for count in [3, FEW, FEW + 1, 1000] {
            let names: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
            let mut seen = Seen::new(count);
            for name in &names {
                assert_eq!(seen.add(name, |index| &names[index]), None);
            }
            assert_eq!(seen.add("n2", |index| &names[index]), Some(2));
            assert_eq!(seen.add(&names[count - 1], |index| &names[index]), Some(count - 1));
        }
    }
}
