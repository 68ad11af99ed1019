//! dflow: a function with many outputs, read by another function, under a real daemon.

use crate::failure::Failure;
use crate::fanout::many::{Found, LENGTH, Many};
use crate::node::{self, Run};
use crate::settings::Settings;
use crate::subject::{Card, Role, Subject, Waiting};

/// Many small streams of a run.
pub struct Ours;

impl Subject for Ours {
    fn card(&self) -> Card {
        Card {
            name: "dflow",
            about: "a whole run of a real daemon: processes started, streams opened, written by one function and read \
                by another; memory is the daemon's and the functions' largest resident size and the store's peak, \
                shared pages counted again in each",
            role: Role::Ours,
            waiting: Waiting::Sleeping,
        }
    }

    fn missing(&self) -> Option<String> {
        node::missing()
    }
}

impl Many for Ours {
    fn one_repeat(&self, _: &Settings, streams: usize) -> Result<Found, Failure> {
        let write = format!(
            "outputs: {{ data: {{ partition: {streams} }}, times: {{}} }}, \
             params: {{ does: write, bytes: \"{LENGTH}\", chunk: \"{LENGTH}\" }}"
        );
        let read = format!(
            "inputs: {{ data: {{ from: write.data, gate: start }} }}, outputs: [times], \
             params: {{ does: read, chunk: \"{LENGTH}\" }}"
        );
        let run = Run {
            functions: &[("write", write), ("read", read)],
            outputs: &["write.times", "read.times"],
            slots: 2,
            memory: None,
        };
        let ran = run.run()?;
        let nanoseconds = ran.time("read", 0)?.saturating_sub(ran.report.monotonic_start_ns);
        let functions: u64 = ran.report.instances.iter().map(|attempt| attempt.max_rss_bytes).sum();
        let memory = ran.report.memory.peak_bytes + ran.peak_rss + functions;
        Ok(Found { nanoseconds: nanoseconds as f64, memory: memory as f64 })
    }
}
