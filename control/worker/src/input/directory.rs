//! Finds the files of a directory that are data.

use crate::output::is_own_name;
use std::io;
use std::path::{Path, PathBuf};

/// The contents of a directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Its regular files, and links to regular files, in the byte order of their names.
    pub(super) files: Vec<PathBuf>,
    /// Entries that are not read, each with the reason.
    pub(super) left_out: Vec<(String, &'static str)>,
    /// The first dangling link, and its target.
    pub(super) broken: Option<(PathBuf, PathBuf)>,
}

/// Lists a directory without its subdirectories.
///
/// # Errors
/// If the directory cannot be listed.
pub(super) fn list(folder: &Path) -> io::Result<Listing> {
    let mut entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut listing = Listing::default();
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        // The manifest of a result is in every output directory, and is not data.
        if is_own_name(&name) {
            continue;
        }
        let reason = if name.as_encoded_bytes().starts_with(b".") {
            "hidden"
        } else {
            match path.metadata() {
                Ok(metadata) if metadata.is_file() => {
                    listing.files.push(path);
                    continue;
                }
                Ok(metadata) if metadata.is_dir() => "a directory",
                Ok(_) => "not a regular file",
                Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
                    let to = path.read_link().unwrap_or_default();
                    listing.broken.get_or_insert((path, to));
                    continue;
                }
                Err(error) => return Err(error),
            }
        };
        listing.left_out.push((name.to_string_lossy().into_owned(), reason));
    }
    Ok(listing)
}

impl Listing {
    /// `.x (hidden), sub (a directory) and 3 more`; empty if nothing is left out.
    pub(super) fn describe_left_out(&self) -> String {
        /// Maximum number of entries that are named.
        const MAX_NAMED: usize = 5;
        let named: Vec<String> =
            self.left_out.iter().take(MAX_NAMED).map(|(name, reason)| format!("{name} ({reason})")).collect();
        let more = self.left_out.len().saturating_sub(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        named.join(", ") + &more
    }
}
