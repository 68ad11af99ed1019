//! `dflow-bench`: compares dflow with the limits of the machine and with other systems, in one run.
//!
//! Each topic compares subjects of three roles: *limits* (minimal code that shows what the machine can do), *peers*
//! (other systems), and *ours*. A subject is one implementation of the topic's trait (`Handoff`, `Stream`, `Fanout`,
//! …), so one loop measures all of them. They run in separate processes ([`process`]), pinned to cores. One process
//! writes the payload; the other reads and checks every word ([`payload`]). The repeats of all subjects are
//! interleaved, because machines are noisy ([`settings`]).
//!
//! All access to mapped memory is in [`memory`].

mod clock;
mod failure;
mod fanout;
mod handoff;
mod hop;
mod invoke;
mod latency;
mod memory;
mod node;
mod nodes;
mod ours;
mod payload;
mod peers;
mod plan;
mod process;
mod quic;
#[cfg(feature = "rdma")]
mod rdma;
mod report;
mod runs;
mod settings;
mod spill;
mod stream;
mod subject;
mod topology;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::process::Skill;
use crate::report::Report;
use crate::settings::{Options, Settings};
use crate::topology::Topology;

/// Compares dflow with the limits of this machine and with other systems.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    topic: Topic,
}

#[derive(Subcommand)]
enum Topic {
    /// Latency of one chunk from process to process
    Handoff(Options),
    /// Throughput of one stream from process to process
    Stream(Options),
    /// One stream to many readers, and many small streams
    Fanout(Options),
    /// Throughput of spilling to disk and reading back
    Spill(Options),
    /// Latency from the start to the first instruction of a program, and programs per second
    Invoke(Options),
    /// Streams, round trips and connection set-up between two nodes without RDMA, over loopback and network namespaces
    Quic(Options),
    /// Streams between functions on different nodes, each with a real daemon, and the paper's put and get
    Nodes(Options),
    /// A chain of small functions: each hop from one to the next, on one node and between two
    Hop(Options),
    /// Runs that do nothing: from the start of the process to its end, and many at once
    Runs(Options),
    /// Plans: the predicted end, the bytes over the network and the planning time of every policy
    Plan(Options),
    /// Chunks, streams and connection set-up between two machines over RDMA
    #[cfg(feature = "rdma")]
    Rdma(rdma::Arguments),
    /// All topics that need only one machine
    All(Options),
    /// One process of a measurement; the program runs itself with this command.
    #[command(hide = true)]
    Actor,
    /// The daemon of a measurement; the program runs itself with this command.
    #[command(hide = true)]
    Node,
    /// A worker node of a measurement; the program runs itself with this command.
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
    hop::measure,
    runs::measure,
    plan::measure,
];

/// What an actor can do.
const SKILLS: &[Skill] = &[
    Skill::of::<handoff::HandoffTask>(),
    Skill::of::<stream::StreamTask>(),
    Skill::of::<fanout::FanoutTask>(),
    Skill::of::<fanout::many::ManyTask>(),
    Skill::of::<invoke::WakeTask>(),
    Skill::of::<quic::QuicTask>(),
];

fn main() -> ExitCode {
    // The launcher of a daemon must start before this process has threads and memory, because it forks.
    if std::env::args_os().nth(1).is_some_and(|word| word == dflow_launcher::ARGUMENT) {
        return dflow_launcher::serve();
    }
    let (options, topics): (Options, &[Measure]) = match Arguments::parse().topic {
        Topic::Actor => return exit(process::act(SKILLS)),
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
        Topic::Hop(options) => (options, &[hop::measure]),
        Topic::Runs(options) => (options, &[runs::measure]),
        Topic::Plan(options) => (options, &[plan::measure]),
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
