//! `dflow man`: the manual pages.
//!
//! The prose of each page is a text file in this directory. Its synopsis and options come from the definition of the
//! command line, its examples and exit status from the help of the command, so that each fact is written once. The keys
//! in the page on the workflow file come from the schema.

mod page;

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;
use serde_json::{Map, Value};

use crate::args::{Cli, ManArgs};
use crate::error::CallError;
use crate::exit::Exit;
use crate::terminal::print;
use page::Page;

/// The prose of each page. A command that is missing here has only its one-line description.
const TEXTS: [(&str, &str); 13] = [
    ("dflow", include_str!("dflow.txt")),
    ("dflow-run", include_str!("run.txt")),
    ("dflow-check", include_str!("check.txt")),
    ("dflow-plan", include_str!("plan.txt")),
    ("dflow-graph", include_str!("graph.txt")),
    ("dflow-logs", include_str!("logs.txt")),
    ("dflow-schema", include_str!("schema.txt")),
    ("dflow-worker", include_str!("worker.txt")),
    ("dflow-cluster", include_str!("cluster.txt")),
    ("dflow-cluster-create", include_str!("cluster-create.txt")),
    ("dflow-cluster-add", include_str!("cluster-add.txt")),
    ("dflow-doctor", include_str!("doctor.txt")),
    ("dflow-workflow", include_str!("workflow.txt")),
];

/// Writes all pages. The inner result is the result of printing their names.
///
/// # Errors
/// If a page cannot be written.
pub fn man(args: &ManArgs) -> Result<io::Result<Exit>, CallError> {
    let write = |path: &Path, text: &[u8]| {
        fs::write(path, text).map_err(|source| CallError::Man { path: path.to_owned(), source })
    };
    fs::create_dir_all(&args.directory).map_err(|source| CallError::Man { path: args.directory.clone(), source })?;
    let mut names = String::new();
    for (name, text) in pages() {
        let path = args.directory.join(name);
        write(&path, text.as_bytes())?;
        names += &format!("{}\n", path.display());
    }
    Ok(print(&names).map(|()| Exit::Success))
}

/// The name and the text of each page.
fn pages() -> Vec<(String, String)> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut names = Vec::new();
    collect(&command, &mut names);
    let mut pages: Vec<_> =
        names.iter().map(|(name, command)| (format!("{name}.1"), of_command(name, command))).collect();
    pages.push(("dflow-workflow.5".into(), of_workflow_file()));
    pages
}

/// A command and all commands below it, each with the name of its page.
fn collect(command: &clap::Command, names: &mut Vec<(String, clap::Command)>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    names.push((name.to_owned(), command.clone()));
    for below in command.get_subcommands() {
        collect(below, names);
    }
}

fn prose(name: &str) -> &'static str {
    TEXTS.iter().find(|(page, _)| *page == name).map_or("", |(_, text)| text)
}

fn of_command(name: &str, command: &clap::Command) -> String {
    let mut page = Page::new(name, "1");
    let man = Man::new(command.clone());
    page.generated(|out| man.render_name_section(out));
    page.generated(|out| man.render_synopsis_section(out));
    let (description, rest) = split_sections(prose(name));
    page.section("DESCRIPTION");
    if description.is_empty() {
        page.text(&format!("{}.", command.get_about().map(ToString::to_string).unwrap_or_default()));
    }
    page.text(description);
    if command.get_arguments().next().is_some() {
        page.generated(|out| man.render_options_section(out));
    }
    if command.has_subcommands() {
        page.generated(|out| man.render_subcommands_section(out));
    }
    page.help(&command.get_after_help().map(ToString::to_string).unwrap_or_default(), rest);
    page.text(rest);
    let above = name.rsplit_once('-').map(|(above, _)| format!("{above}(1)"));
    let below = command.get_subcommands().map(|below| format!("{}(1)", below.get_display_name().unwrap_or_default()));
    let mut also: Vec<String> = above.into_iter().chain(below).collect();
    if also.iter().all(|page| page != "dflow(1)") && name != "dflow" {
        also.insert(0, "dflow(1)".into());
    }
    also.push("dflow-workflow(5)".into());
    page.section("SEE ALSO");
    page.text(&also.iter().map(|page| format!("`{page}`")).collect::<Vec<_>>().join(", "));
    page.finish()
}

/// The text before the first heading, and the rest.
fn split_sections(text: &str) -> (&str, &str) {
    match text.find("# ") {
        Some(0) => ("", text),
        _ => text.find("\n# ").map_or((text, ""), |at| text.split_at(at + 1)),
    }
}

fn of_workflow_file() -> String {
    let mut page = Page::new("dflow-workflow", "5");
    page.section("NAME");
    page.text("dflow-workflow - the file that describes a workflow for dflow");
    page.section("DESCRIPTION");
    let (description, rest) = split_sections(prose("dflow-workflow"));
    page.text(description);
    let schema = dflow_workflow::schema();
    let none = Map::new();
    let properties = |value: &Value| value["properties"].as_object().unwrap_or(&none).clone();
    page.section("KEYS OF THE FILE");
    page.keys(&properties(&schema));
    for (_, definition) in schema["definitions"].as_object().unwrap_or(&none) {
        let title = definition["description"].as_str().unwrap_or_default();
        // `A function: a program, …` becomes KEYS: A FUNCTION.
        let title = title.split([':', ',', '.']).next().unwrap_or(title);
        page.section(&format!("KEYS: {}", title.to_uppercase()));
        page.keys(&properties(definition));
    }
    page.text(rest);
    page.section("SEE ALSO");
    page.text("`dflow(1)`, `dflow-run(1)`, `dflow-check(1)`, `dflow-schema(1)`");
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_own_text() {
        let pages = pages();
        for (name, page) in &pages {
            let stem = name.rsplit_once('.').unwrap().0;
            assert!(page.contains(".SH NAME") && page.contains(".SH DESCRIPTION"), "{name}: {page}");
            assert!(page.contains("SEE ALSO"), "{name}: {page}");
            assert!(!page.contains("EXTRA"), "{name}: the help is in separate sections");
            let short = ["dflow-completions", "dflow-man"];
            assert_eq!(prose(stem).is_empty(), short.contains(&stem), "{name}");
        }
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for (text, _) in TEXTS {
            assert!(names.iter().any(|name| name.rsplit_once('.').unwrap().0 == text), "{text} is not a page");
        }
    }

    #[test]
    fn the_keys_come_from_the_schema() {
        let (_, page) = pages().pop().unwrap();
        for key in dflow_workflow::schema()["definitions"]["Function"]["properties"].as_object().unwrap().keys() {
            assert!(page.contains(&format!("\\fB{key}\\fR")), "{key}: {page}");
        }
    }

    #[test]
    fn help_becomes_sections() {
        let (_, page) = pages().into_iter().find(|(name, _)| name == "dflow-run.1").unwrap();
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
        assert!(at(".SH OPTIONS") < at(".SH EXAMPLES") && at(".SH EXAMPLES") < at(".SH \"EXIT STATUS\""), "{page}");
        assert!(at(".nf") < at("dflow run wordcount.yaml"), "{page}");
    }
}
