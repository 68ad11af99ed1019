//! Files that outputs go to. A regular file appears, or takes the place of the one before, when the function has
//! succeeded.

use super::arguments::{Output, Place};
use dflow_ports::local::{Sink, Sinks};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The outputs that the arguments name.
pub(super) struct Files(Vec<Output>);

impl Files {
    pub(super) fn new(outputs: Vec<Output>) -> Self {
        Self(outputs)
    }
}

impl Sinks for Files {
    fn open(&self, output: &str, part: Option<u32>) -> Result<Box<dyn Sink>> {
        let found = self.0.iter().find(|it| it.name == output);
        let place = found.map(|it| &it.place).ok_or_else(|| std::io::Error::other("it was not given a file"))?;
        Ok(match (place, part) {
            (Place::Standard, None) => Box::new(Direct(Box::new(std::io::stdout()))),
            (Place::Standard, Some(_)) => {
                let what = format!("it has parts: give it a directory, --out {output}=DIR");
                return Err(std::io::Error::other(what));
            }
            (Place::Path(path), None) => open(path)?,
            (Place::Path(folder), Some(part)) => {
                std::fs::create_dir_all(folder)?;
                open(&folder.join(format!("{part:05}")))?
            }
        })
    }
}

fn open(path: &Path) -> Result<Box<dyn Sink>> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(std::io::Error::other(format!(
            "'{}' is a directory, and this output is one stream: give it a file",
            path.display()
        ))),
        // A pipe or a device cannot be replaced.
        Ok(found) if !found.is_file() => Ok(Box::new(Direct(Box::new(OpenOptions::new().write(true).open(path)?)))),
        // A link stays, and the file that it leads to is replaced.
        Ok(_) => Ok(Box::new(Staged::create(&std::fs::canonicalize(path)?)?)),
        Err(_) => Ok(Box::new(Staged::create(path)?)),
    }
}

/// Written as the bytes come.
struct Direct(Box<dyn Write + Send>);

impl Write for Direct {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let length = self.0.write(bytes)?;
        // Standard output buffers an unfinished line, but a stream's reader gets every committed byte.
        self.0.flush()?;
        Ok(length)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

impl Sink for Direct {
    fn finish(mut self: Box<Self>, _: bool) -> Result<()> {
        self.0.flush()
    }
}

/// A file without a name, so that nothing is left of it if the process is killed; where the file system has no such
/// files, one with a name that is removed.
struct Staged {
    file: File,
    /// Its name, if it has one already.
    name: Option<PathBuf>,
    target: PathBuf,
}

impl Staged {
    fn create(target: &Path) -> Result<Self> {
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        if let Ok(file) = rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
            return Ok(Self { file: file.into(), name: None, target: target.to_owned() });
        }
        let name = temporary(target);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&name)?;
        Ok(Self { file, name: Some(name), target: target.to_owned() })
    }
}

/// A name beside the target that no other process uses.
fn temporary(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}

impl Sink for Staged {
    fn finish(self: Box<Self>, complete: bool) -> Result<()> {
        if !complete {
            return self.name.map_or(Ok(()), std::fs::remove_file);
        }
        let name = match self.name {
            Some(name) => name,
            None => {
                let name = temporary(&self.target);
                // linkat(2) does not replace a file, so the new file gets a temporary name first.
                let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, unnamed, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
                name
            }
        };
        std::fs::rename(&name, &self.target).inspect_err(|_| {
            // It fails for the reason that is reported; the name should not stay.
            let _ = std::fs::remove_file(&name);
        })
    }
}
