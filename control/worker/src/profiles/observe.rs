//! Derives the run times and sizes of functions from the report of a run.

use super::LearnedFunctions;
use crate::report::{AttemptReport, AttemptState, RunReport};
use dflow_scheduler::planner::Learned;
use dflow_workflow::{Function, Partition, Source, Workflow};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// The functions of which an attempt has succeeded: averages over their instances.
pub(super) fn functions(workflow: &Workflow, report: &RunReport) -> LearnedFunctions {
    let run = Run::of(report);
    let observed = workflow.functions.iter().filter_map(|function| {
        let instances: Vec<Observation> = run
            .instances(&function.name)
            .iter()
            .filter_map(|attempt| Observation::of(attempt, run.inputs_end(workflow, function, attempt)))
            .collect();
        let mut learned = average(&instances)?;
        learned.parts = parts(workflow, function, &run);
        Some((function.name.clone(), learned))
    });
    observed.collect()
}

/// The last attempt of each instance that has succeeded, by function.
struct Run<'a> {
    by_function: HashMap<&'a str, Vec<&'a AttemptReport>>,
    /// The position of an instance in the list of its function, by its part.
    positions: HashMap<(&'a str, Option<&'a str>), usize>,
    /// When the last instance of a function ended.
    last_ends: HashMap<&'a str, u64>,
}

impl<'a> Run<'a> {
    fn of(report: &'a RunReport) -> Self {
        let mut run = Self { by_function: HashMap::new(), positions: HashMap::new(), last_ends: HashMap::new() };
        // An attempt that ended because nobody read its outputs has not done all of its work.
        for attempt in report.instances.iter().filter(|attempt| attempt.end == AttemptState::Succeeded) {
            let (Some(function), Some(ended)) = (attempt.function.as_deref(), attempt.ended_ns) else { continue };
            let instances = run.by_function.entry(function).or_default();
            // After a restart, an instance has several attempts that succeeded.
            let position = *run.positions.entry((function, attempt.part.as_deref())).or_insert(instances.len());
            match instances.get_mut(position) {
                Some(earlier) => *earlier = attempt,
                None => instances.push(attempt),
            }
            let last = run.last_ends.entry(function).or_default();
            *last = ended.max(*last);
        }
        run
    }

    fn instances(&self, function: &str) -> &[&'a AttemptReport] {
        self.by_function.get(function).map_or(&[], Vec::as_slice)
    }

    /// When the last producer of an instance ended; 0 if it reads only inputs of the workflow.
    fn inputs_end(&self, workflow: &Workflow, function: &Function, attempt: &AttemptReport) -> u64 {
        let mut last = 0;
        for input in &function.inputs {
            for source in &input.sources {
                let Source::Output { function: producer, .. } = *source else { continue };
                let producer = workflow.function(producer);
                let name = producer.name.as_str();
                let end = if input.each && producer.foreach.is_some() {
                    let position = self.positions.get(&(name, attempt.part.as_deref()));
                    position.and_then(|position| self.instances(name).get(*position)?.ended_ns)
                } else {
                    self.last_ends.get(name).copied()
                };
                last = last.max(end.unwrap_or(0));
            }
        }
        last
    }
}

/// The figures of one instance; times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Observation {
    work: u64,
    head: Option<u64>,
    tail: Option<u64>,
    input: u64,
    output: u64,
}

impl Observation {
    /// Inverts the cost model of the planner.
    ///
    /// An instance that overlaps with its producer is not computing all the time. Its work is at least the processor
    /// time that it used, and at least the time after its last input byte; a program that sleeps uses no processor.
    fn of(attempt: &AttemptReport, inputs_end: u64) -> Option<Self> {
        let (started, ended) = (attempt.started_ns?, attempt.ended_ns?);
        let wall = ended.checked_sub(started)?;
        let after_inputs = ended.saturating_sub(inputs_end.max(started));
        // Several threads can use more processor time than passes.
        let work = attempt.user_ns.saturating_add(attempt.system_ns).max(after_inputs).min(wall);
        let tail = (inputs_end > started).then_some(after_inputs.min(work));
        let head = attempt.first_output_byte_ns.map(|first| {
            let (first, rest) = (first.clamp(started, ended), tail.unwrap_or(0));
            let (during, waited) = (work - rest, wall - rest);
            if ended - first <= rest || during == 0 {
                // In the tail, or without any work before it: counted from the end.
                work.saturating_sub(ended - first)
            } else {
                let share = u128::from(first - started) * u128::from(during) / u128::from(waited.max(1));
                u64::try_from(share).unwrap_or(work).min(work)
            }
        });
        Some(Self { work, head, tail, input: attempt.bytes_read, output: attempt.bytes_written })
    }
}

/// `None` without instances.
fn average(instances: &[Observation]) -> Option<Learned> {
    let mean = |values: &mut dyn Iterator<Item = u64>| {
        let (sum, count) = values.fold((0_u128, 0_u128), |(sum, count), value| (sum + u128::from(value), count + 1));
        sum.checked_div(count).map(|mean| u64::try_from(mean).unwrap_or(u64::MAX))
    };
    let time = |values: &mut dyn Iterator<Item = u64>| mean(values).map(Duration::from_nanos);
    Some(Learned {
        runs: 1,
        time: time(&mut instances.iter().map(|instance| instance.work))?,
        first_output: time(&mut instances.iter().filter_map(|instance| instance.head)),
        tail: time(&mut instances.iter().filter_map(|instance| instance.tail)),
        input: mean(&mut instances.iter().map(|instance| instance.input))?,
        output: mean(&mut instances.iter().map(|instance| instance.output))?,
        parts: None,
    })
}

