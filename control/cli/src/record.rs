//! The options for the record of a run.

use std::path::{Path, PathBuf};

use dflow_worker::logs::RecordOptions;

use crate::args::RecordArgs;

/// The environment variable that names the directory of records.
pub const VARIABLE: &str = "DFLOW_LOGS";

/// The value that means no record.
const NONE: &str = "none";

/// The record that these arguments ask for.
pub fn options(args: &RecordArgs) -> RecordOptions {
    RecordOptions {
        folder: directory(args.logs.as_deref()),
        attempt_bytes: args.log_size,
        run_bytes: args.run_log_size,
        keep_runs: args.keep_runs,
        keep_bytes: args.keep_size,
    }
}

/// The directory of records; `None` for no records.
pub fn directory(given: Option<&Path>) -> Option<PathBuf> {
    match given {
        Some(given) if given.as_os_str() == NONE => None,
        Some(given) if !given.as_os_str().is_empty() => Some(given.to_owned()),
        _ => RecordOptions::default_folder(),
    }
}

/// The command that prints the log of an instance in the run with this record.
pub fn command(record: &Path, instance: &str) -> String {
    let name = record.file_name().unwrap_or_default().to_string_lossy();
    let here = std::env::var_os(VARIABLE).map(PathBuf::from);
    let found = directory(here.as_deref()).and_then(|directory| std::path::absolute(directory).ok());
    let logs = match record.parent() {
        Some(parent) if found.as_deref() != Some(parent) => format!("--logs {} ", quoted(&parent.to_string_lossy())),
        _ => String::new(),
    };
    format!("dflow logs {logs}{name} {}", quoted(instance))
}

/// A word quoted for a shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte);
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_a_default_or_none() {
        assert_eq!(directory(Some(Path::new("none"))), None);
        assert_eq!(directory(Some(Path::new("./none"))), Some("./none".into()));
        assert_eq!(directory(Some(Path::new(""))), RecordOptions::default_folder());
        assert_eq!(directory(None), RecordOptions::default_folder());
    }

    #[test]
    fn the_command_finds_the_record() {
        let text = command(Path::new("/some where/20260101-000000.000-01234567"), "qc[1]");
        assert_eq!(text, "dflow logs --logs '/some where' 20260101-000000.000-01234567 'qc[1]'");
    }
}
