//! From `--input` and `--param` to what a workflow asks for.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use dflow_workflow::{ParamError, Workflow, WorkflowInput};

use crate::error::CallError;
use crate::units::count;

/// What a call gives to a workflow.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    /// For every input of the workflow its files and directories, in the order of the workflow file.
    pub inputs: Vec<(String, Vec<PathBuf>)>,
    /// For every parameter of the workflow its value.
    pub params: BTreeMap<String, String>,
}

/// Why inputs or parameters do not fit a workflow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Some are missing.
    #[error(
        "workflow `{workflow}` needs {} that the call does not give",
        needs(.inputs.len(), .params.len())
    )]
    Missing {
        /// The workflow.
        workflow: String,
        /// The inputs, each with whether its files are parts of their own.
        inputs: Vec<(String, bool)>,
        /// The parameters.
        params: Vec<String>,
    },
    /// An input is given that the workflow does not have.
    #[error("workflow `{workflow}` has no input `{name}`; {}", known_inputs(.known))]
    Unknown {
        /// The workflow.
        workflow: String,
        /// What was given.
        name: String,
        /// The inputs that there are.
        known: Vec<String>,
    },
    /// A path is given without the name of its input, and there is not just one.
    #[error("`--input {path}` does not say which input of workflow `{workflow}` it is; {}", known_inputs(.known))]
    Unnamed {
        /// The workflow.
        workflow: String,
        /// The path.
        path: String,
        /// The inputs that there are.
        known: Vec<String>,
    },
    /// No workflow file is given, or it was taken for one more file of an input.
    #[error("no workflow file is given")]
    NoWorkflow,
    /// A pattern that no file matches.
    #[error("no file matches the pattern `{0}`")]
    NoMatch(String),
    /// Something that looks like a pattern and is not one.
    #[error("there is no file `{pattern}`, and it is not a pattern: {reason}")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Files that match a pattern cannot be listed.
    #[error("cannot list the files that match `{pattern}`: {reason}")]
    Unlisted {
        /// The pattern.
        pattern: String,
        /// Why not.
        reason: String,
    },
    /// An input is given without a path.
    #[error("`--input {0}` has no path")]
    NoPath(String),
    /// Standard input is given more than once.
    #[error("standard input (`-`) is given more than once; its bytes can be read only once")]
    StdinTwice,
    /// A parameter has no `=`.
    #[error("`--param {0}` has no value")]
    NoValue(String),
}

impl InputError {
    /// What to do about it, a line each.
    pub fn help(&self) -> Vec<String> {
        match self {
            Self::Missing { inputs, params, .. } => {
                let input = |(name, partitioned): &(String, bool)| {
                    let what = if *partitioned {
                        "a file, or a directory; each file is a part of its own; may be repeated"
                    } else {
                        "a file, a directory of files, or - for standard input"
                    };
                    (format!("--input {name}=PATH"), what)
                };
                let param = |name: &String| (format!("--param {name}=VALUE"), "");
                let flags: Vec<(String, &str)> = inputs.iter().map(input).chain(params.iter().map(param)).collect();
                let width = flags.iter().map(|(flag, _)| flag.len()).max().unwrap_or(0);
                flags.iter().map(|(flag, what)| format!("add {flag:width$}  {what}").trim_end().to_owned()).collect()
            }
            Self::Unknown { known, .. } | Self::Unnamed { known, .. } => {
                known.iter().map(|name| format!("write --input {name}=PATH")).collect()
            }
            Self::NoWorkflow => vec!["write it before the inputs, as in: dflow run FILE --input NAME=PATH".into()],
            Self::NoMatch(_) => {
                vec!["correct it, or name a directory; `*` stands for no `/` and no leading dot".into()]
            }
            Self::Pattern { .. } => vec!["correct the path".into()],
            Self::Unlisted { .. } => vec!["name the files, or give yourself the right to list their directory".into()],
            Self::NoPath(_) => vec!["write --input NAME=PATH, with - as PATH for standard input".into()],
            Self::StdinTwice => vec!["write one of them to a file first".into()],
            Self::NoValue(name) => vec![format!("write --param {name}=VALUE")],
        }
    }
}

