//! Improves a placement step by step.

use super::dflow::Score;
use crate::options::Place;
use crate::planner::capacity::Time;
use crate::planner::graph::{Graph, TaskId};
use crate::planner::problem::Problem;

/// How many instances may be simulated: a small workflow is searched thoroughly, a large one is left as it is.
const BUDGET: usize = 20_000;
/// One instance is simulated for so many nanoseconds of the predicted run. A simulation takes half a microsecond for an
/// instance and there are up to five searches, so a short run is not planned for longer than a hundredth of its time.
const RUN_PER_INSTANCE: Time = 250_000;
/// With more nodes than this, an instance is moved only to the first node and to those of its producers.
const FEW_NODES: usize = 8;
/// With more instances than this, no two are exchanged: there are too many pairs.
const FEW_TASKS: usize = 64;

/// Changes places as long as that is better. Returns the score of the result with it.
///
/// A step moves an instance, alone or together with one of its producers, or exchanges two instances of different
/// nodes.
pub(super) fn improve(
    problem: &Problem<'_>,
    graph: &Graph,
    fixed: &[Option<Place>],
    places: Vec<Place>,
) -> (Score, Vec<Place>) {
    let best = Score::of(problem, graph, &places);
    let movable: Vec<TaskId> = (0..graph.tasks.len()).filter(|task| fixed[*task].is_none()).collect();
    let mut search = Search { problem, graph, places, best, left: steps(best.end(), graph.tasks.len()) };
    let mut since_improved = 0;
    // From the end: the last instances decide when the run ends.
    for &task in movable.iter().rev().cycle() {
        if search.left == 0 || since_improved == movable.len() {
            break;
        }
        since_improved += 1;
        for step in search.steps(task, fixed, &movable) {
            if search.try_step(&step) {
                since_improved = 0;
            }
        }
    }
    (search.best, search.places)
}

/// How many steps may be tried for a run that is predicted to end then.
fn steps(end: Time, instances: usize) -> usize {
    let budget = usize::try_from(end / RUN_PER_INSTANCE).unwrap_or(BUDGET).min(BUDGET);
    budget / instances.max(1)
}

/// Instances and where they go.
type Step = Vec<(TaskId, Place)>;

struct Search<'a> {
    problem: &'a Problem<'a>,
    graph: &'a Graph,
    places: Vec<Place>,
    best: Score,
    /// How many steps may still be tried.
    left: usize,
}

impl Search<'_> {
    /// The steps that begin with an instance.
    fn steps(&self, task: TaskId, fixed: &[Option<Place>], movable: &[TaskId]) -> Vec<Step> {
        let producers: Vec<TaskId> = self.producers(task).filter(|producer| fixed[*producer].is_none()).collect();
        let mut steps: Vec<Step> = Vec::new();
        for place in self.targets(task) {
            steps.push(vec![(task, place)]);
            steps.extend(producers.iter().map(|producer| vec![(task, place), (*producer, place)]));
        }
        if movable.len() <= FEW_TASKS {
            let others = movable.iter().filter(|other| self.places[**other] != self.places[task]);
            steps.extend(others.map(|other| vec![(task, self.places[*other]), (*other, self.places[task])]));
        }
        steps
    }

    /// Takes a step if it is an improvement.
    fn try_step(&mut self, step: &Step) -> bool {
        let changes: Step = step.iter().copied().filter(|(task, place)| self.places[*task] != *place).collect();
        if self.left == 0 || changes.is_empty() {
            return false;
        }
        self.left -= 1;
        let before: Step = changes.iter().map(|(task, _)| (*task, self.places[*task])).collect();
        self.apply(&changes);
        let now = Score::of(self.problem, self.graph, &self.places);
        let is_better = now.is_better_than(self.best, self.graph);
        if is_better {
            self.best = now;
        } else {
            self.apply(&before);
        }
        is_better
    }

    fn apply(&mut self, step: &Step) {
        for (task, place) in step {
            self.places[*task] = *place;
        }
    }

    fn producers(&self, task: TaskId) -> impl Iterator<Item = TaskId> {
        let streams = self.graph.read(task).flat_map(|(_, streams)| streams);
        streams.map(|stream| self.graph.streams[stream].task).take(FEW_NODES)
    }

    fn targets(&self, task: TaskId) -> Vec<Place> {
        if self.problem.nodes.len() <= FEW_NODES {
            return self.problem.places().collect();
        }
        let mut targets: Vec<Place> = self.producers(task).map(|producer| self.places[producer]).collect();
        targets.push(0);
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::steps;

    #[test]
    fn short_runs_and_large_workflows_are_searched_less() {
        const SECOND: u64 = 1_000_000_000;
        assert_eq!((steps(60 * SECOND, 50), steps(u64::MAX, 50)), (400, 400));
        assert_eq!((steps(SECOND, 50), steps(SECOND / 100, 50), steps(SECOND / 100, 8)), (80, 0, 5));
        assert_eq!((steps(60 * SECOND, 10_000), steps(60 * SECOND, 100_000), steps(0, 0)), (2, 0, 0));
    }
}
