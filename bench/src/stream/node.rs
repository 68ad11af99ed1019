//! dflow: a long kept stream under a real daemon, which grants one extent after another. The reader maps each.

use crate::failure::Failure;
use crate::latency::median;
use crate::node::{self, Run};
use crate::ours::Ours;
use crate::report::Row;
use crate::settings::Settings;
use crate::subject::{Subject, Waiting};

/// The number of bytes written and committed at once.
const CHUNK: usize = 64 << 10;

/// A budget of this many times the stream keeps the stream in memory, even with the mark above which the store spills.
const BUDGET: u64 = 2;

/// The first stream of a run.
static COLD: Ours = Ours {
    name: "dflow-node-fresh",
    about: "a whole kept stream under a real daemon, in memory that the daemon allocates from the system during the run",
    waiting: Waiting::Sleeping,
};

/// The second stream of a run.
static WARM: Ours = Ours {
    name: "dflow-node-pooled",
    about: "the same between new processes, in memory that the daemon reuses from an earlier stream of the run",
    waiting: Waiting::Sleeping,
};

/// Measures streams of `length` bytes; `limit` is the bandwidth of one core.
pub fn rows(settings: &Settings, case: &str, length: usize, limit: Option<f64>) -> Vec<Row> {
    if !settings.wants(COLD.name) && !settings.wants(WARM.name) {
        return Vec::new();
    }
    let found = settings.in_turns(&format!("stream {case}"), &[&COLD], |_| one_repeat(length));
    let Some((_, repeats)) = found.into_iter().next() else { return Vec::new() };
    let repeats = match node::missing() {
        Some(reason) => Err(Failure::new(reason)),
        None => repeats,
    };
    let row = |subject: &'static Ours, which: usize| {
        let rates = repeats.as_ref().map_err(Failure::clone).map(|repeats| {
            let rate = median(repeats.iter().map(|rates| rates[which]).collect()).unwrap_or(f64::NAN);
            vec![Some(rate), Some(rate / CHUNK as f64), limit.map(|limit| rate / limit)]
        });
        Row::new(case, subject, rates)
    };
    [(&COLD, 0), (&WARM, 1)]
        .into_iter()
        .filter(|(subject, _)| settings.wants(subject.card().name))
        .map(|(subject, which)| row(subject, which))
        .collect()
}

/// The bytes per second of the first stream and of the second.
fn one_repeat(length: usize) -> Result<[f64; 2], Failure> {
    let params = format!("params: {{ does: write, bytes: \"{length}\", chunk: \"{CHUNK}\" }}");
    let write = format!("outputs: [data, times], {params}");
    let write_again =
        format!("inputs: {{ after: {{ from: read.times, gate: whole }} }}, outputs: [data, times], {params}");
    // Retries make the reader restartable, which is why the store keeps every byte.
    let read = |from| {
        format!(
            "inputs: {{ data: {from}.data }}, outputs: [times], retries: 1, \
             params: {{ does: read, chunk: \"{CHUNK}\" }}"
        )
    };
    let run = Run {
        functions: &[
            ("write", write),
            ("read", read("write")),
            ("write-again", write_again),
            ("read-again", read("write-again")),
        ],
        outputs: &["write.times", "read.times", "write-again.times", "read-again.times"],
        slots: 2,
        memory: Some(BUDGET * length as u64),
    };
    let ran = run.run()?;
    if ran.report.memory.spilled_bytes > 0 {
        return Err(Failure::new(format!("{} bytes were spilled to disk", ran.report.memory.spilled_bytes)));
    }
    let rate = |writer, reader| {
        let nanoseconds = ran.time(reader, 0)?.saturating_sub(ran.time(writer, 0)?).max(1);
        Ok(length as f64 * 1e9 / nanoseconds as f64)
    };
    Ok([rate("write", "read")?, rate("write-again", "read-again")?])
}
