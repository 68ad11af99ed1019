//! A file in memory for each stream: the kernel's cost for the same number of small named objects.

use std::fs::File;
use std::hint::spin_loop;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::failure::{Failure, Trying};
use crate::fanout::many::{Ends, LENGTH, ManyEnd};
use crate::memory::{Mapping, PAGE};
use crate::payload::{Seen, bytes, bytes_mut, fill, private};
use crate::subject::{Card, Place, Role, Side, Subject, Waiting};

/// The directory for files in memory, on every Linux.
const TMPFS: &str = "/dev/shm";

/// Offset of the counter of written files.
const WRITTEN: usize = 0;

/// Files in memory.
pub struct Files;

impl Subject for Files {
    fn card(&self) -> Card {
        Card {
            name: "tmpfs-files",
            about: "a file in /dev/shm for each: create, write, count; open, read; the reader spins on the count",
            role: Role::Limit,
            waiting: Waiting::Spinning,
        }
    }

    fn missing(&self) -> Option<String> {
        (!Path::new(TMPFS).is_dir()).then(|| format!("there is no {TMPFS}"))
    }
}

impl Ends for Files {
    fn memory(&self, _: usize) -> usize {
        PAGE
    }

    fn join(&self, side: Side, place: &Place, _: usize) -> Result<Box<dyn ManyEnd>, Failure> {
        // A name common to both sides and unique to this measurement.
        let name = place.path("").file_name().map_or_else(Default::default, ToOwned::to_owned);
        let dir = Path::new(TMPFS).join(name);
        std::fs::create_dir_all(&dir).trying("create a directory in memory")?;
        Ok(Box::new(End { memory: place.map()?, dir: Dir(dir), side, open: Vec::new() }))
    }
}

/// The directory. Both sides try to remove it, so that the last one succeeds.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        // The other side may have removed it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct End {
    memory: Mapping,
    dir: Dir,
    side: Side,
    open: Vec<File>,
}

impl ManyEnd for End {
    fn move_all(&mut self, streams: usize) -> Result<(), Failure> {
        let written = self.memory.counter(WRITTEN);
        let mut words = private(LENGTH);
        for stream in 0..streams {
            let path = self.dir.0.join(stream.to_string());
            match self.side {
                Side::First => {
                    let mut file = File::create(&path).trying("create a file")?;
                    fill(&mut words, stream as u64);
                    file.write_all(bytes(&words)).trying("write a file")?;
                    self.open.push(file);
                    written.store(stream as u64 + 1, Ordering::Release);
                }
                Side::Second => {
                    while written.load(Ordering::Acquire) <= stream as u64 {
                        spin_loop();
                    }
                    let mut file = File::open(&path).trying("open a file")?;
                    file.read_exact(bytes_mut(&mut words)).trying("read a file")?;
                    Seen::reading(&words).check(LENGTH)?;
                    self.open.push(file);
                }
            }
        }
        Ok(())
    }
}
