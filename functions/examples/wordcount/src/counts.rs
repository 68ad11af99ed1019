//! How often each word occurs: a hash table whose keys are numbers for all but long words.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;

/// How many letters of a word are in its key; the others are looked at only if these are equal.
const KEY_LETTERS: usize = 8;

/// The hash has no secret seed: a crafted text would only slow down its own count.
const HASH: FixedState = FixedState::with_seed(0);

/// How often each word occurs. Words are in lower case.
#[derive(Debug, Default)]
pub struct Counts {
    table: HashTable<Entry>,
    /// The letters of long words that are not in their keys, one word after the other.
    long: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    /// The first eight letters, the first one in the highest byte, zeros behind a shorter word: numbers that are
    /// ordered as the words are.
    key: u64,
    /// Where the rest is in [`Counts::long`].
    start: usize,
    length: usize,
    count: u64,
}

impl Entry {
    fn rest<'a>(&self, long: &'a [u8]) -> &'a [u8] {
        &long[self.start..self.start + self.length]
    }
}

/// A word and how often it occurs. They are ordered by their words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WordCount<'a> {
    key: u64,
    rest: &'a [u8],
    count: u64,
}

impl Counts {
    /// Adds `count` occurrences of a word in lower case.
    pub fn add(&mut self, word: &[u8], count: u64) {
        let (head, rest) = word.split_at(word.len().min(KEY_LETTERS));
        let mut key = [0; KEY_LETTERS];
        key[..head.len()].copy_from_slice(head);
        self.add_key(u64::from_be_bytes(key), rest, count);
    }

    /// As [`Counts::add`], for a word whose first letters are a key already.
    #[inline]
    pub(crate) fn add_key(&mut self, key: u64, rest: &[u8], count: u64) {
        let Self { table, long } = self;
        let same = |entry: &Entry| {
            entry.key == key && entry.length == rest.len() && (rest.is_empty() || entry.rest(long) == rest)
        };
        let hash_of = |entry: &Entry| hash(entry.key, entry.rest(long));
        let at = hash(key, rest);
        if let Some(entry) = table.find_mut(at, same) {
            entry.count = entry.count.saturating_add(count);
        } else {
            table.insert_unique(at, Entry { key, start: long.len(), length: rest.len(), count }, hash_of);
            long.extend_from_slice(rest);
        }
    }

    /// All words with their counts, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = WordCount<'_>> {
        self.table.iter().map(|entry| WordCount { key: entry.key, rest: entry.rest(&self.long), count: entry.count })
    }

    /// All words with their counts, in the order of the words.
    #[must_use]
    pub fn sorted(&self) -> Vec<WordCount<'_>> {
        let mut words: Vec<WordCount> = self.iter().collect();
        words.sort_unstable();
        words
    }
}

#[inline]
fn hash(key: u64, rest: &[u8]) -> u64 {
    let mut hasher = HASH.build_hasher();
    hasher.write_u64(key);
    if !rest.is_empty() {
        hasher.write(rest);
    }
    hasher.finish()
}

impl WordCount<'_> {
    /// How often the word occurs.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The length of the word in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.head_length() + self.rest.len()
    }

    /// Writes the letters of the word.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write_word(&self, to: &mut impl Write) -> std::io::Result<()> {
        to.write_all(&self.key.to_be_bytes()[..self.head_length()])?;
        to.write_all(self.rest)
    }

    fn head_length(&self) -> usize {
        KEY_LETTERS - self.key.trailing_zeros() as usize / 8
    }
}

#[cfg(test)]
impl WordCount<'_> {
    pub(crate) fn to_vec(self) -> Vec<u8> {
        let mut word = Vec::new();
        self.write_word(&mut word).unwrap();
        word
    }
}
