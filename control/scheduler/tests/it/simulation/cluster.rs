//! Several machines that decide a run together, each with its simulated node. Facts between two of them arrive in order, and
//! late; so does the data of a stream, by another way.

use super::Choices;
use super::generate::Case;
use super::node::{MOST_STEPS, Machine, Move, Node, Process, StreamState, options};
use dflow_scheduler::{Event, Fact, InstanceId, InstanceState, Place, RunOptions, RunState, Scope, StreamId};
use dflow_workflow::FunctionId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

pub struct Cluster<'a> {
    nodes: Vec<Node<'a>>,
    links: BTreeMap<(Place, Place), VecDeque<Fact>>,
    choices: Choices,
    /// The coordinator does nothing for so many steps.
    coordinator_sleeps: usize,
    /// Where the instances of each function run.
    places: BTreeMap<FunctionId, Vec<Place>>,
    /// How many nodes may still be lost.
    losses: usize,
    lost: BTreeMap<Place, Loss>,
    log: Vec<String>,
}

/// A node that is lost.
struct Loss {
    /// The coordinator knows.
    is_known: bool,
    /// It goes on, and only its links are cut.
    lives: bool,
    /// What had ended there.
    finished: BTreeMap<InstanceId, (u32, Process)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// A node crashes, or (`true`) is cut off.
    Lose(Place, bool),
    /// The coordinator hears of it.
    Report(Place),
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
        let functions = (0..case.flow.0.functions.len() as u32).map(FunctionId);
        let places = functions.map(|function| match options.placement.places_of(function) {
            [] => (function, vec![0]),
            places => (function, places.to_vec()),
        });
        let places = places.collect();
        let node = |place: usize| {
            let options = RunOptions { scope: Scope::Node(place as Place), ..options.clone() };
            let seed = 7 + place as u64;
            Node::new(case, options, Choices::new(Vec::new(), seed), machine)
        };
        let nodes = (0..machine.slots.len()).map(node).collect();
        let mut cluster = Cluster {
            nodes,
            links: BTreeMap::new(),
            choices,
            coordinator_sleeps: 0,
            places,
            losses: machine.losses,
            lost: BTreeMap::new(),
            log: Vec::new(),
        };
        cluster.collect();
        let mut steps = 0;
        while !cluster.nodes[0].over {
            steps += 1;
            assert!(steps < MOST_STEPS, "no end\n{}", cluster.story());
            if cluster.coordinator_sleeps == 0 && cluster.choices.once_in(400) {
                cluster.coordinator_sleeps = 200;
            }
            cluster.coordinator_sleeps = cluster.coordinator_sleeps.saturating_sub(1);
            cluster.note_sent();
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
            if self.lost.get(&(place as Place)).is_some_and(|loss| !loss.lives) {
                continue;
            }
            let node = &mut self.nodes[place];
            node.gone.clone_from(&gone);
            steps.extend(node.moves().into_iter().map(|next| Step::Node(place, next)));
        }
        for (&(from, to), facts) in &self.links {
            let is_listening = !self.lost.contains_key(&to) && (to > 0 || self.coordinator_sleeps == 0);
            if !facts.is_empty() && is_listening {
                steps.push(Step::Fact(from, to));
            }
        }
        let reported = self.lost.iter().filter(|(_, loss)| !loss.is_known).map(|(place, _)| *place);
        if self.coordinator_sleeps == 0 {
            steps.extend(reported.map(Step::Report));
        }
        if self.losses > 0 && self.nodes.len() > 1 && self.choices.once_in(100) {
            let place = 1 + self.choices.below(self.nodes.len() - 1) as Place;
            let lives = self.choices.once_in(2);
            if !self.lost.contains_key(&place) {
                steps.push(Step::Lose(place, lives));
            }
        }
        for place in 0..self.nodes.len() {
            if !self.lost.contains_key(&(place as Place)) && (place > 0 || self.coordinator_sleeps == 0) {
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
            if self.lost.contains_key(&(writer as Place)) {
                continue;
            }
            let Some(there) = self.nodes[writer].streams.get(&id) else { continue };
            if there.base != stream.base || there.state == StreamState::Aborted {
                continue;
            }
            let source = &self.nodes[writer];
            let expected = there.readers.keys().any(|(reader, _)| {
                source.place_of(*reader) as usize == place && !source.has_ended(*reader) && !node.has_ended(*reader)
            });
            let is_gone = !there.is_input() && there.sent;
            assert!(!expected || !is_gone || stream.bytes, "{id} comes to place {place} too late\n{}", self.story());
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
                    let place = node.place_of(reader);
                    if self.lost.contains_key(&place) {
                        continue;
                    }
                    let owner = &self.nodes[place as usize];
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
            Step::Lose(place, lives) => {
                self.losses -= 1;
                let node = &mut self.nodes[place as usize];
                let finished = std::mem::take(&mut node.finished);
                let finished = finished.into_iter().map(|(id, process)| (id, (process.attempt, process))).collect();
                if !lives {
                    node.processes.clear();
                }
                self.lost.insert(place, Loss { is_known: false, lives, finished });
                // What it has told last may arrive, or not.
                for (&(from, to), facts) in &mut self.links {
                    if to == place {
                        facts.clear();
                    } else if from == place {
                        facts.truncate(self.choices.below(facts.len() + 1));
                    }
                }
            }
            Step::Report(place) => {
                self.lost.get_mut(&place).expect("it is lost").is_known = true;
                let event =
                    Event::NodeLost { place, reason: format!("node {place} is lost"), places: self.without(place) };
                self.nodes[0].make(Move::Tell(event));
            }
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
                if self.lost.contains_key(&(from as Place)) || self.lost.contains_key(&to) {
                    continue;
                }
                self.links.entry((from as Place, to)).or_default().push_back(fact);
            }
        }
    }

    /// The lists of places of the functions that have this one, with others in its stead.
    fn without(&mut self, place: Place) -> Vec<(FunctionId, Vec<Place>)> {
        let left: Vec<Place> = (0..self.nodes.len() as Place).filter(|place| !self.lost.contains_key(place)).collect();
        let mut changed = Vec::new();
        for (&function, places) in self.places.iter_mut().filter(|(_, places)| places.contains(&place)) {
            for other in places.iter_mut().filter(|other| self.lost.contains_key(other)) {
                *other = left[self.choices.below(left.len())];
            }
            changed.push((function, places.clone()));
        }
        changed
    }

    /// A store releases what the other nodes have, and no reader on its own reads again.
    fn note_sent(&mut self) {
        for place in 0..self.nodes.len() {
            let node = &self.nodes[place];
            let mut sent = Vec::new();
            for (&id, stream) in &node.streams {
                let is_over = stream.sent
                    || stream.is_input()
                    || stream.held
                    || !stream.bytes
                    || stream.state == StreamState::Aborted;
                let mut far = stream.readers.keys().filter(|(reader, _)| !node.owns(*reader)).peekable();
                if is_over || node.keeps_all() || !node.writes(id) || far.peek().is_none() || !node.is_read_here(id) {
                    continue;
                }
                let has_come = |reader: InstanceId| {
                    let there = &self.nodes[node.place_of(reader) as usize].streams.get(&id);
                    there.is_some_and(|there| there.base == stream.base && there.bytes)
                };
                if far.all(|(reader, _)| has_come(*reader)) {
                    sent.push(id);
                }
            }
            for id in sent {
                self.nodes[place].streams.get_mut(&id).expect("it exists").sent = true;
            }
        }
    }

    fn check_end(&self) {
        let coordinator = &self.nodes[0];
        if *coordinator.machine.state() != RunState::Committed {
            let left = (0..)
                .zip(&self.nodes)
                .any(|(place, node)| !self.lost.contains_key(&place) && !node.processes.is_empty());
            assert!(!left, "failed while something runs\n{}", self.story());
            return;
        }
        if std::env::var_os("DFLOW_STORY").is_some() {
            eprintln!("{}", self.story());
        }
        coordinator.check_states();
        for view in coordinator.machine.instances().filter(|view| view.state == InstanceState::Ended) {
            let there = self.nodes[view.place as usize].finished.get(&view.id);
            let process = there.filter(|process| process.attempt == view.attempt).or_else(|| {
                let lost = self.lost.values().filter_map(|loss| loss.finished.get(&view.id));
                lost.filter(|(attempt, _)| *attempt == view.attempt).map(|(_, process)| process).next()
            });
            coordinator.check_final_inputs(view.id, view.attempt, process);
        }
    }
}
