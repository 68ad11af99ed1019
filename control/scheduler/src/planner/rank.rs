//! How much of the run follows an instance.

use super::capacity::Time;
use super::graph::{Graph, TaskId};
use super::problem::Problem;
use super::schedule::duration;
use dflow_workflow::Gate;

/// For each task, the time from its start until everything that depends on it has ended, if slots and links were free:
/// the upward rank of HEFT, extended to consumers that overlap with their producer.
///
/// ```text
/// rank(v) = max(work(v),
///               head(v) + c + rank(w)   for each consumer w that starts at its first bytes,
///               work(v) + c + rest(w)   for the same,
///               work(v) + c + rank(w)   for each consumer w that waits for all of them)
/// rest(w) = the time that remains after the last input byte of w:
///           the same with tail(w) instead of work(w), without the first line
/// ```
///
/// `c` is the time of the transfer, averaged over all pairs of nodes, of which some are the same node.
pub(super) fn ranks(problem: &Problem<'_>, graph: &Graph, overlap: bool) -> Vec<Time> {
    let mut ranks: Vec<Time> = graph.tasks.iter().map(|task| task.work.total).collect();
    let mut rests: Vec<Time> = graph.tasks.iter().map(|task| task.work.tail).collect();
    let mean = MeanLink::of(problem);
    // Consumers come after their producers, so in reverse they are complete when their producers are reached.
    for task in (0..graph.tasks.len()).rev() {
        for (port, streams) in graph.read(task) {
            let waits = port.gate == Gate::Whole || !overlap;
            for stream in streams {
                let (first, last) = mean.transfer(graph.streams[stream].bytes);
                let producer = graph.streams[stream].task;
                let work = graph.tasks[producer].work;
                let after = |before: Time, cost: Time, rest: Time| before.saturating_add(cost).saturating_add(rest);
                let (rank, rest) = match waits {
                    true => (after(work.total, last, ranks[task]), after(work.tail, last, ranks[task])),
                    false => {
                        let through = after(work.total, last, rests[task]);
                        (through.max(after(work.head, first, ranks[task])), after(work.tail, last, rests[task]))
                    }
                };
                ranks[producer] = ranks[producer].max(rank);
                rests[producer] = rests[producer].max(rest);
            }
        }
    }
    ranks
}

/// The tasks in the order of their ranks, highest first; producers stay before consumers.
pub(super) fn order(ranks: &[Time]) -> Vec<TaskId> {
    let mut order: Vec<TaskId> = (0..ranks.len()).collect();
    // Stable: tasks without work stay in the order of the graph.
    order.sort_by_key(|task| std::cmp::Reverse(ranks[*task]));
    order
}

/// The average over all pairs of nodes.
struct MeanLink {
    bandwidth: u64,
    latency: Time,
    /// The share of pairs with different nodes, in thousandths.
    apart: u64,
}

impl MeanLink {
    fn of(problem: &Problem<'_>) -> Self {
        let nodes = problem.nodes.len() as u64;
        let link = problem.network.default;
        let latency = u64::try_from(link.latency.as_nanos()).unwrap_or(u64::MAX / 4);
        Self { bandwidth: link.bandwidth, latency, apart: 1000 - 1000 / nodes.max(1) }
    }

    /// How long the first and the last byte are under way.
    fn transfer(&self, bytes: u64) -> (Time, Time) {
        let share = |time: Time| (u128::from(time) * u128::from(self.apart) / 1000) as Time;
        (share(self.latency), share(self.latency.saturating_add(duration(bytes, self.bandwidth))))
    }
}
