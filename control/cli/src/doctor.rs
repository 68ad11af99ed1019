//! `dflow doctor`: what this machine offers to a run, and the state of the connections to other nodes.

use std::io;

use dflow_worker::{Finding, Health, PeerReport};
use serde_json::json;

use crate::args::{DoctorArgs, Format};
use crate::cluster;
use crate::error::CallError;
use crate::exit::Exit;
use crate::terminal::{Look, Style, print};

/// Minimum width of wrapped text. On a terminal that is too narrow for it, lines overflow.
const MIN_TEXT: usize = 30;

/// Examines the machine or other nodes and prints the findings. The inner result is the result of printing.
///
/// # Errors
/// If the address of a node or this node's identity cannot be used, or there is no identity.
pub fn doctor(args: &DoctorArgs) -> Result<io::Result<Exit>, CallError> {
    if args.peers.is_empty() {
        return Ok(machine(args));
    }
    let identity = args.identity.as_ref().ok_or(CallError::NoIdentity { option: "--peer" })?;
    let peers = cluster::addresses(&args.peers)?;
    let reports = dflow_worker::examine_peers(identity, &peers, &args.node.options())?;
    Ok(show_peers(&reports, args.format))
}

fn machine(args: &DoctorArgs) -> io::Result<Exit> {
    let findings = dflow_worker::doctor(&args.node.options(), &args.output);
    let bad = findings.iter().any(|finding| finding.state == Health::Bad);
    match args.format {
        Format::Human => print(&render(&findings, &Look::of(&io::stdout())))?,
        Format::Json => print(&format!("{:#}\n", json!({ "ok": !bad, "findings": findings })))?,
    }
    Ok(if bad { Exit::Failed } else { Exit::Success })
}

fn show_peers(reports: &[PeerReport], format: Format) -> io::Result<Exit> {
    let usable = reports.iter().all(PeerReport::is_usable);
    match format {
        Format::Human => {
            let look = Look::of(&io::stdout());
            let one = |report: &PeerReport| {
                let head = look.paint(Style::Bold, &format!("node {} at UDP {}", report.node, report.address));
                format!("{head}\n{}", lines(&report.findings(), &look))
            };
            print(&reports.iter().map(one).collect::<Vec<_>>().join("\n"))?;
        }
        Format::Json => {
            let one = |report: &PeerReport| {
                let mut value = json!(report);
                value["ok"] = report.is_usable().into();
                value["findings"] = json!(report.findings());
                value
            };
            let peers: Vec<_> = reports.iter().map(one).collect();
            print(&format!("{:#}\n", json!({ "ok": usable, "peers": peers })))?;
        }
    }
    Ok(if usable { Exit::Success } else { Exit::Failed })
}

fn render(findings: &[Finding], look: &Look) -> String {
    let mut text = lines(findings, look);
    let number = |state| findings.iter().filter(|finding| finding.state == state).count();
    text.push_str(&match (number(Health::Bad), number(Health::Fair)) {
        (0, 0) => "no problems found\n".into(),
        (0, fair) => format!("workflows run here; {fair} of {} could be better\n", findings.len()),
        (bad, _) => format!("workflows cannot run here: {bad} of {} must be fixed first\n", findings.len()),
    });
    text
}

/// The findings, one line each; a long one is continued on further lines.
fn lines(findings: &[Finding], look: &Look) -> String {
    let topics = findings.iter().map(|finding| finding.topic.chars().count()).max().unwrap_or(0);
    let indent = " ".repeat("good  ".len() + topics + 2);
    let width = look.width.saturating_sub(indent.len()).max(MIN_TEXT);
    let mut text = String::new();
    for finding in findings {
        let state = match finding.state {
            Health::Good => look.paint(Style::Green, "good"),
            Health::Fair => look.paint(Style::Yellow, "fair"),
            Health::Bad => look.paint(Style::Red, "bad "),
        };
        let topic = look.paint(Style::Bold, &format!("{:topics$}", finding.topic));
        let lines = wrap(&finding.text, width).join(&format!("\n{indent}"));
        text.push_str(&format!("{state}  {topic}  {lines}\n"));
    }
    text
}

/// The text in lines of at most this width; a longer word gets a separate line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::LOOK;

    #[test]
    fn findings_are_aligned_and_wrapped() {
        let findings = [
            Finding { topic: "kernel", state: Health::Good, text: "Linux 6.8".into() },
            Finding { topic: "io", state: Health::Fair, text: "io_uring cannot be used: a policy forbids it".into() },
        ];
        assert_eq!(
            render(&findings, &Look { width: 44, ..LOOK }),
            "\
good  kernel  Linux 6.8
fair  io      io_uring cannot be used: a
              policy forbids it
workflows run here; 1 of 2 could be better
"
        );
    }

    #[test]
    fn long_words_are_not_broken() {
        assert_eq!(wrap("a bbbbbb c", 4), ["a", "bbbbbb", "c"]);
        assert_eq!(wrap("", 4), [""]);
    }
}
