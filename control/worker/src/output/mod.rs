//! The output folder: checked before a run, staged while it runs, published when it has succeeded.
//!
//! | file | holds |
//! | --- | --- |
//! | `manifest` | what a result folder says about itself: the call, and its files |
//! | `survey` | what is in an output folder: files of a result, files that were changed, files of others |
//! | `verdict` | whether a run may publish there; pure |
//! | `staging` | the hidden folder in which outputs are written, and who it belongs to |
//! | `publish` | from there to the output folder: in one step, or file by file |
//! | `machine` | which machine a run is on: only there its lock says that it is dead |
//! | `recover` | what killed runs have left: completed, removed, or left alone |
//! | `disk` | the file operations of publishing, which tests can stop at any point |
//! | `stdout` | a single output that goes to standard output |
//!
//! Two rules hold throughout. A file that dflow did not write, or that was changed since, is never removed; `--overwrite`
//! permits only that an output takes the place of a file with its name. And a finished result is never removed before
//! the one that replaces it is in place.

mod disk;
mod machine;
mod manifest;
mod publish;
mod recover;
mod staging;
mod stdout;
mod survey;
#[cfg(test)]
mod tests;
mod verdict;

pub(crate) use manifest::{Call, is_own_name, modified_ns};
pub(crate) use publish::PublishError;
pub(crate) use recover::leftovers;
pub(crate) use staging::Staging;
pub(crate) use stdout::{Delivery, Destination, SinkFile, check_stdout};

use disk::DiskError;
use std::path::{Path, PathBuf};
use survey::Survey;

/// Where the outputs of a run go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// Into a folder.
    Folder {
        /// The folder, which need not exist.
        path: PathBuf,
        /// Whether outputs may replace the result of another call, and files of others that have their names.
        overwrite: bool,
    },
    /// The workflow's only output to standard output, once it is final.
    Stdout,
}

/// Why an output folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The folder holds files that no run of dflow has written there.
    #[error("the output folder {path} holds {}", listed(.files, "file that dflow did not write", "files that dflow did not write"))]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The files, relative to it.
        files: Vec<PathBuf>,
    },
    /// Files of the earlier result were changed after they had been published.
    #[error("the output folder {path} holds {}", listed(.files, "output that was changed since it was published", "outputs that were changed since they were published"))]
    Changed {
        /// The folder.
        path: PathBuf,
        /// The files, relative to it.
        files: Vec<PathBuf>,
    },
    /// The folder holds the result of another call.
    #[error("the output folder {path} holds the result of another call: {difference}")]
    OtherCall {
        /// The folder.
        path: PathBuf,
        /// What differs between that call and this one.
        difference: String,
    },
    /// The folder was written by a release of dflow that kept no list of its files.
    #[error("the output folder {path} was written by an older dflow, which kept no list of the files in it")]
    OlderRelease {
        /// The folder.
        path: PathBuf,
    },
    /// A folder is where an output has to be.
    #[error("the output '{output}' cannot be written: {path} is a folder with other files")]
    FolderInTheWay {
        /// The output of the workflow.
        output: String,
        /// The folder.
        path: PathBuf,
    },
    /// The path is not that of a folder.
    #[error("the output folder {path} cannot be used: it is not a folder")]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// An output has a name that dflow uses for itself.
    #[error(
        "the output '{output}' has a name that dflow uses for files of its own; names of outputs do not begin with '.dflow-'"
    )]
    ReservedName {
        /// The output.
        output: String,
    },
    /// Standard output takes one output.
    #[error("standard output takes exactly one output, and the workflow has {outputs}")]
    NotOneOutput {
        /// The outputs, in words.
        outputs: String,
    },
    /// Outputs cannot be moved there.
    #[error("the output folder {path} cannot be used: {source}")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What does not work.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system refuses what is needed.
    #[error("the output folder {path} cannot be used: cannot {what}: {source}")]
    System {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl OutputError {
    /// What to do about it.
    pub(crate) fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::Foreign { .. } => {
                "name another folder with --output, or move these files away; with --overwrite, outputs replace files that \
                 have their names, and all others stay"
            }
            Self::Changed { .. } => {
                "name another folder with --output, or move these files away; --overwrite replaces those that are outputs \
                 of this run, too"
            }
            Self::OtherCall { .. } => "name another folder with --output; --overwrite replaces the earlier result",
            Self::OlderRelease { .. } => "name another folder with --output, or remove this one",
            Self::FolderInTheWay { .. } | Self::NotAFolder { .. } => {
                "name another folder with --output, or move this away"
            }
            Self::ReservedName { .. } => "rename the output in the workflow file",
            Self::NotOneOutput { .. } => "name a folder with --output",
            Self::Unusable { .. } => {
                "name another folder with --output, or give yourself the right to create files in it"
            }
            Self::System { .. } => return None,
        })
    }

    fn system<'a>(path: &'a Path, what: impl Into<String> + 'a) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::System { path: path.to_owned(), what: what.into(), source }
    }
}

