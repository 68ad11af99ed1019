//! `completions`, through the shells themselves where they are installed.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{Call, Directory, SORTED};

const TWO: &str = "\
workflow: two
inputs: [first, second]
functions:
  join: { command: [cat, \"{in.first}\", \"{in.second}\"], inputs: [inputs.first, inputs.second] }
outputs: { joined: join.out }
";

/// What bash offers after each of these lines, with the cursor at its end.
fn offered(directory: &Directory, lines: &[&str]) -> Option<Vec<String>> {
    let script = directory.call(&["completions", "bash"]);
    assert_eq!((script.status, script.err.as_str()), (Some(0), ""), "{script:#?}");
    std::fs::write(directory.path("dflow.bash"), script.out).unwrap();
    // As readline does it: a word ends at a blank and around each `=`.
    let mut test = String::from("source ./dflow.bash\ncompopt() { :; }\n");
    for line in lines {
        test += &format!(
            "COMP_LINE='{line}' COMP_POINT=${{#COMP_LINE}} COMP_TYPE=9 COMPREPLY=()\n\
             read -ra COMP_WORDS <<<\"${{COMP_LINE//=/ = }}\"\n\
             [[ $COMP_LINE == *' ' || $COMP_LINE == *= ]] && COMP_WORDS+=('')\n\
             [[ $COMP_LINE == *= ]] && unset 'COMP_WORDS[-1]'\n\
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             current=${{COMP_WORDS[COMP_CWORD]}}; [[ $current == = ]] && current=\n\
             _dflow_joined dflow \"$current\" ''\n\
             echo \"${{COMPREPLY[*]}}\"\n"
        );
    }
    let mut bash = Command::new("bash");
    bash.args(["--noprofile", "--norc"]).current_dir(directory.path("."));
    let mut child = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
    child.stdin.take().unwrap().write_all(test.as_bytes()).unwrap();
    let call = Call::from(child.wait_with_output().unwrap());
    assert_eq!((call.status, call.err.as_str()), (Some(0), ""), "{call:#?}");
    Some(call.out.lines().map(str::to_owned).collect())
}

#[test]
fn bash() {
    let directory = Directory::with(&[("sorted.yaml", SORTED), ("two.yaml", TWO), ("book.txt", "")]);
    let lines = [
        ("dflow comp", "completions"),
        ("dflow run --dry", "--dry-run"),
        ("dflow graph sorted.yaml --format d", "dot"),
        ("dflow graph sorted.yaml --format=d", "dot"),
        ("dflow run so", "sorted.yaml"),
        // Names from the workflow file, then paths and defaults.
        ("dflow run two.yaml --input ", "first= second="),
        ("dflow run two.yaml -i s", "second="),
        ("dflow run two.yaml -i second=bo", "book.txt"),
        ("dflow run two.yaml -i second=", ". book.txt dflow.bash sorted.yaml two.yaml -"),
        ("dflow run sorted.yaml --param ", "order= prefix="),
        ("dflow run sorted.yaml -p prefix=", "x"),
        // One input needs no name.
        ("dflow run sorted.yaml -i bo", "book.txt"),
        ("dflow run missing.yaml -p ", ""),
    ];
    let Some(offered) = offered(&directory, &lines.map(|(line, _)| line)) else { return };
    for ((line, expected), offered) in lines.iter().zip(offered) {
        assert_eq!(offered, *expected, "{line}");
    }
}

#[test]
fn scripts_are_correct_where_their_shell_is_installed() {
    let directory = Directory::with(&[]);
    for shell in ["bash", "zsh", "fish"] {
        let script = directory.call(&["completions", shell]);
        assert!(script.status == Some(0) && script.out.contains("DFLOW_COMPLETE"), "{script:#?}");
        std::fs::write(directory.path(shell), script.out).unwrap();
        if let Ok(checked) = Command::new(shell).arg("-n").arg(directory.path(shell)).output() {
            assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
    let call = directory.call(&["completions", "csh"]);
    assert_eq!(call.status, Some(2));
    assert!(call.err.contains("fish"), "{}", call.err);
}
