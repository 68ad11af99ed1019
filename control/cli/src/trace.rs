//! A run as a Chrome trace, the JSON format that chrome://tracing and ui.perfetto.dev open.
//!
//! A process of the trace is a function on a node, and a thread is an instance with all its attempts. Times are
//! microseconds since the start of the run.

use std::collections::HashMap;
use std::io::{self, Write};

use dflow_worker::report::{AttemptReport, RunReport};
use serde::Serialize;
use serde_json::{Value, json};

/// Writes the trace of a run.
///
/// # Errors
/// If `out` cannot be written.
pub fn write(report: &RunReport, out: impl Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    let trace = Trace {
        trace_events: events(report),
        display_time_unit: "ms",
        other_data: json!({ "run": report.run, "workflow": report.workflow, "invocation": report.invocation }),
    };
    serde_json::to_writer(&mut out, &trace)?;
    out.write_all(b"\n")?;
    out.flush()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    trace_events: Vec<Event>,
    display_time_unit: &'static str,
    other_data: Value,
}

/// An event, with the field names of the format.
#[derive(Serialize)]
struct Event {
    name: &'static str,
    /// Its kind: `X` a slice, `i` an instant, `C` a counter, `M` the name of a process or thread.
    ph: &'static str,
    pid: usize,
    tid: usize,
    /// Microseconds.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    /// The scope of an instant: its thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    args: Value,
}

/// The process of the run itself.
const RUN: Place = Place { pid: 0, tid: 0 };

fn events(report: &RunReport) -> Vec<Event> {
    let mut events = vec![
        RUN.label("process_name", format!("run of {}", report.workflow)),
        RUN.label("thread_name", "run".into()),
        RUN.slice(
            "run",
            0,
            report.duration_ns,
            json!({ "state": report.state, "error": report.error, "slots": report.slots, "memory": report.memory }),
        ),
    ];
    let mut places = Places::default();
    for attempt in &report.instances {
        let place = places.of(attempt, &mut events);
        lifetime(attempt, place, report.duration_ns, &mut events);
    }
    counters(report, &mut places, &mut events);
    events
}

/// The slices and instants of an attempt.
fn lifetime(attempt: &AttemptReport, place: Place, total: u64, events: &mut Vec<Event>) {
    let end = attempt.ended_ns.unwrap_or(total);
    let ready = attempt.ready_ns.unwrap_or(attempt.started_ns.unwrap_or(end));
    let started = attempt.started_ns.unwrap_or(end);
    events.push(place.slice("made ready", attempt.prepared_ns, ready, json!({ "attempt": attempt.attempt })));
    if attempt.ready_ns.is_some() {
        events.push(place.slice(
            "ready, waits for its gate or slot",
            ready,
            started,
            json!({ "attempt": attempt.attempt }),
        ));
    }
    if attempt.started_ns.is_some() {
        let args = json!({
            "attempt": attempt.attempt,
            "end": attempt.end,
            "reason": attempt.reason,
            "part": attempt.part,
            "bytes_read": attempt.bytes_read,
            "bytes_written": attempt.bytes_written,
            "user_ms": attempt.user_ns as f64 / 1e6,
            "system_ms": attempt.system_ns as f64 / 1e6,
            "max_rss_bytes": attempt.max_rss_bytes,
        });
        events.push(place.slice("running", started, end, args));
    }
    let bytes =
        [("first input byte", attempt.first_input_byte_ns), ("first output byte", attempt.first_output_byte_ns)];
    for (name, time) in bytes {
        if let Some(time) = time {
            events.push(Event { ts: micros(time), s: Some("t"), ..place.event(name, "i") });
        }
    }
}

/// The bytes that each function has read and written, as a counter that steps at the end of each attempt, when they
/// become known.
fn counters<'a>(report: &'a RunReport, places: &mut Places<'a>, events: &mut Vec<Event>) {
    let mut ends: Vec<(u64, &AttemptReport)> =
        report.instances.iter().map(|attempt| (attempt.ended_ns.unwrap_or(report.duration_ns), attempt)).collect();
    ends.sort_by_key(|(end, _)| *end);
    let mut sums: HashMap<usize, (u64, u64)> = HashMap::new();
    for (end, attempt) in ends {
        let place = places.of(attempt, events);
        let mut count = |time: u64, (read, written): (u64, u64)| {
            let args = json!({ "read": read, "written": written });
            events.push(Event { ts: micros(time), args, ..Place { tid: 0, ..place }.event("bytes", "C") });
        };
        let sum = sums.entry(place.pid).or_insert_with(|| {
            count(0, (0, 0));
            (0, 0)
        });
        *sum = (sum.0.saturating_add(attempt.bytes_read), sum.1.saturating_add(attempt.bytes_written));
        count(end, *sum);
    }
}

/// A thread of the trace.
#[derive(Clone, Copy)]
struct Place {
    pid: usize,
    tid: usize,
}

impl Place {
    fn event(self, name: &'static str, ph: &'static str) -> Event {
        Event { name, ph, pid: self.pid, tid: self.tid, ts: 0.0, dur: None, s: None, args: Value::Null }
    }

