//! The output directory: checked before a run, staged during it, published when it has succeeded.
//!
//! | file | holds |
//! | --- | --- |
//! | `manifest` | the description in a result directory: the call, and the files |
//! | `survey` | lists an output directory: files of a result, changed files, foreign files |
//! | `verdict` | decides whether a run may publish there; pure |
//! | `staging` | the hidden directory in which outputs are written, and its owner |
//! | `publish` | moves outputs from there to the output directory: in one step, or file by file |
//! | `machine` | the machine of a run: only there a free lock shows that it has ended |
//! | `recover` | completes, removes or keeps what killed runs have left |
//! | `disk` | the file operations of publishing, which tests can stop at any point |
//! | `stdout` | a single output to standard output |
//!
//! Two rules always hold. A file that dflow did not write, or that was changed afterwards, is never removed;
//! `--overwrite` only permits an output to replace a file of its name. And a finished result is never removed before
//! the result that replaces it is in place.

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

/// The destination of a run's outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// A directory.
    Folder {
        /// Its path; it need not exist.
        path: PathBuf,
        /// Whether outputs may replace the result of another call, and foreign files of their names.
        overwrite: bool,
    },
    /// Standard output, for a workflow with one output, once it is final.
    Stdout,
}

/// Why an output directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The directory holds files that dflow did not write.
    #[error("the output directory {path} holds {}", listed(.files, "file that dflow did not write", "files that dflow did not write"))]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The files, relative to it.
        files: Vec<PathBuf>,
    },
    /// Files of the earlier result were changed after they were published.
    #[error("the output directory {path} holds {}", listed(.files, "output that was changed since it was published", "outputs that were changed since they were published"))]
    Changed {
        /// The directory.
        path: PathBuf,
        /// The files, relative to it.
        files: Vec<PathBuf>,
    },
    /// The directory holds the result of another call.
    #[error("the output directory {path} holds the result of another call: {difference}")]
    OtherCall {
        /// The directory.
        path: PathBuf,
        /// The difference between that call and this one.
        difference: String,
    },
    /// The directory was written by a release of dflow without manifests.
    #[error("the output directory {path} was written by an older dflow, which did not record the files in it")]
    OlderRelease {
        /// The directory.
        path: PathBuf,
    },
    /// There is a directory at the path of an output.
    #[error("the output '{output}' cannot be written: {path} is a directory with other files")]
    FolderInTheWay {
        /// The output of the workflow.
        output: String,
        /// The directory.
        path: PathBuf,
    },
    /// The path is not a directory.
    #[error("the output directory {path} cannot be used: it is not a directory")]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// An output has a reserved name.
    #[error(
        "the output '{output}' has a name that is reserved for dflow's own files; names of outputs must not begin with '.dflow-'"
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
    /// Outputs cannot be moved to the directory.
    #[error("the output directory {path} cannot be used: {source}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// The operation that failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A system call failed.
    #[error("the output directory {path} cannot be used: cannot {what}: {source}")]
    System {
        /// The directory.
        path: PathBuf,
        /// The operation.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl OutputError {
    /// What to do about it.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => {
                "name another directory with --output, or move these files away; with --overwrite, outputs replace files of \
                 their names, and all others are kept"
            }
            Self::Changed { .. } => {
                "name another directory with --output, or move these files away; --overwrite also replaces those that are \
                 outputs of this run"
            }
            Self::OtherCall { .. } => "name another directory with --output; --overwrite replaces the earlier result",
            Self::OlderRelease { .. } => "name another directory with --output, or remove this one",
            Self::FolderInTheWay { .. } | Self::NotAFolder { .. } => {
                "name another directory with --output, or move this away"
            }
            Self::ReservedName { .. } => "rename the output in the workflow file",
            Self::NotOneOutput { .. } => "name a directory with --output",
            Self::Unusable { .. } => "name another directory with --output, or make this one writable",
            Self::System { .. } => "name another directory with --output",
        }
    }

    fn system<'a>(path: &'a Path, what: impl Into<String> + 'a) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::System { path: path.to_owned(), what: what.into(), source }
    }
}

/// The path of a directory that does not exist yet, with links resolved, as [`std::fs::canonicalize`] will return it
/// later: runs recognize staging directories by it.
fn resolve_absent(shown: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(shown)?;
    let resolved = absolute.ancestors().find_map(|above| {
        let rest = absolute.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    });
    Ok(resolved.unwrap_or(absolute))
}

/// Maximum number of files that an error names.
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

/// The name and shape of an output of the workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) name: String,
    /// Whether it is a directory of parts.
    pub(crate) many: bool,
}

/// The output directory of one call.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Absolute, with links resolved.
    path: PathBuf,
    /// As given on the command line.
    shown: PathBuf,
    overwrite: bool,
    call: Call,
    planned: Vec<Planned>,
}

impl Target {
    /// # Errors
    /// If the path cannot be an output directory.
    pub(crate) fn new(shown: &Path, overwrite: bool, call: Call, planned: Vec<Planned>) -> Result<Self, OutputError> {
        if let Some(output) = planned.iter().find(|output| is_own_name(output.name.as_ref())) {
            return Err(OutputError::ReservedName { output: output.name.clone() });
        }
        // A link to a directory stays a link: its target is the output directory.
        let path = match std::fs::canonicalize(shown) {
            Ok(path) => path,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && shown.symlink_metadata().is_err() => {
                resolve_absent(shown).map_err(OutputError::system(shown, "find the current directory"))?
            }
            Err(error) => return Err(OutputError::system(shown, "follow its path")(error)),
        };
        if path.exists() && !path.is_dir() {
            return Err(OutputError::NotAFolder { path: shown.to_owned() });
        }
        Ok(Self { path, shown: shown.to_owned(), overwrite, call, planned })
    }

    /// Completes or removes what killed runs have left there, and checks that this call may publish there. Returns
    /// notes for the user about the killed runs.
    ///
    /// # Errors
    /// If files would be lost, or the directory cannot be read.
    pub(crate) fn check(&self) -> Result<Vec<String>, OutputError> {
        let notes = recover::recover(&self.path);
        self.verify()?;
        Ok(notes)
    }

    /// Checks without changing anything that this call may publish there.
    ///
    /// # Errors
    /// If files would be lost, or the directory cannot be read.
    pub(crate) fn verify(&self) -> Result<(), OutputError> {
        self.survey().and_then(|survey| self.judge(&survey))?;
        self.check_parent()
    }

    /// The directory, absolute.
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

    /// Creates nothing: checks that the nearest existing directory is writable.
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
