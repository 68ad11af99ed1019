//! Several machines that decide a run together, each with its simulated node. Facts between two of them arrive in order, and
//! late; so does the data of a stream, by another way.

use super::Choices;
use super::generate::Case;
use super::node::{MOST_STEPS, Machine, Move, Node, Process, StreamState, options};
use dflow_scheduler::{Event, Fact, InstanceId, InstanceState, Place, RunOptions, RunState, Scope, StreamId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

pub struct Cluster<'a> {
    nodes: Vec<Node<'a>>,
    links: BTreeMap<(Place, Place), VecDeque<Fact>>,
    choices: Choices,
    /// The coordinator does nothing for so many steps.
    coordinator_sleeps: usize,
    log: Vec<String>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Something happens on a node.
    Node(usize, Move),
    /// A fact arrives.
    Fact(Place, Place),
    /// Data of a stream arrives, or its end does.
    Data(usize, StreamId, bool),
    /// The coordinator goes on.
    WakeUp,
}

impl<'a> Cluster<'a> {
    /// Runs it to its end. Returns a digest of everything that has happened.
    pub fn run(case: &'a Case, mut choices: Choices, machine: &Machine) -> u64 {
        let options = options(case, &mut choices, machine);
        let node = |place: usize| {
            let options = RunOptions { scope: Scope::Node(place as Place), ..options.clone() };
            let seed = 7 + place as u64;
            Node::new(case, options, Choices::new(Vec::new(), seed), machine)
        };
        let nodes = (0..machine.slots.len()).map(node).collect();
        let mut cluster = Cluster { nodes, links: BTreeMap::new(), choices, coordinator_sleeps: 0, log: Vec::new() };
        cluster.collect();
        let mut steps = 0;
        while !cluster.nodes[0].over {
            steps += 1;
            assert!(steps < MOST_STEPS, "no end\n{}", cluster.story());
            if cluster.coordinator_sleeps == 0 && cluster.choices.once_in(400) {
                cluster.coordinator_sleeps = 200;
            }
            cluster.coordinator_sleeps = cluster.coordinator_sleeps.saturating_sub(1);
            let mut possible = cluster.steps();
            if possible.is_empty() && cluster.coordinator_sleeps > 0 {
                possible.push(Step::WakeUp);
            }
            assert!(!possible.is_empty(), "stuck\n{}", cluster.story());
            let step = possible[cluster.choices.below(possible.len())].clone();
            cluster.make(step);
        }
        cluster.check_end();
        let mut digest = DefaultHasher::new();
        cluster.log.hash(&mut digest);
        digest.finish()
    }

    fn story(&self) -> String {
        let from = self.log.len().saturating_sub(60);
        let nodes: Vec<String> =
            self.nodes.iter().enumerate().map(|(place, node)| format!("PLACE {place}\n{}", node.story())).collect();
        let links: Vec<String> = self.links.iter().map(|(link, facts)| format!("{link:?}: {facts:?}")).collect();
        format!("{}\n{}\n{}", nodes.join("\n"), self.log[from..].join("\n"), links.join("\n"))
    }

    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let gone = self.readers_gone();
        for place in 0..self.nodes.len() {
            if place == 0 && self.coordinator_sleeps > 0 {
                continue;
            }
            let node = &mut self.nodes[place];
            node.gone.clone_from(&gone);
            steps.extend(node.moves().into_iter().map(|next| Step::Node(place, next)));
        }
        for (&(from, to), facts) in &self.links {
            if !facts.is_empty() && (to > 0 || self.coordinator_sleeps == 0) {
                steps.push(Step::Fact(from, to));
            }
        }
        for place in 0..self.nodes.len() {
            if place > 0 || self.coordinator_sleeps == 0 {
                steps.extend(self.arriving(place).into_iter().map(|(id, end)| Step::Data(place, id, end)));
            }
        }
        steps
    }

    /// The streams of other places that a place reads and of which it has less than their writers.
    fn arriving(&self, place: usize) -> Vec<(StreamId, bool)> {
        let node = &self.nodes[place];
        let mut arriving = Vec::new();
        for (&id, stream) in &node.streams {
            let is_read = stream.readers.keys().any(|(reader, _)| node.owns(*reader));
            if !is_read || stream.state == StreamState::Aborted || node.writes(id) {
                continue;
            }
            let writer = match stream.producer {
                dflow_scheduler::Producer::WorkflowInput { .. } => 0,
                dflow_scheduler::Producer::Instance { instance, .. } => node.place_of(instance) as usize,
            };
            let Some(there) = self.nodes[writer].streams.get(&id) else { continue };
            if there.base != stream.base || there.state == StreamState::Aborted {
                continue;
            }
            if there.bytes && !stream.bytes {
                arriving.push((id, false));
            } else if there.whole && !stream.whole {
                arriving.push((id, true));
            }
        }
        arriving
    }

    /// As the nodes of the readers see it.
    fn readers_gone(&self) -> BTreeSet<(StreamId, InstanceId, u32)> {
        let mut gone = BTreeSet::new();
        for node in &self.nodes {
            for (&id, stream) in &node.streams {
                for (&(reader, input), restartable) in &stream.readers {
                    let owner = &self.nodes[node.place_of(reader) as usize];
                    let there = owner.streams.get(&id).filter(|there| there.base == stream.base);
                    // A reader that its node does not know yet will come.
                    let Some(there) = there else { continue };
                    let known = owner.subscribed.contains(&(id, reader, input));
                    let unsubscribed = known && !there.readers.contains_key(&(reader, input));
                    if unsubscribed || (known && !restartable && owner.is_through(reader, id)) {
                        gone.insert((id, reader, input));
                    }
                }
            }
        }
        gone
    }

    fn make(&mut self, step: Step) {
        self.log.push(format!("{step:?}"));
        match step {
            Step::Node(place, next) => self.nodes[place].make(next),
            Step::Fact(from, to) => {
                let fact = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("there is one");
                self.nodes[to as usize].make(Move::Tell(Event::Fact { from, fact }));
            }
            Step::Data(place, stream, end) => {
                let epoch = self.nodes[place].streams[&stream].epoch;
                let event = match end {
                    true => Event::Finished { stream, epoch, length: 7 },
                    false => Event::FirstBytes { stream, epoch },
                };
                self.nodes[place].make(Move::Tell(event));
            }
            Step::WakeUp => self.coordinator_sleeps = 0,
        }
        self.collect();
        if self.nodes.iter().any(|node| node.loses) {
            self.nodes.iter_mut().for_each(|node| node.loses = true);
        }
        if self.nodes.iter().any(|node| node.excused) {
            self.nodes.iter_mut().for_each(|node| node.excused = true);
        }
    }

    fn collect(&mut self) {
        for from in 0..self.nodes.len() {
            for (to, fact) in std::mem::take(&mut self.nodes[from].outbox) {
                assert_ne!(to as usize, from, "a node tells itself");
                self.links.entry((from as Place, to)).or_default().push_back(fact);
            }
        }
    }

    fn check_end(&self) {
        let coordinator = &self.nodes[0];
        if *coordinator.machine.state() != RunState::Committed {
            let left = self.nodes.iter().any(|node| !node.processes.is_empty());
            assert!(!left, "failed while something runs\n{}", self.story());
            return;
        }
        coordinator.check_states();
        for view in coordinator.machine.instances().filter(|view| view.state == InstanceState::Ended) {
            let process: Option<&Process> = self.nodes[view.place as usize].finished.get(&view.id);
            coordinator.check_final_inputs(view.id, view.attempt, process);
        }
    }
}