    fn slice(self, name: &'static str, from: u64, to: u64, args: Value) -> Event {
        Event { ts: micros(from), dur: Some(micros(to.saturating_sub(from))), args, ..self.event(name, "X") }
    }

    /// Gives the process or the thread its name.
    fn label(self, what: &'static str, name: String) -> Event {
        Event { args: json!({ "name": name }), ..self.event(what, "M") }
    }
}

/// Assigns attempts to threads.
#[derive(Default)]
struct Places<'a> {
    /// The processes by node and function, each with its number and its number of threads.
    processes: HashMap<(&'a str, &'a str), (usize, usize)>,
    threads: HashMap<(usize, &'a str), usize>,
}

impl<'a> Places<'a> {
    /// The thread of an attempt. Names a new process or thread.
    fn of(&mut self, attempt: &'a AttemptReport, events: &mut Vec<Event>) -> Place {
        let function = attempt.function.as_deref().unwrap_or("outputs");
        // The run itself is process 0.
        let next = self.processes.len() + 1;
        let (pid, threads) = self.processes.entry((&attempt.node, function)).or_insert((next, 0));
        let pid = *pid;
        if *threads == 0 {
            let place = Place { pid, tid: 0 };
            events.push(place.label("process_name", format!("{}/{function}", attempt.node)));
            // Sorted by first attempt instead of by name.
            events.push(Event { args: json!({ "sort_index": pid }), ..place.event("process_sort_index", "M") });
        }
        let tid = *self.threads.entry((pid, &attempt.name)).or_insert_with(|| {
            *threads += 1;
            events.push(Place { pid, tid: *threads }.label("thread_name", attempt.name.clone()));
            *threads
        });
        Place { pid, tid }
    }
}

/// Exact: the nanoseconds of a hundred days fit in the 53 bits of a double.
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{attempt, wordcount};
    use dflow_worker::report::AttemptState;

    fn written(report: &RunReport) -> Value {
        let mut bytes = Vec::new();
        write(report, &mut bytes).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    fn of<'a>(trace: &'a Value, ph: &str, name: &str) -> Vec<&'a Value> {
        let events = trace["traceEvents"].as_array().unwrap();
        events.iter().filter(|event| event["ph"] == ph && event["name"] == name).collect()
    }

    #[test]
    fn processes_are_functions_and_threads_are_instances() {
        let trace = written(&wordcount());
        let names = |what| -> Vec<String> {
            of(&trace, "M", what).iter().map(|event| event["args"]["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(
            names("process_name"),
            ["run of wordcount", "here/split", "here/count", "here/merge", "here/outputs"]
        );
        assert_eq!(names("thread_name").len(), 12);
        let running = of(&trace, "X", "running");
        assert_eq!(running.len(), 11);
        let count3 = running[4];
        assert_eq!((&count3["pid"], &count3["tid"]), (&json!(2), &json!(4)));
        assert_eq!((&count3["ts"], &count3["dur"]), (&json!(9000.0), &json!(74000.0)));
        assert_eq!(of(&trace, "i", "first input byte")[0]["ts"], json!(3000.0));
    }

    #[test]
    fn slices_of_a_thread_do_not_overlap() {
        let mut report = wordcount();
        let mut retry = attempt("split", [71, 72, 73, 74, 75, 76].map(|time| time * 1_000_000));
        retry.attempt = 2;
        report.instances.insert(1, retry);
        let trace = written(&report);
        let mut ends: HashMap<(u64, u64), f64> = HashMap::new();
        for event in trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X") {
            let thread = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
            let (from, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
            assert!(from >= *ends.get(&thread).unwrap_or(&0.0), "{event}");
            ends.insert(thread, from + length);
        }
        assert_eq!(ends.len(), 12, "a retry has no separate thread");
    }

    #[test]
    fn counters_grow_to_the_sum() {
        let trace = written(&wordcount());
        let counters = of(&trace, "C", "bytes");
        let of_count: Vec<&&Value> = counters.iter().filter(|event| event["pid"] == 2).collect();
        assert_eq!(of_count.len(), 9);
        assert_eq!(of_count[0]["args"], json!({ "read": 0, "written": 0 }));
        assert_eq!(of_count[8]["args"], json!({ "read": 8 << 20, "written": 8 << 10 }));
        assert!(of_count.windows(2).all(|pair| pair[0]["ts"].as_f64() <= pair[1]["ts"].as_f64()));
    }

    #[test]
    fn an_unfinished_attempt_ends_with_the_run() {
        let mut report = wordcount();
        let last = &mut report.instances[0];
        (last.ended_ns, last.end, last.first_output_byte_ns) = (None, AttemptState::Running, None);
        let never = &mut report.instances[1];
        (never.ready_ns, never.started_ns, never.ended_ns) = (None, None, None);
        let trace = written(&report);
        assert_eq!(of(&trace, "X", "running")[0]["dur"], json!(98000.0));
        assert_eq!(of(&trace, "X", "running").len(), 10);
        assert_eq!(of(&trace, "X", "made ready")[1]["dur"], json!(100_000.0));
    }
}
