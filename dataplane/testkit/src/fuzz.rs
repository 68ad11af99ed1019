//! A fuzzer for decoders that produces almost valid messages. Each case is derived from its own seed, which a failure
//! prints; with the environment variable `DFLOW_FUZZ_SEED`, the fuzzer starts with that case. `DFLOW_FUZZ_SECONDS`
//! says how long it runs, instead of 1.5 s.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// How long a fuzzer runs.
const SECONDS: f64 = 1.5;
/// The minimum number of cases, however slow the machine is.
const LEAST: u64 = 1000;
/// A case that takes longer hangs: decoding a message takes microseconds.
const HANGS: Duration = Duration::from_secs(5);

/// A deterministic random number generator (SplitMix64, by Steele, Lea and Flood).
pub struct Random(u64);

impl Random {
    /// The generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number, each as likely as any other.
    #[allow(clippy::should_implement_trait, reason = "it never ends, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A number of any magnitude. Small numbers and the largest are more likely than in a uniform distribution.
    pub fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => self.next(),
            _ => self.next() >> self.below(64),
        }
    }

    /// True or false.
    pub fn flag(&mut self) -> bool {
        self.next() & 1 == 0
    }

    /// Up to this many bytes.
    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    /// A text of up to this many characters, some of which need several bytes or mean something elsewhere.
    pub fn text(&mut self, most: usize) -> String {
        const LETTERS: [char; 6] = ['a', 'Z', '/', '\0', 'ß', '😀'];
        (0..self.below(most + 1)).map(|_| LETTERS[self.below(LETTERS.len())]).collect()
    }

    /// Up to this many values, each made by `make`.
    pub fn list<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    /// A value made by `make`, or none.
    pub fn option<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }
}

/// What a decoder did with the bytes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It made a message of them.
    Accepted,
    /// It reported an error.
    Refused,
}

/// Passes messages from `sound` to `check`, truncated, extended, spliced and damaged. `check` panics if its decoder
/// misbehaves.
///
/// # Panics
/// If `check` does, if a case takes too long, or if nearly all cases are accepted or nearly all refused.
pub fn fuzz(sound: impl Fn(&mut Random) -> Vec<u8>, check: impl Fn(&[u8]) -> Verdict) {
    let first = seed();
    let time = std::env::var("DFLOW_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let (start, mut accepted, mut refused) = (Instant::now(), 0, 0);
    for case in 0.. {
        if case >= LEAST && start.elapsed().as_secs_f64() >= time {
            break;
        }
        let seed = first.wrapping_add(case);
        let mut random = Random(seed);
        let bytes = mutated(&sound, &mut random);
        let begun = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| check(&bytes))) {
            Ok(Verdict::Accepted) => accepted += 1,
            Ok(Verdict::Refused) => refused += 1,
            Err(panic) => {
                eprintln!("the bytes {bytes:02x?} do it; again with DFLOW_FUZZ_SEED={seed}");
                resume_unwind(panic);
            }
        }
        assert!(begun.elapsed() < HANGS, "{bytes:02x?} took {:?}; DFLOW_FUZZ_SEED={seed}", begun.elapsed());
    }
    // A fuzzer whose cases are nearly all accepted, or nearly all rejected, does not test the boundary between the two.
    assert!(accepted >= LEAST / 20, "only {accepted} cases were accepted; DFLOW_FUZZ_SEED={first}");
    assert!(refused >= LEAST / 20, "only {refused} cases were refused; DFLOW_FUZZ_SEED={first}");
}

fn seed() -> u64 {
    if let Ok(text) = std::env::var("DFLOW_FUZZ_SEED") {
        return text.parse().expect("DFLOW_FUZZ_SEED is a number");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Random(now.map_or(0, |now| now.as_nanos() as u64)).next()
}

/// Usually makes one change to a valid message, sometimes none.
fn mutated(sound: &impl Fn(&mut Random) -> Vec<u8>, random: &mut Random) -> Vec<u8> {
    let mut bytes = sound(random);
    let changes = [0, 1, 1, 1, 2, 5][random.below(6)];
    for _ in 0..changes {
        change(&mut bytes, sound, random);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, sound: &impl Fn(&mut Random) -> Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        *bytes = random.bytes(64);
        return;
    }
    let at = random.below(bytes.len());
    let length = 1 + random.below(bytes.len() - at);
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][random.below(6)],
        2 => put(bytes, at, random),
        3 => bytes.truncate(at),
        4 => bytes.extend(random.bytes(64)),
        5 => drop(bytes.drain(at..at + length)),
        6 => {
            let part = bytes[at..at + length].to_vec();
            let place = random.below(bytes.len());
            bytes.splice(place..place, part);
        }
        7 => bytes[at..at + length].fill(random.next() as u8),
        _ => {
            // Splice: the start of one message, the end of another.
            let other = sound(random);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at.min(other.len())..]);
        }
    }
}

/// Changes an integer inside a message, such as a length or an offset, to a nearby value.
fn put(bytes: &mut [u8], at: usize, random: &mut Random) {
    let near = bytes.len() as i64 + random.below(9) as i64 - 4;
    let value = [near, -near, at as i64, -(at as i64), i64::MAX, i64::MIN, 0, -1][random.below(8)];
    let width = [2, 4, 8][random.below(3)].min(bytes.len());
    let place = (at / width * width).min(bytes.len() - width);
    bytes[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
}
