//! Explains why a program failed.

use dflow_function::{ArgPiece, Error, InputSpec, OutputSpec};
use dflow_launcher::{explain_exec, explain_line_ends};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

/// Maximum length of a title in bytes; a longer one is truncated.
const MAX_TITLE: usize = 200;

/// The command as a user would type it, without the directory of the program.
pub(crate) fn title(command: &[Vec<ArgPiece>], inputs: &[InputSpec], outputs: &[OutputSpec]) -> String {
    let mut title = String::new();
    for (number, pieces) in command.iter().enumerate() {
        let word: String = pieces
            .iter()
            .map(|piece| match piece {
                ArgPiece::Text(text) => text.clone(),
                ArgPiece::Input(index) => {
                    format!("{{in.{}}}", inputs.get(*index as usize).map_or("?", |spec| &spec.name))
                }
                ArgPiece::Output(index) => {
                    format!("{{out.{}}}", outputs.get(*index as usize).map_or("?", |spec| &spec.name))
                }
            })
            .collect();
        let word = match number {
            0 => Path::new(&word).file_name().map_or(&*word, |name| name.to_str().unwrap_or(&word)),
            _ => {
                title.push(' ');
                &word
            }
        };
        title.push_str(&quoted(word));
        if title.len() > MAX_TITLE {
            title.truncate(title.floor_char_boundary(MAX_TITLE));
            title.push('…');
            break;
        }
    }
    title
}

/// A word quoted for a shell; the braces of placeholders are not quoted.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-{}".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The program has ended with a status that does not count as success. `name` is its `argv[0]`.
pub(crate) fn ended(title: &str, name: &str, path: &Path, status: ExitStatus) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code @ 126), _) => {
            format!("ended with exit status {code}: a shell reports this for a command that it may not execute")
        }
        (Some(code @ 127), _) => match explain_line_ends(path) {
            Some(line_ends) => {
                format!("ended with exit status {code}: the name of its interpreter is wrong: {line_ends}")
            }
            None => format!("ended with exit status {code}: a shell reports this for a command that it cannot find"),
        },
        (Some(code), _) => match harmless(name, code) {
            Some(hint) => format!("ended with exit status {code}: {hint}"),
            None => format!("ended with exit status {code}"),
        },
        (None, Some(9)) => {
            "was killed by SIGKILL, by a user or by the kernel because memory ran out (see 'dmesg')".into()
        }
        (None, Some(signal)) if signal == rustix::process::Signal::XFSZ.as_raw() => {
            "was killed by SIGXFSZ: it wrote a file larger than 'ulimit -f' allows".into()
        }
        (None, Some(signal)) => format!("was killed by {}", signal_name(signal)),
        (None, None) => format!("ended in an unknown way ({status})"),
    };
    Error::new(format!("`{title}` {how}"))
}

/// Programs whose exit status 1 is an answer instead of a failure, and its meaning.
const ANSWERS: &[(&[&str], &str)] = &[
    (
        &["grep", "egrep", "fgrep", "zgrep", "zegrep", "zfgrep", "bzgrep", "xzgrep", "zstdgrep", "rg", "look"],
        "when no line matches",
    ),
    (&["diff", "zdiff", "bzdiff", "xzdiff", "cmp", "zcmp", "bzcmp", "xzcmp"], "when its inputs differ"),
    (&["pgrep", "pkill", "pidof"], "when no process matches"),
    (&["test", "["], "when the condition is false"),
    (&["expr"], "when the result is empty or 0"),
];

/// The meaning of an exit status that may not be a failure, and how to accept it.
fn harmless(name: &str, code: i32) -> Option<String> {
    let name = Path::new(name).file_name()?.to_str()?;
    let (_, when) = ANSWERS.iter().find(|(names, _)| code == 1 && names.contains(&name))?;
    Some(format!("{name} ends with 1 {when}: `success: [0, 1]` accepts that"))
}

fn signal_name(signal: i32) -> String {
    /// From 1 on.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let name = usize::try_from(signal).ok().and_then(|signal| NAMES.get(signal.checked_sub(1)?));
    name.map_or_else(|| format!("signal {signal}"), |name| format!("SIG{name}"))
}

/// The program could not be started.
pub(crate) fn not_started(title: &str, program: &Path, error: &io::Error) -> Error {
    let reason = explain_exec(program, error);
    Error::new(format!("cannot run `{title}`: {}: {reason}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_function::OutputStreams;

    fn titled(command: &[&[ArgPiece]]) -> String {
        let input = InputSpec { name: "text".into(), many: false, keep: false, stdin: false };
        let streams = OutputStreams::Discovered;
        let output = OutputSpec { name: "copy".into(), streams, stdout: false };
        title(&command.iter().map(|pieces| pieces.to_vec()).collect::<Vec<_>>(), &[input], &[output])
    }

    fn text(text: &str) -> ArgPiece {
        ArgPiece::Text(text.into())
    }

    #[test]
    fn a_title_is_the_command_as_a_user_would_type_it() {
        let arguments: [&[ArgPiece]; 6] = [
            &[text("/usr/bin/sort")],
            &[text("-k1,1")],
            &[text("")],
            &[text("it's $1")],
            &[text("--output="), ArgPiece::Output(0)],
            &[ArgPiece::Input(0)],
        ];
        assert_eq!(titled(&arguments), r"sort -k1,1 '' 'it'\''s $1' --output={out.copy} {in.text}");
        assert_eq!(titled(&[&[ArgPiece::Input(7)]]), "'{in.?}'");
        let long = titled(&[&[text("sh")], &[text("-c")], &[text(&"é".repeat(1000))]]);
        assert!(long.ends_with('…') && long.len() <= MAX_TITLE + '…'.len_utf8(), "{long}");
    }

    #[test]
    fn only_known_programs_answer_with_status_1() {
        let hint = harmless("/usr/bin/grep", 1).unwrap();
        assert_eq!(hint, "grep ends with 1 when no line matches: `success: [0, 1]` accepts that");
        assert!(harmless("diff", 1).unwrap().contains("differ"));
        // 2 is grep's real failure.
        assert_eq!((harmless("grep", 2), harmless("sort", 1), harmless("", 1)), (None, None, None));
    }

    #[test]
    fn signals_have_names() {
        for (signal, name) in [(1, "SIGHUP"), (9, "SIGKILL"), (11, "SIGSEGV"), (13, "SIGPIPE"), (31, "SIGSYS")] {
            assert_eq!(signal_name(signal), name);
        }
        assert_eq!(signal_name(34), "signal 34");
        assert_eq!(signal_name(0), "signal 0");
    }
}
