//! Matches `--input` and `--param` with the inputs and parameters that a workflow declares.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use dflow_workflow::{ParamError, Workflow, WorkflowInput};

use crate::units::count;

/// The inputs and parameters of a run.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    /// Each input of the workflow with its files and directories, in the order of the workflow file.
    pub inputs: Vec<(String, Vec<PathBuf>)>,
    /// Each parameter of the workflow with its value.
    pub params: BTreeMap<String, String>,
}

/// Why the inputs or parameters on the command line do not fit a workflow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Some are missing.
    #[error(
        "the command line lacks {} of workflow `{workflow}`",
        lacking(.inputs.len(), .params.len())
    )]
    Missing {
        /// The workflow.
        workflow: String,
        /// The inputs, each with whether its files are separate parts.
        inputs: Vec<(String, bool)>,
        /// The parameters.
        params: Vec<String>,
    },
    /// The workflow has no input of this name.
    #[error("workflow `{workflow}` has no input `{name}`; {}", known_inputs(.known))]
    Unknown {
        /// The workflow.
        workflow: String,
        /// The name on the command line.
        name: String,
        /// The inputs of the workflow.
        known: Vec<String>,
    },
    /// A path has no input name, and the workflow does not have exactly one input.
    #[error("`--input {path}` does not name an input of workflow `{workflow}`; {}", known_inputs(.known))]
    Unnamed {
        /// The workflow.
        workflow: String,
        /// The path.
        path: String,
        /// The inputs of the workflow.
        known: Vec<String>,
    },
    /// There is no workflow file, or it was taken for another value of `--input`.
    #[error("there is no workflow file on the command line")]
    NoWorkflow,
    /// No file matches a pattern.
    #[error("no file matches the pattern `{0}`")]
    NoMatch(String),
    /// A path that does not exist has pattern characters, but is not a valid pattern.
    #[error("there is no file `{pattern}`, and it is not a valid pattern: {reason}")]
    Pattern {
        /// The path.
        pattern: String,
        /// Why it is not valid.
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
    /// An input has no path.
    #[error("`--input {0}` has no path")]
    NoPath(String),
    /// Standard input is named more than once.
    #[error("standard input (`-`) is named more than once, but can be read only once")]
    StdinTwice,
    /// A parameter has no `=`.
    #[error("`--param {0}` has no value")]
    NoValue(String),
    /// The parameters do not fit the workflow.
    #[error(transparent)]
    Param(#[from] ParamError),
}

impl InputError {
    /// What to do about it, one line each.
    pub fn help(&self) -> Vec<String> {
        match self {
            Self::Missing { inputs, params, .. } => {
                let input = |(name, partitioned): &(String, bool)| {
                    let what = if *partitioned {
                        "a file or a directory of files; each file is a separate part; may be repeated"
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
            Self::NoWorkflow => vec!["write it before the inputs: dflow run FILE --input NAME=PATH".into()],
            Self::NoMatch(_) => {
                vec!["correct it, or name a directory; `*` does not match `/` or a leading dot".into()]
            }
            Self::Pattern { .. } => vec!["correct the path".into()],
            Self::Unlisted { .. } => vec!["name the files, or make their directory readable".into()],
            Self::NoPath(_) => vec!["write --input NAME=PATH, with - as PATH for standard input".into()],
            Self::StdinTwice => vec!["save one of them to a file first".into()],
            Self::NoValue(name) => vec![format!("write --param {name}=VALUE")],
            Self::Param(_) => Vec::new(),
        }
    }
}

/// Assigns the values on the command line to the inputs and parameters of the workflow.
///
/// # Errors
/// If the workflow does not have one of them, or needs more; all that are missing are listed.
pub fn resolve(workflow: &Workflow, inputs: &[OsString], params: &[String]) -> Result<Given, InputError> {
    let (given, missing_params) = assign_all(workflow, inputs, params)?;
    let partitioned = |input: &WorkflowInput| (input.name.clone(), input.partitioned);
    let missing_inputs: Vec<(String, bool)> = workflow
        .inputs
        .iter()
        .zip(&given.inputs)
        .filter(|(_, (_, paths))| paths.is_empty())
        .map(|(input, _)| partitioned(input))
        .collect();
    if missing_inputs.is_empty() && missing_params.is_empty() {
        return Ok(given);
    }
    Err(InputError::Missing { workflow: workflow.name.clone(), inputs: missing_inputs, params: missing_params })
}

/// Like [`resolve`], but inputs and parameters may be missing.
///
/// # Errors
/// If the workflow does not have one of them.
pub fn available(workflow: &Workflow, inputs: &[OsString], params: &[String]) -> Result<Given, InputError> {
    assign_all(workflow, inputs, params).map(|(given, _)| given)
}

/// The given inputs and parameters, and the names of missing parameters.
fn assign_all(workflow: &Workflow, inputs: &[OsString], params: &[String]) -> Result<(Given, Vec<String>), InputError> {
    let mut given: Vec<(String, Vec<PathBuf>)> =
        workflow.inputs.iter().map(|input| (input.name.clone(), Vec::new())).collect();
    for argument in inputs {
        let (index, path) = assign(workflow, argument)?;
        given[index].1.extend(expand(path)?);
    }
    let stdins = given.iter().flat_map(|(_, paths)| paths).filter(|path| path.as_os_str() == "-").count();
    if stdins > 1 {
        return Err(InputError::StdinTwice);
    }

    let params = params
        .iter()
        .map(|param| param.split_once('=').ok_or_else(|| InputError::NoValue(param.clone())))
        .map(|pair| pair.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect::<Result<Vec<_>, _>>()?;
    let (params, missing) = match workflow.resolve_params(&params) {
        Ok(values) => (values, Vec::new()),
        Err(ParamError::Missing { names, .. }) => (params.into_iter().collect(), names),
        Err(error) => return Err(error.into()),
    };
    Ok((Given { inputs: given, params }, missing))
}

/// Whether a value of `--input` names standard input.
pub fn is_stdin(argument: &OsStr) -> bool {
    let bytes = argument.as_bytes();
    bytes == b"-" || bytes.split_at_checked(bytes.len().saturating_sub(2)).is_some_and(|(_, end)| end == b"=-")
}

/// The index of the input that a value of `--input` is for, and the path.
fn assign(workflow: &Workflow, argument: &OsStr) -> Result<(usize, PathBuf), InputError> {
    let bytes = argument.as_bytes();
    let shown = || argument.to_string_lossy().into_owned();
    let known = || workflow.inputs.iter().map(|input| input.name.clone()).collect();
    let named = bytes.iter().position(|&byte| byte == b'=').map(|at| (&bytes[..at], &bytes[at + 1..]));
    let is_input = |name: &[u8]| workflow.inputs.iter().any(|input| input.name.as_bytes() == name);
    let (index, path) = match named {
        // Only a name may stand before `=`; otherwise the `=` belongs to the path.
        Some((name, path)) if is_input(name) || could_be_name(name) => {
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

/// The files that a path stands for: the path itself if it exists or is not a pattern, otherwise all files that match
/// it. Shells expand neither a quoted pattern nor one after `NAME=`.
fn expand(path: PathBuf) -> Result<Vec<PathBuf>, InputError> {
    let is_pattern = |text: &&str| text.contains(['*', '?', '[']);
    let Some(text) = path.to_str().filter(is_pattern).filter(|_| path.symlink_metadata().is_err()) else {
        return Ok(vec![path]);
    };
    let pattern = || text.to_owned();
    // The rules of POSIX shells.
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

/// Whether this is more likely the name of an input than the beginning of a path. A name with a dot is accepted only if
/// the workflow has it, because `./a=b.txt` and `a.d/b=c.txt` are paths.
fn could_be_name(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn lacking(inputs: usize, params: usize) -> String {
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
        resolve(&workflow(inputs), &given, &["mode=fast".into()]).map(|given| given.inputs)
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
        assert_eq!(resolved("[reads.fq]", &["reads.fq=a"]).unwrap()[0].1, ["a"].map(PathBuf::from));
    }

    #[test]
    fn patterns_stand_for_the_files_that_match() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.txt", ".c.txt", "d.csv", "[x]"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        std::fs::create_dir(directory.path().join("e")).unwrap();
        std::fs::write(directory.path().join("e/f.txt"), "").unwrap();
        let files = |pattern: &str| {
            let argument = format!("text={}/{pattern}", directory.path().display());
            let found = resolved("[text]", &[&argument]).map(|given| given[0].1.clone());
            found.map(|paths| {
                let name = |path: PathBuf| path.strip_prefix(directory.path()).unwrap().to_str().unwrap().to_owned();
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
        assert!(unnamed.to_string().contains("does not name an input"), "{unnamed}");
        assert_eq!(unnamed.help(), ["write --input text=PATH", "write --input index=PATH"]);
        assert_eq!(resolved("[text]", &["text="]), Err(InputError::NoPath("text=".into())));
        assert_eq!(resolved("[text, index]", &["text=-", "index=-"]), Err(InputError::StdinTwice));
        assert!(resolved("[]", &["book.txt"]).unwrap_err().to_string().ends_with("it has no inputs"));
    }

    #[test]
    fn missing_inputs_and_params_are_listed_with_their_flags() {
        let error = resolve(&workflow("{ text: {}, logs: { parts: files } }"), &["text=a".into()], &[]).unwrap_err();
        assert_eq!(error.to_string(), "the command line lacks 1 input and 1 parameter of workflow `w`");
        assert_eq!(
            error.help(),
            [
                "add --input logs=PATH   a file or a directory of files; each file is a separate part; may be repeated",
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
