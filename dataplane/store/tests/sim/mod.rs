//! The store in a simulation: virtual time, a virtual machine, and functions that are state machines. Nothing depends
//! on the clock or on threads, so that a seed gives the same history each time.

#![allow(dead_code, reason = "no file of tests uses all of it")]

use dflow_testkit::fuzz::Random;

pub mod function;
pub mod machine;
pub mod world;

/// Random numbers from a seed.
pub struct Dice(Random);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    pub fn roll(&mut self) -> u64 {
        self.0.next()
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}
