//! Finds the file of a function's program: on the node that runs it, from the directory in which it will run.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use dflow_workflow::{ArgPiece, Function, Program};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The search path if `PATH` is unset or empty.
const DEFAULT_PATH: &str = "/usr/bin:/bin";

/// A program that a node is to find.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Archive, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// A name, or a path with a slash.
    pub(crate) name: String,
    /// It links the SDK, so it may be beside the workflow file or beside dflow.
    pub(crate) links_sdk: bool,
    /// The directory in which it runs, absolute.
    dir: Vec<u8>,
    /// The directory of the workflow file, absolute.
    workflow_dir: Vec<u8>,
    /// `PATH`, if the workflow file sets it; otherwise that of the node is used.
    path: Option<String>,
}

/// Why a program cannot run on a node.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The directory in which it would run cannot be used.
    #[error(
        "its working directory {} cannot be used: {source}; copy the directory to this node under the same path, or name an \
         existing one with 'dir: /PATH' in the workflow file",
        dir.display()
    )]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The command names no program.
    #[error("its command begins with an empty text instead of a program")]
    Unnamed,
    /// It was not found.
    #[error("there is no program '{name}' in {}; install it, or give a path with a '/'", list(searched))]
    Missing {
        /// Its name.
        name: String,
        /// The directories that were searched.
        searched: Vec<PathBuf>,
    },
    /// Its file cannot be examined.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is a directory or a device.
    #[error("{} is not a regular file", file.display())]
    NotRegular {
        /// The file.
        file: PathBuf,
    },
    /// It is not executable.
    #[error("{} is not executable; 'chmod +x {}' makes it so", file.display(), file.display())]
    NotExecutable {
        /// The file.
        file: PathBuf,
    },
}

impl Wanted {
    /// The program of a function of a workflow whose file is in `workflow_dir` (absolute), with these parameters of the
    /// run.
    pub(crate) fn of(
        function: &Function,
        file_env: &BTreeMap<String, dflow_workflow::Template>,
        workflow_dir: &Path,
        params: &BTreeMap<String, String>,
    ) -> Self {
        let (name, links_sdk) = match &function.program {
            Program::Sdk(name) => (name.clone(), true),
            Program::Command(arguments) => {
                let value = |name: &str| function.params.get(name).map(|value| value.fill(params)).unwrap_or_default();
                let piece = |piece: &ArgPiece| match piece {
                    ArgPiece::Text(text) => text.clone(),
                    ArgPiece::Param(name) => value(name),
                    // The check of the file refuses ports in the first argument.
                    ArgPiece::Input(_) | ArgPiece::Output(_) => String::new(),
                };
                (arguments.first().map(|pieces| pieces.iter().map(piece).collect()).unwrap_or_default(), false)
            }
        };
        let dir = match &function.dir {
            Some(dir) => workflow_dir.join(dir.fill(params)),
            None => workflow_dir.to_owned(),
        };
        Self {
            name,
            links_sdk,
            dir: dir.into_os_string().into_vec(),
            workflow_dir: workflow_dir.as_os_str().as_bytes().to_vec(),
            path: function.env.get("PATH").or(file_env.get("PATH")).map(|path| path.fill(params)),
        }
    }

    /// For tests of messages.
    #[cfg(test)]
    pub(crate) fn from_parts(name: String, links_sdk: bool, dir: Vec<u8>) -> Self {
        Self { name, links_sdk, workflow_dir: dir.clone(), dir, path: None }
    }

