//! The arguments of a function that runs alone.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// The meaning of the arguments.
pub(super) enum Call {
    /// This text on the standard output.
    Help(String),
    /// To run.
    Run(Arguments),
}

/// The streams and parameters of a run.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
    pub(super) params: Vec<(String, String)>,
    pub(super) keep: BTreeSet<String>,
    pub(super) part: Option<u32>,
}

/// An input, with a place for each of its streams.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) places: Vec<Place>,
}

/// An output.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) place: Place,
    /// How many parts it has, if that was given.
    pub(super) parts: Option<u32>,
}

/// Where a stream comes from or goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The standard input or output: `-`.
    Standard,
    /// A file, or a directory for the parts of an output.
    Path(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard => f.write_str("-"),
            Self::Path(path) => write!(f, "'{}'", path.display()),
        }
    }
}

/// The program was called wrongly.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ArgumentError {
    /// There are no arguments and no daemon.
    Nothing { program: String },
    /// An option that does not exist.
    Unknown { program: String, argument: String },
    /// An option without its value, or with one that is not `NAME=VALUE`.
    Value { option: &'static str, form: &'static str, found: Option<String> },
    /// A number that is none.
    Number { option: &'static str, found: String },
    /// An option was given twice where once makes sense.
    Twice { option: &'static str, name: String },
    /// `--keep` or `--parts` names a port that was not given.
    NoSuchPort { option: &'static str, name: String, given: Vec<String> },
    /// The standard input or output was given twice.
    StandardTwice { option: &'static str },
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing { program } => write!(
                f,
                "this program is a function of dflow workflows. To run it in one, name it as 'program' in a workflow \
                 file and call 'dflow run FILE'. To run it alone on files, name its inputs and outputs: \
                 {program} --in NAME=FILE --out NAME=FILE; '{program} --help' says more"
            ),
            Self::Unknown { program, argument } => {
                write!(f, "'{argument}' is not one of its options; see '{program} --help'")
            }
            Self::Value { option, form, found: None } => write!(f, "{option} needs a value: {option} {form}"),
            Self::Value { option, form, found: Some(found) } => {
                write!(f, "'{found}' is not what {option} needs: {option} {form}")
            }
            Self::Number { option, found } => write!(f, "'{found}' is not a number that {option} can have"),
            Self::Twice { option, name } => write!(f, "{option} was given twice for '{name}'"),
            Self::NoSuchPort { option, name, given } if given.is_empty() => {
                write!(f, "{option} names '{name}', which was not given")
            }
            Self::NoSuchPort { option, name, given } => {
                write!(f, "{option} names '{name}', which was not given; given: {}", given.join(", "))
            }
            Self::StandardTwice { option } => write!(f, "{option} NAME=- can be given once"),
        }
    }
}

const FILE: &str = "NAME=FILE";

impl Arguments {
    /// Parses the arguments behind the program's name.
    pub(super) fn parse(program: &str, arguments: impl Iterator<Item = OsString>) -> Result<Call, ArgumentError> {
        let mut found = Self::default();
        let mut parts: Vec<(String, u32)> = Vec::new();
        let mut arguments = arguments.peekable();
        if arguments.peek().is_none() {
            return Err(ArgumentError::Nothing { program: program.to_owned() });
        }
        while let Some(argument) = arguments.next() {
            let text = argument.to_string_lossy().into_owned();
            let (option, inline) = match text.split_once('=') {
                Some((option, value)) if option.starts_with("--") => (option, Some(OsString::from(value))),
                _ => (&*text, None),
            };
            let mut value = || inline.clone().or_else(|| arguments.next());
            match option {
                "--help" | "-h" => return Ok(Call::Help(help(program))),
                "--in" => {
                    let (name, place) = file("--in", value())?;
                    match found.inputs.iter_mut().find(|input| input.name == name) {
                        Some(input) => input.places.push(place),
                        None => found.inputs.push(Input { name, places: vec![place] }),
                    }
                }
                "--out" => {
                    let (name, place) = file("--out", value())?;
                    if found.outputs.iter().any(|output| output.name == name) {
                        return Err(ArgumentError::Twice { option: "--out", name });
                    }
                    found.outputs.push(Output { name, place, parts: None });
                }
                "--param" => found.params.push(pair("--param", "NAME=VALUE", value())?),
                "--keep" => {
                    let name = value().ok_or(ArgumentError::Value { option: "--keep", form: "NAME", found: None })?;
                    found.keep.insert(name.to_string_lossy().into_owned());
                }
                "--parts" => {
                    let (name, count) = pair("--parts", "NAME=COUNT", value())?;
                    parts.push((name, number("--parts", &count)?));
                }
                "--part" => {
                    let count =
                        value().ok_or(ArgumentError::Value { option: "--part", form: "NUMBER", found: None })?;
                    found.part = Some(number("--part", &count.to_string_lossy())?);
                }
                _ => return Err(ArgumentError::Unknown { program: program.to_owned(), argument: text }),
            }
        }
        found.check(parts).map(Call::Run)
    }

    fn check(mut self, parts: Vec<(String, u32)>) -> Result<Self, ArgumentError> {
        for (name, count) in parts {
            match self.outputs.iter_mut().find(|output| output.name == name) {
                Some(output) => output.parts = Some(count),
                None => {
                    let given = self.outputs.iter().map(|output| output.name.clone()).collect();
                    return Err(ArgumentError::NoSuchPort { option: "--parts", name, given });
                }
            }
        }
        let given = || self.inputs.iter().map(|input| input.name.clone()).collect::<Vec<_>>();
        if let Some(name) = self.keep.iter().find(|name| !given().contains(name)) {
            return Err(ArgumentError::NoSuchPort { option: "--keep", name: name.clone(), given: given() });
        }
        let standard =
            |places: &mut dyn Iterator<Item = &Place>| places.filter(|it| **it == Place::Standard).count() > 1;
        if standard(&mut self.inputs.iter().flat_map(|input| &input.places)) {
            return Err(ArgumentError::StandardTwice { option: "--in" });
        }
        if standard(&mut self.outputs.iter().map(|output| &output.place)) {
            return Err(ArgumentError::StandardTwice { option: "--out" });
        }
        Ok(self)
    }
}

fn file(option: &'static str, value: Option<OsString>) -> Result<(String, Place), ArgumentError> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let wrong = |found| ArgumentError::Value { option, form: FILE, found };
    let value = value.ok_or(wrong(None))?;
    // Paths may be any bytes; names are text.
    let bytes = value.as_bytes();
    let split = bytes.iter().position(|&byte| byte == b'=');
    let (name, path) = split.map(|at| (&bytes[..at], &bytes[at + 1..])).unwrap_or_default();
    match std::str::from_utf8(name) {
        Ok(name) if !name.is_empty() && path == b"-" => Ok((name.to_owned(), Place::Standard)),
        Ok(name) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), Place::Path(OsString::from_vec(path.to_vec()).into())))
        }
        _ => Err(wrong(Some(value.to_string_lossy().into_owned()))),
    }
}

