//! Pipes between the adapter and its program.

use dflow_function::Error;
use rustix::io::{Errno, FdFlags};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;

/// The size of a pipe in bytes, if the kernel allows it; also the maximum size of one read or write.
pub(crate) const PIPE_BYTES: usize = 1 << 20;

/// A program with more paths than this gets pipes of the kernel's default size: the kernel limits the total size of
/// larger pipes for each user, over all programs.
const MAX_LARGE_PATHS: usize = 16;

/// The program finds its paths' descriptors from this number on: above those that shell scripts like to open.
const FIRST_INHERITED: i32 = 64;

/// Which pipes are made large.
#[derive(Clone, Copy)]
pub(crate) struct PipeSize {
    large: bool,
}

impl PipeSize {
    /// For the standard input and output.
    pub(crate) const STANDARD: Self = Self { large: true };

    /// For a program that has this many paths.
    pub(crate) fn of_paths(count: usize) -> Self {
        Self { large: count <= MAX_LARGE_PATHS }
    }
}

/// The two ends of a new pipe, closed on exec.
pub(crate) struct Pipe {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
}

impl Pipe {
    pub(crate) fn new(size: PipeSize) -> Result<Self, Error> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(no_descriptor)?;
        if size.large {
            // Beyond the user's limit, a pipe of the default size does the same with more context switches.
            let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
        }
        Ok(Self { reader, writer })
    }
}

/// A descriptor that the program inherits under its present number.
///
/// Every process that is started while it exists inherits it: the adapter starts one, and only one. (To keep it from
/// others, code would have to run between fork and exec, and starting the program would take longer for it.)
pub(crate) struct Inherited(OwnedFd);

impl Inherited {
    /// Gives a descriptor its number.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, Error> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&fd, FIRST_INHERITED).map_err(no_descriptor)?;
        rustix::io::fcntl_setfd(&fd, FdFlags::empty()).map_err(no_descriptor)?;
        Ok(Self(fd))
    }

    /// The path under which the program opens it.
    pub(crate) fn path(&self) -> String {
        static FOLDER: LazyLock<&str> =
            LazyLock::new(|| if Path::new("/dev/fd").exists() { "/dev/fd" } else { "/proc/self/fd" });
        format!("{}/{}", *FOLDER, self.0.as_raw_fd())
    }
}

fn no_descriptor(errno: Errno) -> Error {
    let advice = match errno {
        // F_DUPFD reports this if the limit is below the requested number.
        Errno::MFILE | Errno::INVAL => {
            "; raise the limit of open files ('ulimit -n'), or let the program take a list of streams one after the other \
             as its standard input"
        }
        Errno::NFILE => "; the machine has no descriptors left: see /proc/sys/fs/file-nr",
        _ => "",
    };
    Error::new(format!("cannot make the pipes of the program: {errno}{advice}"))
}
