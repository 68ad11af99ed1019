//! The arguments of `dflow check` and `dflow graph`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::Format;

/// The arguments of `dflow check`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_HELP)]
pub struct CheckArgs {
    /// The workflow file (YAML), or `-` for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The format on standard output: text for people, or one JSON document
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

const CHECK_HELP: &str = "\
All errors are listed at once, each with its line and column, counted from 1.

Examples:
  dflow check wordcount.yaml
  dflow check wordcount.yaml --format json | jq '.errors[] | \"\\(.line):\\(.column) \\(.message)\"'

Exit status: 0 the file is correct, 2 it has errors or cannot be read.";

/// The arguments of `dflow graph`.
#[derive(Debug, Args)]
#[command(after_help = GRAPH_HELP)]
pub struct GraphArgs {
    /// The workflow file (YAML), or `-` for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The language of the graph
    #[arg(long, value_enum, default_value_t = GraphFormat::Mermaid)]
    pub format: GraphFormat,
}

const GRAPH_HELP: &str = "\
Functions are boxes, doubled for a foreach; inputs and outputs are rounded; switches are diamonds.

Examples:
  dflow graph wordcount.yaml                        (paste it into a ```mermaid block)
  dflow graph wordcount.yaml --format dot | dot -Tsvg > wordcount.svg

Exit status: 0 success, 2 the file has errors.";

/// The language of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// A Mermaid flowchart
    Mermaid,
    /// The DOT language of Graphviz
    Dot,
}
