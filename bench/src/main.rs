//! `dflow-bench`: how fast dflow is, beside what the machine can do and beside other systems, in one run.
//!
//! Each topic compares subjects of three roles: *limits* (what the machine gives to the barest code), *peers* (other
//! systems), and *ours*. A subject is one implementation of the topic's trait (`Handoff`, `Stream`, `Fanout`, …), so that
//! all are measured by the same loop: in processes of their own ([`process`]), pinned, the payload written by one and
//! every word of it read and checked by the other ([`payload`]), their repeats interleaved because machines are noisy
//! ([`settings`]).
//!
//! Everything that touches mapped memory is in [`memory`].

mod clock;
mod failure;
mod fanout;
mod handoff;
mod invoke;
mod latency;
mod memory;
mod node;
mod nodes;
mod ours;
mod payload;
mod peers;
mod process;
mod quic;
#[cfg(feature = "rdma")]
mod rdma;
mod report;
mod settings;
mod spill;
mod stream;
mod subject;
mod topology;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::report::Report;
use crate::settings::{Options, Settings};
use crate::topology::Topology;

/// Measures dflow beside the limits of this machine and beside other systems.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    topic: Topic,
}

#[derive(Subcommand)]
enum Topic {
    /// One chunk from process to process: latency.
    Handoff(Options),
    /// One stream from process to process: bytes per second.
    Stream(Options),
    /// One stream to many readers, and many small streams.
    Fanout(Options),
    /// Spilling to disk and reading back: bytes per second.
    Spill(Options),
    /// From "start" to the first instruction of a program, and programs per second.
    Invoke(Options),
    /// Streams, round trips and set-up between two nodes without RDMA, over loopback and across network namespaces.
    Quic(Options),
    /// Streams between functions on different nodes, each with a real daemon; the paper's put and get.
    Nodes(Options),
    /// Chunks and streams between two machines by RDMA, and what it takes to set them up.
    #[cfg(feature = "rdma")]
    Rdma(rdma::Arguments),
    /// All of them that take one machine.
    All(Options),
    /// One process of a measurement; the program calls itself so.
    #[command(hide = true)]
    Actor,
    /// The daemon of a measurement; the program calls itself so.
    #[command(hide = true)]
    Node,
    /// A node of a measurement that serves runs; the program calls itself so.
    #[command(hide = true)]
    Worker(nodes::WorkerOptions),
}

/// Measures one topic and adds its tables to the report.
type Measure = fn(&Settings, &mut Report) -> Result<(), Failure>;

/// All topics, in the order of the command line.
const ALL: &[Measure] = &[
    handoff::measure,
    stream::measure,
    fanout::measure,
    spill::measure,
    invoke::measure,
    quic::measure,
    nodes::measure,
];

fn main() -> ExitCode {
    // The launcher of a daemon, before any thread exists and any memory is taken.
    if std::env::args_os().nth(1).is_some_and(|word| word == dflow_launcher::ARGUMENT) {
        return dflow_launcher::serve();
    }
    let (options, topics): (Options, &[Measure]) = match Arguments::parse().topic {
        Topic::Actor => return exit(process::act()),
        Topic::Node => return exit(node::serve()),
        Topic::Worker(options) => return exit(nodes::serve(options)),
        #[cfg(feature = "rdma")]
        Topic::Rdma(arguments) => return exit(rdma::run(arguments)),
        Topic::Handoff(options) => (options, &[handoff::measure]),
        Topic::Stream(options) => (options, &[stream::measure]),
        Topic::Fanout(options) => (options, &[fanout::measure]),
        Topic::Spill(options) => (options, &[spill::measure]),
        Topic::Invoke(options) => (options, &[invoke::measure]),
        Topic::Quic(options) => (options, &[quic::measure]),
        Topic::Nodes(options) => (options, &[nodes::measure]),
        Topic::All(options) => (options, ALL),
    };
    exit(run(options, topics))
}

fn run(options: Options, topics: &[Measure]) -> Result<(), Failure> {
    let topology = Topology::of_this_machine()?;
    let settings = Settings::new(options, topology.clone())?;
    let mut report = Report::new(topology, &settings)?;
    for topic in topics {
        topic(&settings, &mut report)?;
    }
    report.finish()
}

fn exit(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dflow-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
