//! Opens the paths of inputs and determines how they are read.

use super::directory::{Listing, list};
use super::live::make_blocking;
use super::{InputError, InputStream, MAX_LIVE_STREAMS, SeenFile};
use dflow_store::InputFile;
use rustix::fs::{Mode, OFlags};
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A file that is read to its end.
#[derive(Debug)]
pub(crate) struct LiveFile {
    /// Its name in messages.
    pub(crate) path: PathBuf,
    /// `None` if it is opened only when it is read, because there are more inputs than descriptors.
    pub(crate) fd: Option<OwnedFd>,
    /// Whether it is a named pipe, which may have no writer yet. It is opened non-blocking.
    pub(crate) is_fifo: bool,
}

/// Opens the inputs of a run, each once.
#[derive(Debug)]
pub(crate) struct Opener {
    /// The number of files that may still be opened now.
    descriptors: u64,
    /// Whether this is a dry run, which opens nothing: the writer of a pipe would notice.
    looks_only: bool,
    live: usize,
    /// Notes for the user.
    pub(crate) notes: Vec<String>,
    /// The files that are read up to the size that they have now.
    pub(crate) seen: Vec<SeenFile>,
}

/// The kind of file that a path names.
enum Source {
    File { path: PathBuf, file: InputFile, length: u64 },
    Live(LiveFile),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Live(LiveFile { path, .. }) => path,
        }
    }
}

impl Opener {
    /// `descriptors`: the number of files that may be opened before the run; further ones are opened when they are
    /// needed.
    pub(crate) fn new(descriptors: u64) -> Self {
        Self { descriptors, looks_only: false, live: 0, notes: Vec::new(), seen: Vec::new() }
    }

    /// Finds the inputs without opening them.
    pub(crate) fn looking() -> Self {
        Self { looks_only: true, ..Self::new(0) }
    }

    /// The streams of one input: if its files are parts, one for each file, with the names of the files; otherwise one.
    ///
    /// # Errors
    /// If a path cannot be read.
    pub(crate) fn open(
        &mut self,
        name: &str,
        partitioned: bool,
        paths: &[&PathBuf],
    ) -> Result<(Vec<InputStream>, Vec<PathBuf>), InputError> {
        let mut sources = Vec::new();
        for path in paths {
            let unreadable = |source| InputError::Unreadable { name: name.to_owned(), path: (*path).clone(), source };
            if path.as_os_str() == "-" {
                let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
                    .map_err(|error| unreadable(error.into()))?;
                sources.push(Source::Live(LiveFile { path: "standard input".into(), fd: Some(fd), is_fifo: false }));
            } else if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
                for file in self.list(name, path, partitioned)? {
                    sources.push(self.source(name, &file)?);
                }
            } else {
                sources.push(self.source(name, path)?);
            }
        }
        if sources.is_empty() {
            // It may be meant, or a wrong directory.
            self.notes.push(format!("the input '{name}' has no files, so nothing runs for its parts"));
        }
        let (streams, names): (Vec<InputStream>, Vec<PathBuf>) = if partitioned {
            let part = |source: Source| {
                let name = source.path().to_owned();
                (InputStream::of(vec![source]), name)
            };
            sources.into_iter().map(part).unzip()
        } else {
            (vec![InputStream::of(sources)], Vec::new())
        };
        self.live += streams.iter().filter(|stream| matches!(stream, InputStream::Live(_))).count();
        if self.live > MAX_LIVE_STREAMS {
            return Err(InputError::TooManyLive { name: name.to_owned() });
        }
        Ok((streams, names))
    }

    fn list(&mut self, name: &str, folder: &Path, partitioned: bool) -> Result<Vec<PathBuf>, InputError> {
        let (name, path) = (name.to_owned(), folder.to_owned());
        let listing = match list(folder) {
            Ok(listing) => listing,
            Err(source) => return Err(InputError::Unreadable { name, path, source }),
        };
        if let Some((path, to)) = listing.broken {
            return Err(InputError::BrokenLink { name, path, to });
        }
        let left_out = listing.describe_left_out();
        if listing.files.is_empty() && !partitioned {
            let left_out = if left_out.is_empty() { left_out } else { format!("; left out: {left_out}") };
            return Err(InputError::EmptyFolder { name, path, left_out });
        }
        if !left_out.is_empty() {
            let folder = folder.display();
            self.notes
                .push(format!("the input '{name}' leaves out these entries of the directory {folder}: {left_out}"));
        }
        let Listing { files, .. } = listing;
        Ok(files)
    }

    fn source(&mut self, name: &str, path: &Path) -> Result<Source, InputError> {
        let unreadable =
            |source: io::Error| InputError::Unreadable { name: name.to_owned(), path: path.to_owned(), source };
        let later = self.descriptors == 0;
        // Without blocking: a named pipe may have no writer yet, or a modem no carrier.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let (metadata, fd) = if later {
            rustix::fs::access(path, rustix::fs::Access::READ_OK).map_err(|error| unreadable(error.into()))?;
            (std::fs::metadata(path).map_err(unreadable)?, None)
        } else {
            let fd = match rustix::fs::open(path, flags, Mode::empty()) {
                Err(rustix::io::Errno::NXIO) if is_socket(path) => {
                    return Err(InputError::Socket { name: name.to_owned(), path: path.to_owned() });
                }
                fd => fd.map_err(|error| unreadable(error.into()))?,
            };
            let file = std::fs::File::from(fd);
            (file.metadata().map_err(unreadable)?, Some(OwnedFd::from(file)))
        };
        if later && metadata.file_type().is_fifo() && !self.looks_only {
            // It must be open before its writer starts: otherwise the run would miss the writer.
            let error =
                "there are more inputs than this process may open files; name this one first, or raise 'ulimit -n'";
            return Err(unreadable(io::Error::other(error)));
        }
        self.descriptors = self.descriptors.saturating_sub(1);
        if metadata.is_file() && has_true_size(path, fd.as_ref(), &metadata).map_err(unreadable)? {
            self.seen.push(SeenFile::new(path, &metadata));
            let file = match fd {
                Some(fd) => InputFile::Open(fd),
                None => InputFile::later(path, &metadata),
            };
            return Ok(Source::File { path: path.to_owned(), file, length: metadata.len() });
        }
        let is_fifo = metadata.file_type().is_fifo();
        // An anonymous pipe without a writer is at its end: no process can open it later.
        let is_fifo = is_fifo && fd.as_ref().is_some_and(|fd| filesystem(fd.as_fd()).ok() != Some(PIPEFS));
        if let Some(fd) = &fd
            && !is_fifo
        {
            make_blocking(fd).map_err(unreadable)?;
        }
        Ok(Source::Live(LiveFile { path: path.to_owned(), fd, is_fifo }))
    }
}

