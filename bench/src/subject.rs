//! The subjects of a comparison (limits, peers, ours), and their common interface.

use std::any::Any;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Trying};
use crate::memory::{Mapping, Segment};
use crate::payload::Seen;

/// The role of a subject in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Minimal code that shows what the machine can do; nothing can be much faster.
    Limit,
    /// Another system.
    Peer,
    /// dflow.
    Ours,
}

/// How a reader waits. Only readers that wait the same way are comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Waiting {
    /// It polls without a pause.
    Spinning,
    /// It releases its core and is woken.
    Sleeping,
}

/// The description of a subject.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Its name in tables, on the command line (`--only`) and in file names: lower case with hyphens.
    pub name: &'static str,
    /// A description for readers of the report.
    pub about: &'static str,
    /// Its role.
    pub role: Role,
    /// How its readers wait.
    pub waiting: Waiting,
}

/// A subject of a measurement, in any topic.
pub trait Subject: Sync {
    /// Its description.
    fn card(&self) -> Card;

    /// Why it cannot be measured on this machine, if it cannot.
    fn missing(&self) -> Option<String> {
        None
    }

    /// Starts a server that the measured processes need. It runs until the value is dropped.
    fn service(&self, place: &Place) -> Result<Option<Box<dyn Any>>, Failure> {
        let _ = place;
        Ok(None)
    }
}

/// One process's end of a subject, driven by the measuring loops.
pub trait End {
    /// Writes a payload that begins with `first`, and makes it available to the other side or sides.
    fn send(&mut self, first: u64) -> Result<(), Failure>;

    /// Waits for the next payload and reads all of it.
    fn receive(&mut self) -> Result<Seen, Failure>;

    /// Does work that is due between two exchanges and does not belong to either.
    fn between(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Waits until the readers have received everything, for ends that may hold back data.
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

/// The common resources of the processes of a measurement: a directory for sockets, and shared memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    dir: PathBuf,
    memory: PathBuf,
}

impl Place {
    /// A path for a socket or file of this measurement.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Maps the measurement's shared memory.
    pub fn map(&self) -> Result<Mapping, Failure> {
        Mapping::open(&self.memory)
    }

    /// A name unique to this measurement, for systems with a global name space.
    #[cfg(feature = "peers")]
    pub fn name(&self) -> String {
        self.dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

/// The owner of a [`Place`], which is removed when this value is dropped.
pub struct PlaceKeeper {
    place: Place,
    // Removed on drop.
    _dir: tempfile::TempDir,
    _segment: Segment,
}

impl PlaceKeeper {
    /// Creates a place with `memory` bytes of shared memory, all of it faulted in.
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
