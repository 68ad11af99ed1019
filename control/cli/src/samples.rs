//! Reports for tests.

use dflow_worker::report::{AttemptReport, AttemptState, MemoryReport, OutputReport, RunEnd, RunReport};

use crate::terminal::Look;

/// A terminal without colours.
pub const LOOK: Look = Look { width: 100, color: false, unicode: true };

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;

/// An attempt from its name and the times prepared, ready, started, first input byte, first output byte and ended.
pub fn attempt(name: &str, times: [u64; 6]) -> AttemptReport {
    let (function, part) = match name.split_once('[') {
        Some((function, part)) => (function, Some(part.trim_end_matches(']').to_owned())),
        None => (name, None),
    };
    AttemptReport {
        name: name.into(),
        function: (!name.starts_with("output:")).then(|| function.to_owned()),
        part,
        attempt: 1,
        node: "here".into(),
        end: AttemptState::Succeeded,
        reason: None,
        part_name: None,
        transient: false,
        held_open_by: None,
        stopped: None,
        prepared_ns: times[0],
        ready_ns: Some(times[1]),
        started_ns: Some(times[2]),
        first_input_byte_ns: Some(times[3]),
        first_output_byte_ns: Some(times[4]),
        ended_ns: Some(times[5]),
        bytes_read: 1 << 20,
        bytes_written: 1 << 10,
        user_ns: 0,
        system_ns: 0,
        max_rss_bytes: 0,
    }
}

/// A word count of 100 ms in which everything overlaps.
pub fn wordcount() -> RunReport {
    let times = |times: [u64; 6]| times.map(|time| time * MS);
    let mut instances = vec![attempt("split", times([0, 1, 2, 3, 5, 70]))];
    for part in 0..8 {
        instances.push(attempt(&format!("count[{part}]"), times([0, 2, 6 + part, 8 + part, 72, 80 + part])));
    }
    instances.push(attempt("merge", times([0, 2, 75, 76, 90, 99])));
    let mut sink = attempt("output:total", times([0, 91, 91, 91, 91, 99]));
    sink.bytes_read = 300;
    instances.push(sink);
    RunReport {
        run: "0123456789abcdef0123456789abcdef".into(),
        record: None,
        workflow: "wordcount".into(),
        state: RunEnd::Succeeded,
        error: None,
        cancelled_by: None,
        invocation: "dataflow".into(),
        links: Vec::new(),
        coordination: None,
        slots: 2,
        nodes: Vec::new(),
        monotonic_start_ns: 0,
        duration_ns: 100 * MS,
        memory: MemoryReport { budget_bytes: 1 << 30, used_bytes: 0, peak_bytes: 34 << 20, spilled_bytes: 0 },
        instances,
        notes: Vec::new(),
        outputs: vec![OutputReport { name: "total".into(), part: None, path: "/out/total".into(), bytes: 300 }],
        unpublished: None,
    }
}