/// How many parts an instance opened on its discovered output: the number of instances of the `foreach` over it.
fn parts(workflow: &Workflow, function: &Function, run: &Run<'_>) -> Option<u32> {
    let output = function.outputs.iter().position(|output| output.partition == Partition::Discovered)?;
    let is_it = |source: Source| match source {
        Source::Output { function: producer, output: port } => {
            port as usize == output && workflow.function(producer).name == function.name
        }
        Source::WorkflowInput(_) => false,
    };
    let reader = workflow.functions.iter().find(|reader| reader.foreach.is_some_and(is_it))?;
    let parts: BTreeSet<Option<&str>> =
        run.instances(&reader.name).iter().map(|attempt| attempt.part.as_deref()).collect();
    u32::try_from(parts.len()).ok().filter(|parts| *parts > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{MemoryReport, RunEnd};

    const WORKFLOW: &str = "
workflow: w
inputs: [text]
functions:
  split: { program: x, inputs: [inputs.text], outputs: { parts: { partition: discovered } } }
  count: { program: x, foreach: split.parts, outputs: [counts] }
  merge: { program: x, inputs: [count.counts], outputs: [all] }
";

    /// Times in milliseconds: started, first output, ended; then the processor time.
    fn attempt(name: &str, [started, first, ended, cpu]: [u64; 4]) -> AttemptReport {
        let (function, part) = match name.split_once('[') {
            Some((function, part)) => (function, Some(part.trim_end_matches(']').to_owned())),
            None => (name, None),
        };
        AttemptReport {
            name: name.into(),
            function: Some(function.into()),
            part,
            part_name: None,
            attempt: 1,
            node: "a".into(),
            end: AttemptState::Succeeded,
            reason: None,
            transient: false,
            held_open_by: None,
            stopped: None,
            prepared_ns: 0,
            ready_ns: None,
            started_ns: Some(started * 1_000_000),
            first_input_byte_ns: None,
            first_output_byte_ns: Some(first * 1_000_000),
            ended_ns: Some(ended * 1_000_000),
            bytes_read: 100,
            bytes_written: 40,
            user_ns: cpu * 1_000_000,
            system_ns: 0,
            max_rss_bytes: 0,
        }
    }

    fn report(instances: Vec<AttemptReport>) -> RunReport {
        RunReport {
            run: "0123".into(),
            record: None,
            workflow: "w".into(),
            state: RunEnd::Succeeded,
            error: None,
            cancelled_by: None,
            invocation: "dataflow".into(),
            slots: 4,
            nodes: Vec::new(),
            monotonic_start_ns: 0,
            duration_ns: 0,
            links: Vec::new(),
            coordination: None,
            memory: MemoryReport::default(),
            instances,
            outputs: Vec::new(),
            unpublished: None,
            notes: Vec::new(),
        }
    }

    fn seen(instances: Vec<AttemptReport>) -> LearnedFunctions {
        functions(&Workflow::parse("w.yaml", WORKFLOW).unwrap(), &report(instances))
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn work_head_and_tail() {
        let learned = seen(vec![
            attempt("split", [0, 200, 1000, 900]),
            // It overlapped with `split` until 1000: 300 ms of processor time, 100 of them after that.
            attempt("count[0]", [300, 650, 1100, 300]),
            attempt("count[1]", [300, 1050, 1100, 300]),
            // It sleeps: no processor time, but 400 ms after all of its input.
            attempt("merge", [1100, 1500, 1500, 0]),
        ]);
        let (split, count, merge) = (&learned["split"], &learned["count"], &learned["merge"]);
        assert_eq!((split.time, split.first_output, split.tail), (ms(1000), Some(ms(200)), None));
        assert_eq!((split.parts, split.input, split.output), (Some(2), 100, 40));
        // The first: half of the 700 ms of overlap, so half of the 200 ms of work in it. The second: in its tail.
        assert_eq!((count.time, count.first_output, count.tail), (ms(300), Some(ms((100 + 250) / 2)), Some(ms(100))));
        assert_eq!((merge.time, merge.first_output, merge.tail), (ms(400), Some(ms(400)), None));
    }

    #[test]
    fn attempts_that_did_not_do_their_work_do_not_count() {
        let mut failed = attempt("split", [0, 1, 5, 5]);
        failed.end = AttemptState::Failed;
        let mut unread = attempt("merge", [0, 1, 5, 5]);
        unread.end = AttemptState::Unread;
        let mut again = attempt("split", [10, 20, 110, 100]);
        again.attempt = 2;
        let mut unfinished = attempt("count[0]", [0, 1, 5, 5]);
        unfinished.ended_ns = None;
        let learned = seen(vec![failed, again.clone(), unread, unfinished]);
        assert_eq!(learned.keys().collect::<Vec<_>>(), ["split"]);
        assert_eq!(learned["split"].time, ms(100));
        // A restarted instance is counted once, as it was in the end.
        again.ended_ns = Some(60_000_000);
        let learned = seen(vec![attempt("split", [0, 1, 5, 5]), again]);
        assert_eq!(learned["split"].time, ms(50));
    }

    #[test]
    fn strange_times_are_harmless() {
        let times = [[5, 0, 0, 9], [0, 99, 5, 0], [3, 3, 3, 0], [0, 0, u64::MAX / 2_000_000, u64::MAX / 2_000_000]];
        for times in times {
            for learned in seen(vec![attempt("split", times), attempt("count[0]", times)]).values() {
                assert!(learned.first_output.unwrap_or_default() <= learned.time, "{learned:?}");
            }
        }
    }
}
