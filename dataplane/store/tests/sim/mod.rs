//! The store in a simulation: virtual time, a virtual machine, and functions that are state machines.

#![allow(dead_code, reason = "no file of tests uses all of it")]

pub mod machine;