impl InputStream {
    /// Files are passed without a copy only if all of them have a reliable size.
    fn of(sources: Vec<Source>) -> Self {
        if sources.iter().any(|source| matches!(source, Source::Live(_))) {
            let live = sources.into_iter().map(|source| match source {
                Source::Live(file) => file,
                Source::File { path, file: InputFile::Open(fd), .. } => LiveFile { path, fd: Some(fd), is_fifo: false },
                Source::File { path, file: InputFile::Later { .. }, .. } => LiveFile { path, fd: None, is_fifo: false },
            });
            return Self::Live(live.collect());
        }
        let files = sources.into_iter().filter_map(|source| match source {
            Source::File { file, length, .. } => Some((file, length)),
            Source::Live(_) => None,
        });
        Self::Files(files.collect())
    }
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The filesystem of anonymous pipes.
const PIPEFS: u64 = 0x5049_5045;

/// Filesystems of kernel data: their files have a size of 0 or of a page, regardless of their contents.
const WITHOUT_SIZES: [u64; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0xf97c_ff8c, // selinuxfs
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
];

/// Local filesystems, whose sizes are reliable.
const WITH_SIZES: [u64; 14] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs
    0x2fc1_2fc1, // ZFS
    0xf2f5_2010, // F2FS
    0xca45_1a4e, // bcachefs
    0x8584_58f6, // ramfs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // EROFS
    0x9660,      // ISO 9660
    0x4d44,      // FAT
    0x2011_bab0, // exFAT
];

fn filesystem(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<u64> {
    // The kernel's constants have 32 bits; the type of the field depends on the architecture.
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff)
}

/// Whether a file has as many bytes as its size. On a filesystem whose sizes may be wrong, such as FUSE and network
/// filesystems, this reads the last byte and the one after it.
fn has_true_size(path: &Path, fd: Option<&OwnedFd>, metadata: &Metadata) -> io::Result<bool> {
    let kind = match fd {
        Some(fd) => filesystem(fd.as_fd())?,
        None => rustix::fs::statfs(path)?.f_type as u64 & 0xffff_ffff,
    };
    if WITHOUT_SIZES.contains(&kind) {
        return Ok(false);
    }
    if WITH_SIZES.contains(&kind) {
        return Ok(true);
    }
    let opened;
    let fd = match fd {
        Some(fd) => fd,
        None => {
            opened = OwnedFd::from(std::fs::File::open(path)?);
            &opened
        }
    };
    let mut byte = [0; 1];
    let length = metadata.len();
    let has_last = length > 0 && rustix::io::pread(fd, &mut byte[..], length - 1)? == 1;
    Ok(has_last && rustix::io::pread(fd, &mut byte[..], length)? == 0)
}
