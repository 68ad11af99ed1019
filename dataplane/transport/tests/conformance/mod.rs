//! One suite for all paths: what a stream between two nodes must be, whatever carries it.

pub mod hostile;
pub mod node;
pub mod pattern;
pub mod suite;
pub mod world;