/// Sorts what a call gives by what the workflow asks for.
///
/// # Errors
/// Something is given that the workflow does not have, or not given that it needs; all that is missing is listed.
pub fn resolve(workflow: &Workflow, inputs: &[OsString], params: &[String]) -> Result<Given, CallError> {
    let mut given: Vec<(String, Vec<PathBuf>)> =
        workflow.inputs.iter().map(|input| (input.name.clone(), Vec::new())).collect();
    for argument in inputs {
        let (index, path) = assign(workflow, argument)?;
        given[index].1.extend(expand(path)?);
    }
    let stdins = given.iter().flat_map(|(_, paths)| paths).filter(|path| path.as_os_str() == "-").count();
    if stdins > 1 {
        return Err(InputError::StdinTwice.into());
    }

    let params = params
        .iter()
        .map(|param| param.split_once('=').ok_or_else(|| InputError::NoValue(param.clone())))
        .map(|pair| pair.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect::<Result<Vec<_>, _>>()?;
    let (params, missing_params) = match workflow.resolve_params(&params) {
        Ok(values) => (values, Vec::new()),
        Err(ParamError::Missing { names, .. }) => (BTreeMap::new(), names),
        Err(error) => return Err(error.into()),
    };

    let partitioned = |input: &WorkflowInput| (input.name.clone(), input.partitioned);
    let missing_inputs: Vec<(String, bool)> = workflow
        .inputs
        .iter()
        .zip(&given)
        .filter(|(_, (_, paths))| paths.is_empty())
        .map(|(input, _)| partitioned(input))
        .collect();
    if missing_inputs.is_empty() && missing_params.is_empty() {
        return Ok(Given { inputs: given, params });
    }
    Err(InputError::Missing { workflow: workflow.name.clone(), inputs: missing_inputs, params: missing_params }.into())
}

/// Whether an argument of `--input` stands for standard input.
pub fn is_stdin(argument: &OsStr) -> bool {
    let bytes = argument.as_bytes();
    bytes == b"-" || bytes.split_at_checked(bytes.len().saturating_sub(2)).is_some_and(|(_, end)| end == b"=-")
}

/// Which input an argument of `--input` is for, and its path.
fn assign(workflow: &Workflow, argument: &OsStr) -> Result<(usize, PathBuf), InputError> {
    let bytes = argument.as_bytes();
    let shown = || argument.to_string_lossy().into_owned();
    let known = || workflow.inputs.iter().map(|input| input.name.clone()).collect();
    let named = bytes.iter().position(|&byte| byte == b'=').map(|at| (&bytes[..at], &bytes[at + 1..]));
    let (index, path) = match named {
        // What cannot be a name is the beginning of a path.
        Some((name, path)) if could_be_name(name) => {
            let index = workflow.inputs.iter().position(|input| input.name.as_bytes() == name);
            let name = String::from_utf8_lossy(name).into_owned();
            (index.ok_or(InputError::Unknown { workflow: workflow.name.clone(), name, known: known() })?, path)
        }
        _ if workflow.inputs.len() == 1 => (0, bytes),
        _ => return Err(InputError::Unnamed { workflow: workflow.name.clone(), path: shown(), known: known() }),
    };
    if path.is_empty() {
        return Err(InputError::NoPath(shown()));
    }
    Ok((index, PathBuf::from(OsStr::from_bytes(path))))
}

/// The files that a path stands for: itself, or, if there is no such file and it is a pattern, all that match it. A shell
/// expands neither a pattern in quotes nor one behind `NAME=`.
fn expand(path: PathBuf) -> Result<Vec<PathBuf>, InputError> {
    let is_pattern = |text: &&str| text.contains(['*', '?', '[']);
    let Some(text) = path.to_str().filter(is_pattern).filter(|_| path.symlink_metadata().is_err()) else {
        return Ok(vec![path]);
    };
    let pattern = || text.to_owned();
    // As a shell does it.
    let rules =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let matches = glob::glob_with(text, rules)
        .map_err(|error| InputError::Pattern { pattern: pattern(), reason: error.to_string() })?;
    let mut found = matches
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| InputError::Unlisted { pattern: pattern(), reason: error.to_string() })?;
    if found.is_empty() {
        return Err(InputError::NoMatch(pattern()));
    }
    found.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(found)
}