/// The path of a folder that does not exist yet, without links, as [`std::fs::canonicalize`] will give it: runs recognize
/// staging folders by it.
fn resolve_absent(shown: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(shown)?;
    let resolved = absolute.ancestors().find_map(|above| {
        let rest = absolute.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    });
    Ok(resolved.unwrap_or(absolute))
}

/// How many files an error names.
const MAX_NAMED: usize = 5;

/// `3 files: a, b, c`, with a limit.
fn listed(files: &[PathBuf], one: &str, many: &str) -> String {
    let named: Vec<String> = files.iter().take(MAX_NAMED).map(|file| file.display().to_string()).collect();
    let more = match files.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = if files.len() == 1 { one } else { many };
    format!("{} {what}: {}{more}", files.len(), named.join(", "))
}

/// An output of the workflow, as far as its place is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) name: String,
    /// Whether it is a folder of parts.
    pub(crate) many: bool,
}

/// A place for the outputs of one call.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Absolute, and without links if it exists.
    path: PathBuf,
    /// As it was given.
    shown: PathBuf,
    overwrite: bool,
    call: Call,
    planned: Vec<Planned>,
}

impl Target {
    /// # Errors
    /// The path cannot be that of an output folder.
    pub(crate) fn new(shown: &Path, overwrite: bool, call: Call, planned: Vec<Planned>) -> Result<Self, OutputError> {
        if let Some(output) = planned.iter().find(|output| is_own_name(output.name.as_ref())) {
            return Err(OutputError::ReservedName { output: output.name.clone() });
        }
        // A link to a folder stays a link: what it points to is the output folder.
        let path = match std::fs::canonicalize(shown) {
            Ok(path) => path,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && shown.symlink_metadata().is_err() => {
                resolve_absent(shown).map_err(OutputError::system(shown, "find the current folder"))?
            }
            Err(error) => return Err(OutputError::system(shown, "follow its path")(error)),
        };
        if path.exists() && !path.is_dir() {
            return Err(OutputError::NotAFolder { path: shown.to_owned() });
        }
        Ok(Self { path, shown: shown.to_owned(), overwrite, call, planned })
    }

    /// Completes or removes what killed runs have left there, then checks that this call may publish there. What the user
    /// should know of the former.
    ///
    /// # Errors
    /// Files would be lost, or the folder cannot be read.
    pub(crate) fn check(&self) -> Result<Vec<String>, OutputError> {
        let notes = recover::recover(&self.path);
        self.verify()?;
        Ok(notes)
    }

    /// Checks without changing anything that this call may publish there.
    ///
    /// # Errors
    /// Files would be lost, or the folder cannot be read.
    pub(crate) fn verify(&self) -> Result<(), OutputError> {
        self.survey().and_then(|survey| self.judge(&survey))?;
        self.check_parent()
    }

    /// The folder, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn survey(&self) -> Result<Survey, OutputError> {
        Survey::of(&self.path).map_err(OutputError::system(&self.shown, "list what is in it"))
    }

    fn judge(&self, survey: &Survey) -> Result<(), OutputError> {
        verdict::judge(&self.shown, survey, &self.call, &self.planned, self.overwrite)
    }

    fn unusable(&self, error: DiskError) -> OutputError {
        OutputError::Unusable { path: self.shown.clone(), source: Box::new(error) }
    }

    /// Without making anything: the nearest folder that exists must let dflow make another one in it.
    fn check_parent(&self) -> Result<(), OutputError> {
        if self.path.exists() {
            return Ok(());
        }
        let Some(parent) = self.path.ancestors().skip(1).find(|ancestor| ancestor.exists()) else { return Ok(()) };
        if !parent.is_dir() {
            return Err(OutputError::NotAFolder { path: parent.to_owned() });
        }
        rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).map_err(|error| {
            OutputError::system(&self.shown, format!("create anything in {}", parent.display()))(error.into())
        })
    }
}
