//! Calls of the binary.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A workflow of programs that exist on every machine.
pub const SORTED: &str = "\
workflow: sorted
inputs: [text]
params: { order: null, prefix: x }
functions:
  sort: { command: [sort, \"{params.order}\"], inputs: [inputs.text], outputs: [lines], params: { order: \"${params.order}\" } }
outputs: { lines: sort.lines }
";

/// An empty directory in which the binary is called.
pub struct Directory(TempDir);

impl Directory {
    /// A directory with these files.
    pub fn with(files: &[(&str, &str)]) -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            std::fs::write(directory.path(name), text).unwrap();
        }
        directory
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Calls `dflow` in it, without environment variables that change its output.
    pub fn call(&self, args: &[&str]) -> Call {
        self.call_with(args, &[])
    }

    /// Calls `dflow` with these environment variables.
    pub fn call_with(&self, args: &[&str], env: &[(&str, &str)]) -> Call {
        Call::from(self.command(args).envs(env.iter().copied()).output().unwrap())
    }

    /// The command of a call.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dflow"));
        for name in ["COLUMNS", "LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR", "DFLOW_LOG"] {
            command.env_remove(name);
        }
        // Tests leave no records in the home directory.
        command.env("DFLOW_LOGS", "none");
        command.current_dir(self.0.path()).stdin(Stdio::null()).args(args);
        command
    }
}

/// The result of a call.
#[derive(Debug)]
pub struct Call {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Call {
    /// Standard output, which must be one JSON document and nothing else.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl From<Output> for Call {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