    /// The directory in which it runs.
    pub(crate) fn dir(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.dir))
    }

    /// Finds the program on this node.
    ///
    /// # Errors
    /// If the directory does not exist, or no executable file has this name.
    pub(crate) fn find(&self) -> Result<PathBuf, ProgramError> {
        let dir = self.dir();
        let directory = |source| ProgramError::Directory { dir: dir.to_owned(), source };
        if !std::fs::metadata(dir).map_err(directory)?.is_dir() {
            return Err(directory(io::ErrorKind::NotADirectory.into()));
        }
        if self.name.is_empty() {
            return Err(ProgramError::Unnamed);
        }
        if self.name.contains('/') {
            let file = dir.join(&self.name);
            return executable(&file).map(|()| file);
        }
        let places = self.places();
        let mut found = None;
        for file in places.iter().map(|place| place.join(&self.name)) {
            match executable(&file) {
                Ok(()) => return Ok(file),
                // An error about a file of this name that cannot be executed helps more than "not found".
                Err(error) if file.exists() => found = Some(error),
                Err(_) => {}
            }
        }
        Err(found.unwrap_or_else(|| ProgramError::Missing { name: self.name.clone(), searched: places }))
    }

    /// The directories in which a program without a slash in its name is searched for. Relative and empty entries of
    /// `PATH` would refer to the current directory: a program there is run only if its path is written out.
    fn places(&self) -> Vec<PathBuf> {
        let mut places = Vec::new();
        if self.links_sdk {
            places.push(Path::new(OsStr::from_bytes(&self.workflow_dir)).to_owned());
            places.extend(std::env::current_exe().ok().and_then(|dflow| Some(dflow.parent()?.to_owned())));
        }
        let path = self.path.clone().map(Into::into).or_else(|| std::env::var_os("PATH"));
        let path = path.filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.into());
        places.extend(std::env::split_paths(&path).filter(|place| place.is_absolute()));
        places
    }
}

fn executable(file: &Path) -> Result<(), ProgramError> {
    let metadata =
        std::fs::metadata(file).map_err(|source| ProgramError::Unreadable { file: file.to_owned(), source })?;
    if !metadata.is_file() {
        return Err(ProgramError::NotRegular { file: file.to_owned() });
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(ProgramError::NotExecutable { file: file.to_owned() });
    }
    Ok(())
}

fn list(places: &[PathBuf]) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn wanted(name: &str, dir: &Path, path: Option<&str>) -> Wanted {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let (dir, workflow_dir) = (bytes(dir), bytes(Path::new("/nowhere")));
        Wanted { name: name.into(), links_sdk: false, dir, workflow_dir, path: path.map(str::to_owned) }
    }

    fn tool(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let file = dir.join(name);
        fs::write(&file, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_bare_name_is_never_found_in_the_current_directory() {
        let dir = tempfile::tempdir().unwrap();
        tool(dir.path(), "tool", 0o755);
        for path in ["", ":", ".", "::.", "relative:"] {
            let error = wanted("tool", dir.path(), Some(path)).find().unwrap_err();
            assert!(matches!(error, ProgramError::Missing { .. }), "{path:?}: {error}");
        }
        let searched = wanted("tool", dir.path(), Some("")).find().unwrap_err().to_string();
        assert_eq!(searched, "there is no program 'tool' in /usr/bin, /bin; install it, or give a path with a '/'");
        assert!(wanted("sh", dir.path(), Some("")).find().is_ok());
    }

    #[test]
    fn a_relative_path_starts_in_the_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        let file = tool(&dir.path().join("bin"), "tool", 0o755);
        assert_eq!(wanted("bin/tool", dir.path(), None).find().unwrap(), file);
        let path = format!("/nowhere:{}", dir.path().join("bin").display());
        assert_eq!(wanted("tool", dir.path(), Some(&path)).find().unwrap(), file);
    }

    #[test]
    fn errors_explain_why_a_file_cannot_be_run() {
        let dir = tempfile::tempdir().unwrap();
        tool(dir.path(), "plain", 0o644);
        let path = dir.path().to_str().unwrap();
        let error = |name: &str, dir: &Path| wanted(name, dir, Some(path)).find().unwrap_err().to_string();
        assert!(error("plain", dir.path()).contains("'chmod +x "), "{}", error("plain", dir.path()));
        assert!(error("./", dir.path()).ends_with("is not a regular file"), "{}", error("./", dir.path()));
        assert!(error("./no", dir.path()).contains("No such file"), "{}", error("./no", dir.path()));
        let gone = error("sh", &dir.path().join("gone"));
        assert!(gone.contains("/gone cannot be used: No such file") && gone.contains("'dir: /PATH'"), "{gone}");
        assert!(error("sh", &dir.path().join("plain")).contains("cannot be used: not a directory"));
        assert!(matches!(wanted("", dir.path(), None).find(), Err(ProgramError::Unnamed)));
    }
}