/// Whether it has the shape of a name in a workflow file.
fn could_be_name(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn needs(inputs: usize, params: usize) -> String {
    match (inputs, params) {
        (_, 0) => count(inputs, "input"),
        (0, _) => count(params, "parameter"),
        _ => format!("{} and {}", count(inputs, "input"), count(params, "parameter")),
    }
}

fn known_inputs(names: &[String]) -> String {
    match names {
        [] => "it has no inputs".into(),
        [name] => format!("its input is `{name}`"),
        _ => format!("its inputs are {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workflow(inputs: &str) -> Workflow {
        let text = format!(
            "workflow: w\ninputs: {inputs}\nparams: {{ mode: null, top: 10 }}\nfunctions: {{ f: {{ program: p }} }}\n"
        );
        Workflow::parse("w.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn resolved(inputs: &str, given: &[&str]) -> Result<Vec<(String, Vec<PathBuf>)>, InputError> {
        let given: Vec<OsString> = given.iter().map(Into::into).collect();
        match resolve(&workflow(inputs), &given, &["mode=fast".into()]) {
            Ok(given) => Ok(given.inputs),
            Err(CallError::Input(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn names_are_optional_for_a_single_input() {
        for (argument, path) in [
            ("book.txt", "book.txt"),
            ("text=book.txt", "book.txt"),
            ("./a=b.txt", "./a=b.txt"),
            ("text=a=b", "a=b"),
            ("-", "-"),
        ] {
            assert_eq!(resolved("[text]", &[argument]).unwrap(), [("text".to_owned(), vec![path.into()])]);
        }
        assert_eq!(resolved("[text]", &["a", "text=b"]).unwrap()[0].1, ["a", "b"].map(PathBuf::from));
    }

    #[test]
    fn patterns_stand_for_the_files_that_match() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.txt", ".c.txt", "d.csv", "[x]"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("e")).unwrap();
        std::fs::write(folder.path().join("e/f.txt"), "").unwrap();
        let files = |pattern: &str| {
            let argument = format!("text={}/{pattern}", folder.path().display());
            let found = resolved("[text]", &[&argument]).map(|given| given[0].1.clone());
            found.map(|paths| {
                let name = |path: PathBuf| path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
                paths.into_iter().map(name).collect::<Vec<_>>()
            })
        };
        assert_eq!(files("*.txt").unwrap(), ["a.txt", "b.txt"]);
        assert_eq!(files("**/*.txt").unwrap(), ["a.txt", "b.txt", "e/f.txt"]);
        assert_eq!(files("[ab].t?t").unwrap(), ["a.txt", "b.txt"]);
        assert_eq!(files("[x]").unwrap(), ["[x]"], "a file with that very name");
        let error = files("*.gz").unwrap_err();
        assert!(error.to_string().contains("no file matches the pattern"), "{error}");
        assert!(matches!(files("[a"), Err(InputError::Pattern { .. })));
    }

    #[test]
    fn wrong_inputs_are_named() {
        let unknown = resolved("[text, index]", &["txt=book"]).unwrap_err();
        assert_eq!(unknown.to_string(), "workflow `w` has no input `txt`; its inputs are `text`, `index`");
        let unnamed = resolved("[text, index]", &["book.txt"]).unwrap_err();
        assert!(unnamed.to_string().contains("does not say which input"), "{unnamed}");
        assert_eq!(unnamed.help(), ["write --input text=PATH", "write --input index=PATH"]);
        assert_eq!(resolved("[text]", &["text="]), Err(InputError::NoPath("text=".into())));
        assert_eq!(resolved("[text, index]", &["text=-", "index=-"]), Err(InputError::StdinTwice));
        assert!(resolved("[]", &["book.txt"]).unwrap_err().to_string().ends_with("it has no inputs"));
    }

    #[test]
    fn all_that_is_missing_is_listed_with_its_flags() {
        let error = resolve(&workflow("{ text: {}, logs: { parts: files } }"), &["text=a".into()], &[]).unwrap_err();
        assert_eq!(error.to_string(), "workflow `w` needs 1 input and 1 parameter that the call does not give");
        assert_eq!(
            error.help(),
            [
                "add --input logs=PATH   a file, or a directory; each file is a part of its own; may be repeated",
                "add --param mode=VALUE",
            ]
        );
    }

    #[test]
    fn params_get_their_defaults() {
        let given = resolve(&workflow("[]"), &[], &["mode=a=b".into()]).unwrap();
        assert_eq!(given.params, BTreeMap::from([("mode".into(), "a=b".into()), ("top".into(), "10".into())]));
        let error = resolve(&workflow("[]"), &[], &["mode".into()]).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.help()),
            ("`--param mode` has no value", vec!["write --param mode=VALUE".into()])
        );
        assert!(resolve(&workflow("[]"), &[], &["mod=x".into()]).unwrap_err().to_string().contains("did you mean"));
    }
}
