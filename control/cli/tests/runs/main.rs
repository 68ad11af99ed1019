//! Whole runs through the real `dflow`: the shapes that a workflow can have, and everything that can go wrong.

mod deterministic;
mod faults;
mod limits;
mod shapes;
mod support;
