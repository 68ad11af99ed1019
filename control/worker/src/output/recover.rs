//! Completes, removes or keeps the staging directories of killed runs.
//!
//! A staging directory is removed or completed only if all of this holds: its marker names the very directory that it is in,
//! by path and inode, so that it is neither a copy nor was moved; its run was on this machine and its lock is free, so that
//! its run is dead; and it holds no finished result, or one for the output directory at hand, which is then published.
//! Everything else is left alone, and `dflow doctor` names it.

use super::disk::Disk;
use super::manifest::{Manifest, STAGING_PREFIX};
use super::publish::{Journal, UNPUBLISHED, clean, forward, keep};
use super::resolve_absent;
use super::staging::{Marker, NEW};
use std::path::{Path, PathBuf};

/// Completes what is finished and meant for `target`, and removes what is not finished, for whatever directory beside
/// it. What the user should know.
pub(super) fn recover(target: &Path) -> Vec<String> {
    let disk = Disk::default();
    let beside = target.parent().into_iter().flat_map(staging_folders);
    let folders: Vec<PathBuf> = beside.chain(staging_folders(target)).collect();
    let mut notes = Vec::new();
    for folder in folders {
        let Some(marker) = Marker::of(&folder) else { continue };
        if marker.is_elsewhere() && Path::new(&marker.target) == target {
            notes.push(format!(
                "{} belongs to a run on {}; if that run is dead, remove the directory",
                folder.display(),
                marker.machine.name()
            ));
        }
        let Some(_lock) = marker.claim(&folder) else { continue };
        let result = match Journal::read(&folder) {
            None if has_result(&folder) => {
                // Killed after all outputs were finished, before the journal was written.
                if Path::new(&marker.target) == target {
                    let kept = keep(&disk, &folder, target);
                    notes.push(format!(
                        "the finished result of the killed run {} is in {}",
                        marker.run,
                        kept.display()
                    ));
                }
                Ok(())
            }
            None => {
                tracing::info!(path = %folder.display(), "removing what a killed run has left");
                disk.remove_all(&folder)
            }
            Some(journal) if Path::new(&marker.target) == target => {
                let finished = !journal.is_pending(&folder) || {
                    let done = forward(&disk, &folder, target, &journal);
                    notes.push(match &done {
                        Ok(()) => format!("the result of the killed run {} is now in {}", marker.run, target.display()),
                        Err(error) => format!(
                            "the finished result of the killed run {} cannot be published: {error}; it is in {}",
                            marker.run,
                            keep(&disk, &folder, target).display()
                        ),
                    });
                    done.is_ok()
                };
                if finished { clean(&disk, &folder, target) } else { Ok(()) }
            }
            // A run with its own output directory completes it.
            Some(_) => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "cannot remove what a killed run has left");
        }
    }
    notes
}

fn has_result(staging: &Path) -> bool {
    Manifest::read(&staging.join(NEW)).is_some()
}

/// The staging directories in a directory, without subdirectories.
fn staging_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(STAGING_PREFIX.as_bytes()))
        .map(|entry| entry.path())
        .collect()
}

/// What killed runs have left of `outputs`, which is an output directory or a directory of output directories; a line each, with what
/// to do. A killed run may not have made its output directory yet.
pub(crate) fn leftovers(outputs: &Path) -> Vec<String> {
    let Ok(outputs) = outputs.canonicalize().or_else(|_| resolve_absent(outputs)) else { return Vec::new() };
    let within = folders_in(&outputs);
    let beside = outputs.parent().into_iter().flat_map(staging_folders);
    let beside = beside.filter(|folder| Marker::of(folder).is_some_and(|marker| Path::new(&marker.target) == outputs));
    let mut found: Vec<PathBuf> = beside.chain(staging_folders(&outputs)).collect();
    found.extend(within.iter().flat_map(|folder| staging_folders(folder)));
    found.sort();
    let mut lines: Vec<String> = found.iter().filter_map(|folder| describe(folder)).collect();
    let name = outputs.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kept_beside = outputs.parent().into_iter().flat_map(folders_in);
    let kept_beside = kept_beside.filter(|path| file_name(path).starts_with(&format!("{name}{UNPUBLISHED}")));
    let kept_within = within.iter().filter(|path| file_name(path).contains(UNPUBLISHED)).cloned();
    lines.extend(kept_beside.chain(kept_within).map(|path| {
        format!("{} is a finished result that could not be published; move it to where you want it", path.display())
    }));
    lines
}

/// A staging directory that no living run owns, and what will become of it.
fn describe(folder: &Path) -> Option<String> {
    let shown = folder.display();
    let Some(marker) = Marker::of(folder) else {
        return Some(format!("{shown} was copied or moved, so no run removes it; remove it if you do not need it"));
    };
    if marker.is_elsewhere() {
        let machine = marker.machine.name();
        return Some(format!("{shown} belongs to a run on {machine}; if that run is dead, remove the directory"));
    }
    let _lock = marker.claim(folder)?;
    Some(match Journal::read(folder) {
        Some(_) => format!(
            "{shown} is the finished result of a killed run; the next run with --output {} publishes it",
            Path::new(&marker.target).display()
        ),
        None if has_result(folder) => format!("{shown} is the finished result of a killed run, in the directory new"),
        None => {
            format!("{shown} is what a killed run has left; the next run with an output directory there removes it")
        }
    })
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}
