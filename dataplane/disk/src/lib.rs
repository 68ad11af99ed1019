//! Spill files, which hold the bytes of streams that do not fit into a node's memory budget.
//!
//! The store decides *what* spills and *when*; this crate moves the bytes. A [`SpillDir`] makes unnamed [`SpillFile`]s,
//! so that a process that is killed leaves nothing on disk. Bytes go in and out through a [`SpillIo`], which has two
//! implementations: io_uring, and plain reads and writes for machines and containers that forbid io_uring. [`choose`]
//! picks one and gives the reason. Functions never use this crate: they get a read-only descriptor of a spill file
//! ([`SpillFile::reader`]) and map it or read it.
//!
//! All calls block the calling thread until the bytes have moved; the store makes them from threads of its own. The
//! `unsafe` of the ring is in this crate.

mod blocks;
mod dir;
mod error;
mod file;
mod io;
mod plain;
mod ring;

pub use dflow_shm::SharedBytes;
pub use dir::SpillDir;
pub use error::DiskError;
pub use file::SpillFile;
pub use io::{IoChoice, SpillIo, UnknownIoChoice, choose};
