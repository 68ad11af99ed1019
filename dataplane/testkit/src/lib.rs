//! What the tests of several crates share. Only tests depend on this crate.
//!
//! | module | holds |
//! | --- | --- |
//! | [`fuzz`] | a fuzzer for decoders of messages |
//! | `node` (feature `node`) | a store with functions in threads, as a node without processes and scheduling |

pub mod fuzz;
#[cfg(feature = "node")]
pub mod node;
