//! What is compared: limits, peers, ours; and what they all have in common.

use std::any::Any;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Trying};
use crate::memory::{Mapping, Segment};
use crate::payload::Seen;

/// Why a subject is in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What the machine gives to the barest code; nothing can be much faster.
    Limit,
    /// Another system.
    Peer,
    /// dflow.
    Ours,
}

/// How a reader waits, which decides what it can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Waiting {
    /// It looks again and again.
    Spinning,
    /// It gives its core away and is woken.
    Sleeping,
}

/// What is said of a subject.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Its name in tables, on the command line (`--only`) and in file names: lower case with hyphens.
    pub name: &'static str,
    /// What it does, for a reader of the report.
    pub about: &'static str,
    /// Why it is there.
    pub role: Role,
    /// How its readers wait.
    pub waiting: Waiting,
}

/// One thing that is measured, in any topic.
pub trait Subject: Sync {
    /// What is said of it.
    fn card(&self) -> Card;

    /// Why it cannot be measured on this machine, if so.
    fn missing(&self) -> Option<String> {
        None
    }

    /// Starts what must run beside the measured processes; it runs until the value is dropped.
    fn service(&self, place: &Place) -> Result<Option<Box<dyn Any>>, Failure> {
        let _ = place;
        Ok(None)
    }
}

/// One process's end of a subject: what the measuring loops drive.
pub trait End {
    /// Writes a payload that begins with `first` and lets the other side, or sides, have it.
    fn send(&mut self, first: u64) -> Result<(), Failure>;

    /// Waits for the next payload and reads all of it.
    fn receive(&mut self) -> Result<Seen, Failure>;

    /// Does what is due between two exchanges and no part of either.
    fn between(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Waits until the readers have everything that was sent, where an end may hold some of it back.
    fn flush(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Which of two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The one that sends first.
    First,
    /// The other one.
    Second,
}

impl Side {
    /// The one at the other end.
    pub fn other(self) -> Side {
        match self {
            Side::First => Side::Second,
            Side::Second => Side::First,
        }
    }
}

/// What the processes of one measurement have in common: a directory for sockets, and shared memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    dir: PathBuf,
    memory: PathBuf,
}

impl Place {
    /// A path for a socket or file of this measurement alone.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Maps the measurement's shared memory.
    pub fn map(&self) -> Result<Mapping, Failure> {
        Mapping::open(&self.memory)
    }

    /// A name that no other measurement has, for systems with a name space of their own.
    #[cfg(feature = "peers")]
    pub fn name(&self) -> String {
        self.dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

/// Keeps a [`Place`] in being.
pub struct PlaceKeeper {
    place: Place,
    // Held for their drops.
    _dir: tempfile::TempDir,
    _segment: Segment,
}

impl PlaceKeeper {
    /// Makes a place with `memory` bytes of shared memory, all of it faulted in.
    pub fn new(memory: usize) -> Result<PlaceKeeper, Failure> {
        let dir = tempfile::Builder::new().prefix("dflow-bench-").tempdir().trying("make a temporary directory")?;
        let segment = Segment::new(memory)?;
        let place = Place { dir: Path::to_path_buf(dir.path()), memory: segment.path() };
        Ok(PlaceKeeper { place, _dir: dir, _segment: segment })
    }

    /// The place.
    pub fn place(&self) -> &Place {
        &self.place
    }
}
