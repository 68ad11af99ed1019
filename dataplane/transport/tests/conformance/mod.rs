//! One suite for all paths: the guarantees of a stream between two nodes, whatever carries it.

pub mod hostile;
pub mod node;
pub mod pattern;
pub mod suite;
pub mod world;
