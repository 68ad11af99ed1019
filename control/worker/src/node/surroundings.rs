//! The environment variables of the functions of a run, the same on every node.
//!
//! The variables of a function, in order of precedence:
//!
//! | variables | from |
//! | --- | --- |
//! | `PWD` | the function's working directory |
//! | `env:` of the function | the workflow file |
//! | `env:` of the file | the workflow file |
//! | [`OF_NODE`] | the node that runs the function |
//! | all others | the environment of `dflow run` |
//!
//! `OLDPWD` and variables that begin with `DFLOW_` are not passed on. An empty `TMPDIR` counts as unset.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The most bytes that the environment of a call may have, names and values together, where it goes to other nodes. The
/// kernel gives a program 128 KiB for one variable and, by default, 2 MiB for all with its arguments.
pub(crate) const MAX_ENVIRONMENT_BYTES: usize = 128 * 1024;

/// Variables that describe a node or the session of a user on it. A name that ends with `*` stands for all names with
/// that prefix.
const OF_NODE: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "MAIL",
    "TMPDIR",
    "HOSTNAME",
    "HOST",
    "PWD",
    "XDG_RUNTIME_DIR",
    "XDG_SESSION_*",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSH_*",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "NOTIFY_SOCKET",
    "LISTEN_*",
    "SYSTEMD_*",
];

/// The environment of `dflow run`, sent once to every node of the run.
#[derive(Clone, Debug, Default, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    env: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Surroundings {
    /// The variables of this process, with `env:` of the workflow file.
    pub(crate) fn of_call(file: &BTreeMap<String, String>) -> Self {
        let own = std::env::vars_os().filter(|(name, _)| is_passed_on(name) && !is_of_node(name));
        let mut all: BTreeMap<OsString, OsString> = own.collect();
        all.extend(file.iter().map(|(name, value)| (name.into(), value.into())));
        Self { env: all.into_iter().map(|(name, value)| (name.into_vec(), value.into_vec())).collect() }
    }

    /// For tests of messages.
    #[cfg(test)]
    pub(crate) fn from_pairs(env: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        Self { env }
    }

    /// The bytes of all names and values.
    pub(crate) fn size(&self) -> usize {
        self.env.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The environment of functions on this node without an `env:`.
    pub(crate) fn here(&self) -> BTreeMap<OsString, OsString> {
        let own = std::env::vars_os().filter(|(name, _)| is_passed_on(name) && is_of_node(name));
        let call =
            self.env.iter().map(|(name, value)| (OsString::from_vec(name.clone()), OsString::from_vec(value.clone())));
        own.chain(call).collect()
    }
}

/// The environment of an attempt: `here` with the function's `env:` and its working directory.
pub(crate) fn of_attempt(
    here: &BTreeMap<OsString, OsString>,
    own: &[(String, String)],
    dir: &Path,
) -> BTreeMap<OsString, OsString> {
    let mut env = here.clone();
    env.extend(own.iter().map(|(name, value)| (name.into(), value.into())));
    if env.get(OsStr::new("TMPDIR")).is_some_and(|value| value.is_empty()) {
        env.remove(OsStr::new("TMPDIR"));
    }
    env.insert("PWD".into(), dir.into());
    env
}

fn is_passed_on(name: &OsStr) -> bool {
    !name.is_empty() && name != "OLDPWD" && !name.as_bytes().starts_with(b"DFLOW_")
}

fn is_of_node(name: &OsStr) -> bool {
    let name = name.as_bytes();
    OF_NODE.iter().any(|variable| match variable.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning.as_bytes()),
        None => name == variable.as_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_node_stay_there() {
        for name in ["PATH", "HOME", "SSH_AUTH_SOCK", "XDG_SESSION_ID", "TMPDIR"] {
            assert!(is_of_node(OsStr::new(name)), "{name}");
        }
        for name in ["LANG", "PATHS", "OMP_NUM_THREADS", "XDG_DATA_HOME", "CUDA_VISIBLE_DEVICES", "TERM"] {
            assert!(!is_of_node(OsStr::new(name)) && is_passed_on(OsStr::new(name)), "{name}");
        }
        assert!(!is_passed_on(OsStr::new("DFLOW_LOG")) && !is_passed_on(OsStr::new("OLDPWD")));
    }

    #[test]
    fn the_file_and_the_function_come_last() {
        let file = BTreeMap::from([("LANG".to_owned(), "file".to_owned()), ("PATH".to_owned(), "/file".to_owned())]);
        let here = Surroundings::of_call(&file).here();
        let own = [("LANG".to_owned(), "function".to_owned()), ("TMPDIR".to_owned(), String::new())];
        let env = of_attempt(&here, &own, Path::new("/srv"));
        let value = |name: &str| env.get(OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!([value("LANG"), value("PATH"), value("PWD")], [Some("function"), Some("/file"), Some("/srv")]);
        assert_eq!([value("TMPDIR"), value("OLDPWD")], [None, None]);
    }
}