fn pair(option: &'static str, form: &'static str, value: Option<OsString>) -> Result<(String, String), ArgumentError> {
    let value = value.ok_or(ArgumentError::Value { option, form, found: None })?.to_string_lossy().into_owned();
    match value.split_once('=') {
        Some((name, text)) if !name.is_empty() => Ok((name.to_owned(), text.to_owned())),
        _ => Err(ArgumentError::Value { option, form, found: Some(value) }),
    }
}

fn number(option: &'static str, text: &str) -> Result<u32, ArgumentError> {
    text.parse().map_err(|_| ArgumentError::Number { option, found: text.to_owned() })
}

fn help(program: &str) -> String {
    format!(
        "{program} is a function of dflow workflows: name it as 'program' in a workflow file. Without dflow it runs alone:

Usage: {program} --in NAME=FILE... --out NAME=FILE... [--param NAME=VALUE...]

  --in NAME=FILE      Read the input NAME from a file, or from the standard input: NAME=-.
                      Given several times for a NAME, it is a list of streams (a fan-in).
  --out NAME=FILE     Write the output NAME to a file, or to the standard output: NAME=-.
                      The file is replaced when the function has succeeded.
  --out NAME=DIR      Write each part of the output NAME to a file in this directory: 00000, 00001, ...
  --parts NAME=COUNT  The output NAME has this many parts
  --param NAME=VALUE  Set a parameter
  --keep NAME         Keep all bytes of an input that is read from a pipe, for functions that
                      look at all of it at once. Files are kept anyway.
  --part NUMBER       The part that the function works on, as in a 'foreach'
  -h, --help          Print this text

Which names there are is up to the function: an error says which one it needs."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, ArgumentError> {
        match Arguments::parse("filter", arguments.iter().map(OsString::from))? {
            Call::Run(arguments) => Ok(arguments),
            Call::Help(text) => panic!("help: {text}"),
        }
    }

    #[test]
    fn files_parameters_and_parts() {
        let found = parse(&[
            "--in", "a=x.txt", "--in=a=-", "--out", "b=dir", "--parts", "b=3", "--param", "k=v=w", "--keep=a",
            "--part=2",
        ])
        .expect("they are right");
        assert_eq!(found.inputs.len(), 1);
        assert_eq!(found.inputs[0].places, [Place::Path("x.txt".into()), Place::Standard]);
        assert_eq!((&*found.outputs[0].name, found.outputs[0].parts), ("b", Some(3)));
        assert_eq!(found.params, [("k".into(), "v=w".into())]);
        assert_eq!((found.keep.contains("a"), found.part), (true, Some(2)));
    }

    #[test]
    fn errors_name_the_wrong_argument() {
        for (arguments, expected) in [
            (&[][..], "--in NAME=FILE --out NAME=FILE"),
            (&["x.txt"], "'x.txt' is not one of its options; see 'filter --help'"),
            (&["--in"], "--in needs a value: --in NAME=FILE"),
            (&["--in", "x.txt"], "'x.txt' is not what --in needs: --in NAME=FILE"),
            (&["--in", "=x.txt"], "'=x.txt' is not what"),
            (&["--out", "a="], "'a=' is not what --out needs"),
            (&["--out=a=x", "--out=a=y"], "--out was given twice for 'a'"),
            (&["--parts", "a=1"], "--parts names 'a', which was not given"),
            (&["--in=a=x", "--keep=b"], "--keep names 'b', which was not given; given: a"),
            (&["--out=a=x", "--parts=a=many"], "'many' is not a number that --parts can have"),
            (&["--in=a=-", "--in=b=-"], "--in NAME=- can be given once"),
            (&["--param", "x"], "--param NAME=VALUE"),
        ] {
            let error = parse(arguments).expect_err("they are wrong").to_string();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_path_may_be_any_bytes() {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let (_, place) = file("--in", Some(OsString::from_vec(b"a=x\xff=y".to_vec()))).expect("it is a path");
        let Place::Path(path) = place else { panic!("{place}") };
        assert_eq!(path.as_os_str().as_bytes(), b"x\xff=y");
    }
}
