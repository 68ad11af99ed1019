//! The arguments of `dflow plan`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use dflow_scheduler::planner::{Link, Policy};
use dflow_workflow::units;

use super::Format;
use super::run::{InvocationArg, file_and_inputs};
use super::values::{parse_bandwidth, parse_latency, parse_link, parse_placement, parse_plan_node, policy_parser};
use crate::completions;
use crate::inputs::InputError;
use crate::record;

/// The arguments of `dflow plan`.
#[derive(Debug, Args)]
#[command(after_help = PLAN_HELP)]
pub struct PlanArgs {
    /// The workflow file (YAML), or `-` for standard input
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "inputs")]
    pub file: Option<PathBuf>,
    /// The nodes, each with its slots. The first has the inputs of the workflow and gets its outputs. May be repeated
    /// [default: this machine]
    #[arg(long, value_name = "NAME=SLOTS[,…]", value_delimiter = ',', value_parser = parse_plan_node)]
    pub nodes: Vec<(String, u32)>,
    /// Memory for streams on each node [default: that of `dflow run` on this machine]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    pub memory: Option<u64>,
    /// Bandwidth from each node to each other
    #[arg(long, value_name = "SIZE/s", value_parser = parse_bandwidth, default_value = "125MB/s")]
    pub bandwidth: u64,
    /// The time until a function starts because of a byte on another node
    #[arg(long, value_name = "DURATION", value_parser = parse_latency, default_value = "1ms")]
    pub latency: Duration,
    /// The link between two nodes, in both directions, where it differs from the others. May be repeated
    #[arg(long = "link", value_name = "NAME:NAME=SIZE/s,DURATION", value_parser = parse_link)]
    pub links: Vec<((String, String), Link)>,
    /// How places are chosen: dflow (the least predicted end), heft, faasflow, round-robin or one-node
    #[arg(long, value_name = "POLICY", value_parser = policy_parser(), default_value = "dflow")]
    pub policy: Policy,
    /// Distribute the instances of a function over these nodes. May be repeated
    #[arg(long = "place", value_name = "FUNCTION=NODE[,NODE]…", value_parser = parse_placement)]
    pub placement: Vec<(String, Vec<String>)>,
    /// The data of a workflow input, as for `dflow run`: its size and its parts are used, and nothing is read. An input
    /// without data has the size that the workflow file expects, or that it had in earlier runs
    #[arg(
        short,
        long = "input",
        value_name = "NAME=PATH",
        num_args = 1..,
        add = ArgValueCompleter::new(completions::inputs)
    )]
    pub inputs: Vec<OsString>,
    /// The value of a parameter of the workflow, where a switch depends on it
    #[arg(short, long = "param", value_name = "NAME=VALUE", add = ArgValueCompleter::new(completions::params))]
    pub params: Vec<String>,
    /// When a function starts, as for `dflow run`
    #[arg(long, value_name = "MODE", value_enum, default_value_t = InvocationArg::Dataflow)]
    pub invocation: InvocationArg,
    /// Show the run times and sizes on which the plan is based, and whether they are declared in the file, learned from
    /// runs, or assumed
    #[arg(long)]
    pub profile: bool,
    /// Show the predicted end and the bytes over the network of all policies
    #[arg(long)]
    pub compare: bool,
    /// The directory of the records, beside which learned profiles are kept, or `none` [default: as for `dflow run`]
    #[arg(long, value_name = "DIR|none", value_hint = ValueHint::DirPath, env = record::VARIABLE)]
    pub logs: Option<PathBuf>,
    /// The format on standard output: text for people, or one JSON document
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

impl PlanArgs {
    /// The workflow file and the inputs.
    ///
    /// # Errors
    /// If there is no workflow file.
    pub fn file_and_inputs(&self) -> Result<(&Path, &[OsString]), InputError> {
        file_and_inputs(self.file.as_deref(), &self.inputs)
    }

    /// The format on standard output.
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

const PLAN_HELP: &str = "\
Nothing is started, and no node is asked: the plan is a prediction from run times and sizes. These are declared in the \
workflow file (the key `expect`), or else learned from runs that have succeeded, or else assumed: a function that nothing is \
known about is short and writes as much as it reads.

SIZE is a number and a unit: B, KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB (powers of 1000).
DURATION is a number and a unit: us, ms, s, m, h or d, as in 50us or 1.5s.

Examples:
  dflow plan wordcount.yaml                              (on this machine)
  dflow plan wordcount.yaml --nodes a=4,b=4 -i text=book.txt
  dflow plan wordcount.yaml --nodes a=4,b=4 --bandwidth 1GB/s --latency 50us --compare
  dflow plan wordcount.yaml --nodes a=4,b=4,c=16 --link a:c=10MB/s,20ms --place merge=a
  dflow plan wordcount.yaml --profile                    (what is known about each function)
  dflow plan wordcount.yaml --nodes a=4,b=4 --json | jq .end_ns

Exit status: 0 success, 2 the command line or the workflow file is wrong.";
