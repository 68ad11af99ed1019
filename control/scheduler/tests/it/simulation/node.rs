//! The simulated nodes, as one: a store without bytes and processes without code, which do what real ones may do in any
//! order. What may happen next is in `moves`.

mod moves;

use super::Choices;
use super::check::Checks;
use super::generate::Case;
use dflow_scheduler::{
    Action, Epoch, Event, Fact, InstanceId, InstanceKind, InstanceState, Outcome, Place, PlaceOptions, Producer,
    RunMachine, RunOptions, Scope, StreamCopy, StreamId,
};
use dflow_workflow::{FunctionId, Partition, SwitchOn, Workflow};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub struct Node<'a> {
    pub case: &'a Case,
    pub workflow: Arc<Workflow>,
    pub machine: RunMachine,
    scope: Scope,
    /// Of each place.
    pub slots: Vec<u32>,
    pub choices: Choices,
    pub now: Duration,
    timer: Option<Duration>,
    /// What the machine tells other places, in order.
    pub outbox: VecDeque<(Place, Fact)>,
    /// Places from which nothing comes any more.
    pub forsaken: BTreeSet<Place>,
    /// How often the store was asked what it has, and has not answered; and whether it releases nothing for now.
    surveys: usize,
    surveyed: bool,
    /// Readers on other places that have let a stream go.
    pub gone: BTreeSet<(StreamId, InstanceId, u32)>,
    /// Every subscription that there ever was.
    pub subscribed: BTreeSet<(StreamId, InstanceId, u32)>,
    pub processes: BTreeMap<InstanceId, Process>,
    /// The last attempt of each instance that has ended well; of its streams, the epoch with which the bytes begin.
    pub finished: BTreeMap<InstanceId, Process>,
    pub streams: BTreeMap<StreamId, Stream>,
    /// The streams attached to the present attempt of each instance and to the attempts that it continues.
    pub given: BTreeMap<InstanceId, BTreeMap<StreamId, Epoch>>,
    values: BTreeSet<(StreamId, Epoch)>,
    /// How many attempts may still fail, and in how many steps of each one does.
    failures: usize,
    rarely: usize,
    /// Parks and resumptions for no reason.
    whims: usize,
    /// Attempts that have ended, and of which the machine has not taken notice.
    ending: BTreeMap<InstanceId, u32>,
    /// The last attempt of each instance that has ended.
    last_ended: BTreeMap<InstanceId, u32>,
    /// A candidate of a choice has failed.
    pub loses: bool,
    /// Something has happened for which a run may fail.
    pub excused: bool,
    pub over: bool,
    log: Vec<String>,
}

/// Random options for a run of this workflow on these nodes.
pub fn options(case: &Case, choices: &mut Choices, node: &Machine) -> RunOptions {
    let workflow = &case.flow.0;
    let (prepare_ahead, max_started) = (node.prepare_ahead, node.max_started);
    let place = |&slots: &u32| PlaceOptions { slots, prepare_ahead, max_started };
    let count = node.slots.len();
    let placement = (0..workflow.functions.len() as u32).filter_map(|function| {
        let places: Vec<Place> = (0..choices.below(4)).map(|_| choices.below(count) as Place).collect();
        (!places.is_empty()).then_some((FunctionId(function), places))
    });
    RunOptions {
        scope: Scope::WholeRun,
        places: node.slots.iter().map(place).collect(),
        placement: placement.collect(),
        invocation: case.invocation,
        params: BTreeMap::new(),
        input_parts: case.input_parts.clone(),
    }
}

/// The parameters of the simulated node of a run.
pub struct Machine {
    /// The slots of each place; there is at least one place.
    pub slots: Vec<u32>,
    pub prepare_ahead: u32,
    pub max_started: u32,
    /// The number of attempts that may fail, and the average number of steps until one does.
    pub failures: usize,
    pub rarely: usize,
    /// The number of nodes that may be lost.
    pub losses: usize,
}

/// A living attempt.
#[derive(Debug)]
pub struct Process {
    pub kind: InstanceKind,
    pub attempt: u32,
    pub state: State,
    /// For each input the streams, with the epoch with which their bytes begin.
    pub inputs: BTreeMap<u32, Vec<(StreamId, Epoch)>>,
    pub complete: BTreeSet<u32>,
    /// For each discovered output: how many parts are still to be opened; `None` when it is said to be complete.
    parts: BTreeMap<u32, Option<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Spawning,
    Ready,
    Running { parked: bool },
    Dying { started: bool, parked: bool },
}

#[derive(Debug)]
pub struct Stream {
    pub producer: Producer,
    pub epoch: Epoch,
    /// The epoch with which the bytes begin.
    pub base: Epoch,
    pub state: StreamState,
    pub bytes: bool,
    /// It has been finished since the epoch with which the bytes begin.
    pub whole: bool,
    pub held: bool,
    /// Reader, its input, and whether it may be started again.
    pub readers: BTreeMap<(InstanceId, u32), bool>,
    /// Bytes from offset 0 on are gone.
    pub released: bool,
    /// Readers on other places have all of its bytes, and no reader on this one needs any.
    pub sent: bool,
    /// Something in the workflow reads it.
    pub read: bool,
}

impl Stream {
    /// The files of a workflow input can be read as often as they are needed.
    pub fn is_input(&self) -> bool {
        matches!(self.producer, Producer::WorkflowInput { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    Open,
    Finished,
    Suspended,
    Aborted,
}

#[derive(Clone, Debug)]
pub enum Move {
    Tell(Event),
    Fire,
    End(InstanceId, Outcome),
    Park(InstanceId, bool),
    OpenPart(InstanceId, u32),
    CompleteParts(InstanceId, u32),
}

pub const MOST_STEPS: usize = 60_000;

impl<'a> Node<'a> {
    pub fn run(case: &'a Case, mut choices: Choices, node: &Machine) {
        let options = options(case, &mut choices, node);
        let mut node = Node::new(case, options, choices, node);
        let mut steps = 0;
        while !node.over {
            steps += 1;
            let moves = node.moves();
            assert!(!moves.is_empty(), "stuck\n{}", node.story());
            assert!(steps < MOST_STEPS, "no end\n{}", node.story());
            let next = moves[node.choices.below(moves.len())].clone();
            node.make(next);
        }
        let silent = node.machine.handle(node.now, Event::TimerFired);
        assert!(silent.is_empty(), "after the end: {silent:?}");
    }

    pub fn new(case: &'a Case, options: RunOptions, choices: Choices, node: &Machine) -> Self {
        let workflow = Arc::new(case.flow.0.clone());
        let scope = options.scope;
        let (machine, actions) = RunMachine::new(Arc::clone(&workflow), options).expect("the options fit");
        let mut node = Node {
            case,
            workflow,
            machine,
            scope,
            slots: node.slots.clone(),
            choices,
            now: Duration::ZERO,
            timer: None,
            outbox: VecDeque::new(),
            forsaken: BTreeSet::new(),
            surveys: 0,
            surveyed: false,
            gone: BTreeSet::new(),
            subscribed: BTreeSet::new(),
            processes: BTreeMap::new(),
            finished: BTreeMap::new(),
            streams: BTreeMap::new(),
            given: BTreeMap::new(),
            values: BTreeSet::new(),
            failures: node.failures,
            rarely: node.rarely,
            whims: 20,
            ending: BTreeMap::new(),
            last_ended: BTreeMap::new(),
            loses: false,
            excused: false,
            over: false,
            log: Vec::new(),
        };
        node.take(actions);
        node
    }

    /// The history, for the message of a failed check.
    pub fn story(&self) -> String {
        let views: Vec<String> = self
            .machine
            .instances()
            .map(|v| format!("{} {} {:?} #{} at {}", v.id, v.name, v.state, v.attempt, v.place))
            .collect();
        let most = if std::env::var_os("DFLOW_STORY").is_some() { usize::MAX } else { 400 };
        let from = self.log.len().saturating_sub(most);
        format!("{}\n{}\n{}", self.case, self.log[from..].join("\n"), views.join("\n"))
    }

    pub fn make(&mut self, next: Move) {
        let excused_before = self.excused;
        let event = match next {
            Move::Tell(event) => event,
            Move::Fire => {
                self.now = self.now.max(self.timer.take().unwrap_or_default());
                Event::TimerFired
            }
            Move::End(instance, outcome) => {
                let process = self.processes.remove(&instance).expect("it lives");
                if matches!(outcome, Outcome::Failed { .. }) && !matches!(process.state, State::Dying { .. }) {
                    self.failures -= 1;
                    self.excused = true;
                }
                let attempt = process.attempt;
                self.last_ended.insert(instance, attempt);
                if outcome == Outcome::Succeeded {
                    let mut process = process;
                    for (stream, base) in process.inputs.values_mut().flatten() {
                        if !self.streams[stream].bytes {
                            // There was nothing to read, so it does not matter what becomes of it.
                            *base = Epoch(0);
                        }
                    }
                    self.finished.insert(instance, process);
                }
                Event::Ended { instance, attempt, outcome }
            }
            Move::Park(instance, parked) => {
                self.whims = self.whims.saturating_sub(1);
                let process = self.processes.get_mut(&instance).expect("it lives");
                process.state = State::Running { parked };
                let attempt = process.attempt;
                match parked {
                    true => Event::Parked { instance, attempt },
                    false => Event::Resumed { instance, attempt },
                }
            }
            Move::OpenPart(instance, output) => {
                let process = self.processes.get_mut(&instance).expect("it lives");
                let left = process.parts.get_mut(&output).and_then(Option::as_mut).expect("it opens parts");
                *left -= 1;
                Event::PartOpened { instance, attempt: process.attempt, output }
            }
            Move::CompleteParts(instance, output) => {
                let process = self.processes.get_mut(&instance).expect("it lives");
                process.parts.insert(output, None);
                Event::PartsComplete { instance, attempt: process.attempt, output }
            }
        };
        match &event {
            Event::FirstBytes { stream, epoch } => {
                if let Some(stream) = self.streams.get_mut(stream).filter(|stream| stream.epoch == *epoch) {
                    stream.bytes = true;
                }
            }
            Event::Finished { stream, epoch, .. } => {
                if let Some(stream) = self.streams.get_mut(stream).filter(|stream| stream.epoch == *epoch) {
                    stream.bytes = true;
                    stream.whole = true;
                    if stream.state == StreamState::Open {
                        stream.state = StreamState::Finished;
                    }
                }
            }
            Event::Value { stream, epoch, text } => {
                self.values.remove(&(*stream, *epoch));
                self.excused |= text.is_err() || text.as_deref() == Ok("c");
            }
            Event::Cancel { .. } => self.excused = true,
            Event::Surveyed { .. } => self.surveys -= 1,
            _ => {}
        }
        if let Event::Ready { instance, attempt } = &event
            && let Some(process) = self.processes.get_mut(instance)
            && process.attempt == *attempt
        {
            process.state = State::Ready;
        }
        self.log.push(format!("{:?} < {event:?}", self.now));
        let ended = match &event {
            Event::Ended { instance, attempt, .. } => Some((*instance, *attempt)),
            _ => None,
        };
        let actions = self.machine.handle(self.now, event);
        if let Some((instance, _)) = ended
            && self.machine.view(instance).is_some_and(|view| view.state == InstanceState::Lost)
        {
            // The run continues without it, so this does not fail the run; unless a fan-in on another place has already
            // chosen it for good.
            self.excused = excused_before || self.here().is_some();
            self.loses = true;
            self.check_lost(instance);
        }
        // A machine that has promised to leave an instance as it is sets its end aside for a while.
        self.ending.extend(ended);
        let mut over = Vec::new();
        for (instance, attempt) in std::mem::take(&mut self.ending) {
            let Some(view) = self.machine.view(instance).filter(|view| view.attempt == attempt) else { continue };
            if !matches!(view.state, InstanceState::Ended | InstanceState::Unread) {
                self.ending.insert(instance, attempt);
                continue;
            }
            if view.state == InstanceState::Unread {
                // It may even have failed, if no reader is affected.
                self.check_unread(instance);
            }
            self.finish_streams(instance);
            over.push(instance);
        }
        self.take(actions);
        // A frozen machine opens the parts of an attempt after its end.
        over.into_iter().for_each(|instance| self.finish_streams(instance));
    }

    fn finish_streams(&mut self, instance: InstanceId) {
        for stream in self.streams.values_mut() {
            let own = matches!(stream.producer, Producer::Instance { instance: of, .. } if of == instance);
            if own && matches!(stream.state, StreamState::Open | StreamState::Finished) {
                stream.state = StreamState::Finished;
                stream.bytes = true;
                stream.whole = true;
            }
        }
    }

    /// The place for whose instances the machine decides, if not for all.
    pub fn here(&self) -> Option<Place> {
        match self.scope {
            Scope::WholeRun => None,
            Scope::Node(place) => Some(place),
        }
    }

    pub fn place_of(&self, id: InstanceId) -> Place {
        self.machine.view(id).map_or(0, |view| view.place)
    }

    /// Whether the instance is one of this place.
    pub fn owns(&self, id: InstanceId) -> bool {
        self.here().is_none_or(|here| self.place_of(id) == here)
    }

    /// Whether the stream is written on this place.
    pub fn writes(&self, stream: StreamId) -> bool {
        match self.streams[&stream].producer {
            Producer::WorkflowInput { .. } => self.here().is_none_or(|here| here == 0),
            Producer::Instance { instance, .. } => self.owns(instance),
        }
    }

    /// Whether the reader has ended, and not because of an earlier epoch that is void now.
    pub fn is_through(&self, reader: InstanceId, stream: StreamId) -> bool {
        let base = self.streams[&stream].base;
        let read = self.given.get(&reader).and_then(|given| given.get(&stream));
        self.has_ended(reader) && read.is_none_or(|read| *read == base)
    }

    pub fn has_ended(&self, id: InstanceId) -> bool {
        let state = self.machine.view(id).map(|view| view.state);
        matches!(state, Some(InstanceState::Ended | InstanceState::Unread))
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.log.push(format!("{:?} > {action:?}", self.now));
            if self.is_too_late(&action) {
                continue;
            }
            self.check(&action);
            self.apply(action);
        }
        self.release();
    }

    /// A frozen machine takes notice of an end when it goes on. Until then, what it wants of the attempt has no effect.
    fn is_too_late(&self, action: &Action) -> bool {
        match action {
            Action::AddInput { instance, attempt, .. }
            | Action::InputsComplete { instance, attempt, .. }
            | Action::Start { instance, attempt }
            | Action::Kill { instance, attempt, .. } => {
                !self.forsaken.is_empty() && self.last_ended.get(instance) == Some(attempt)
            }
            _ => false,
        }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::OpenStream { stream, epoch, producer, continues, read, .. } => {
                self.open(stream, epoch, producer, continues, read)
            }
            Action::Subscribe { stream, consumer, input, restartable } => {
                self.subscribed.insert((stream, consumer, input));
                let stream = self.streams.get_mut(&stream).expect("it is open");
                stream.readers.insert((consumer, input), restartable);
            }
            Action::Unsubscribe { stream, consumer, input } => {
                self.streams.get_mut(&stream).expect("it exists").readers.remove(&(consumer, input));
            }
            Action::Hold { stream } => self.streams.get_mut(&stream).expect("it exists").held = true,
            Action::Unhold { stream } => self.streams.get_mut(&stream).expect("it exists").held = false,
            Action::Prepare { instance, attempt } => self.spawn(instance, attempt, State::Spawning),
            Action::Start { instance, attempt } => {
                if !self.processes.contains_key(&instance) {
                    self.spawn(instance, attempt, State::Ready);
                }
                self.process(instance).state = State::Running { parked: false };
            }
            Action::AddInput { instance, attempt, input, stream, .. } => {
                if !self.processes.contains_key(&instance) {
                    self.spawn(instance, attempt, State::Ready);
                }
                let base = self.streams[&stream].base;
                self.given.entry(instance).or_default().insert(stream, base);
                self.process(instance).inputs.entry(input).or_default().push((stream, base));
            }
            Action::InputsComplete { instance, input, .. } => {
                self.process(instance).complete.insert(input);
            }
            Action::Kill { instance, .. } => {
                let process = self.process(instance);
                let (started, parked) = match process.state {
                    State::Running { parked } => (true, parked),
                    _ => (false, false),
                };
                process.state = State::Dying { started, parked };
            }
            Action::Abort { stream, .. } => {
                self.streams.get_mut(&stream).expect("it exists").state = StreamState::Aborted;
            }
            Action::Suspend { stream, .. } => {
                self.streams.get_mut(&stream).expect("it exists").state = StreamState::Suspended;
            }
            Action::ReadValue { stream, epoch } => {
                self.values.insert((stream, epoch));
            }
            Action::Tell { to, fact } => self.outbox.extend(to.into_iter().map(|place| (place, fact.clone()))),
            Action::WakeAt(at) => self.timer = Some(at),
            Action::Forsake { places } => self.forsaken.extend(places),
            Action::Survey => {
                self.surveys += 1;
                self.surveyed = true;
            }
            Action::EndSurvey => self.surveyed = false,
            Action::Committed | Action::RunFailed { .. } => self.over = true,
        }
    }

    fn open(&mut self, id: StreamId, epoch: Epoch, producer: Producer, continues: bool, read: bool) {
        let old = self.streams.remove(&id);
        let given = matches!(producer, Producer::WorkflowInput { .. }) && self.here().is_none_or(|here| here == 0);
        let base = if continues { old.as_ref().map_or(epoch, |old| old.base) } else { epoch };
        let kept = old.as_ref().filter(|_| continues);
        let (bytes, whole, released) = kept.map_or((given, given, false), |old| (old.bytes, old.whole, old.released));
        // What has come from another place stays here.
        let has_come = whole && matches!(producer, Producer::Instance { instance, .. } if !self.owns(instance));
        // A frozen machine opens the parts of an attempt after its end.
        let is_over = matches!(producer, Producer::Instance { instance, .. }
            if self.last_ended.get(&instance) == Some(&epoch.0));
        let (bytes, whole) = (bytes || is_over, whole || is_over);
        let state = if given || has_come || is_over { StreamState::Finished } else { StreamState::Open };
        let kept_sent = kept.is_some_and(|old| old.sent);
        let held = old.as_ref().is_some_and(|old| old.held);
        let readers = old.map(|old| old.readers).unwrap_or_default();
        let sent = kept_sent;
        let stream = Stream { producer, epoch, base, state, bytes, whole, held, readers, released, sent, read };
        self.streams.insert(id, stream);
    }

    fn spawn(&mut self, instance: InstanceId, attempt: u32, state: State) {
        let kind = self.machine.view(instance).expect("it exists").kind;
        if !self.continues(instance) {
            self.given.remove(&instance);
        }
        let mut parts = BTreeMap::new();
        if let InstanceKind::Function(id) = kind {
            let function = &self.workflow.functions[id.0 as usize];
            for (output, port) in function.outputs.iter().enumerate() {
                if port.partition == Partition::Discovered {
                    let steady = function.deterministic && !self.choices.once_in(8);
                    let count = if steady { instance.0 as usize % 4 } else { self.choices.below(4) };
                    parts.insert(output as u32, Some(count));
                }
            }
        }
        let process = Process { kind, attempt, state, inputs: BTreeMap::new(), complete: BTreeSet::new(), parts };
        self.processes.insert(instance, process);
    }

    /// The streams of the instance's present attempt continue earlier ones.
    fn continues(&self, id: InstanceId) -> bool {
        let own = |stream: &&Stream| matches!(stream.producer, Producer::Instance { instance, .. } if instance == id);
        let old = |stream: &Stream| stream.base != stream.epoch && stream.state == StreamState::Open;
        self.streams.values().filter(own).any(|stream| stream.state == StreamState::Suspended || old(stream))
    }

    fn process(&mut self, instance: InstanceId) -> &mut Process {
        self.processes.get_mut(&instance).expect("it lives")
    }

    /// Whether the readers here need no byte of a stream again, as far as the node knows.
    pub fn is_read_here(&self, id: StreamId) -> bool {
        let stream = &self.streams[&id];
        stream.readers.iter().filter(|((reader, _), _)| self.owns(*reader)).all(|((reader, input), restartable)| {
            let has_it = |process: &Process| {
                let list = process.inputs.get(input);
                matches!(process.state, State::Running { .. })
                    && list.is_some_and(|list| list.iter().any(|(stream, _)| *stream == id))
            };
            let ended = self.is_through(*reader, id);
            !restartable && (ended || self.processes.get(reader).is_some_and(has_it))
        })
    }

    /// Whether the store keeps all it has.
    pub fn keeps_all(&self) -> bool {
        self.surveyed
    }

    /// What the store has.
    fn copies(&self) -> Vec<StreamCopy> {
        let is_here = |(id, stream): &(&StreamId, &Stream)| {
            let imported = self.subscribed.iter().any(|(of, reader, _)| of == *id && self.owns(*reader));
            stream.state != StreamState::Aborted && (self.writes(**id) || imported)
        };
        let copy = |(&stream, state): (&StreamId, &Stream)| {
            let writer = match state.producer {
                Producer::WorkflowInput { .. } => 0,
                Producer::Instance { instance, .. } => self.place_of(instance),
            };
            // Of what nobody reads, no more may come.
            let is_read = state.readers.keys().any(|(reader, _)| self.writes(stream) || self.owns(*reader));
            StreamCopy {
                stream,
                epoch: state.base,
                is_whole: state.is_input() || (!state.released && !state.sent && (is_read || state.held)),
                is_complete: state.whole,
                is_broken: self.forsaken.contains(&writer) && !state.whole,
            }
        };
        self.streams.iter().filter(is_here).map(copy).collect()
    }

    /// The store drops streams that can no longer be read from offset 0.
    fn release(&mut self) {
        if self.surveyed {
            return;
        }
        let mut released = Vec::new();
        for (id, stream) in &self.streams {
            let read = stream.readers.iter().all(|((reader, input), restartable)| {
                let has_it = |process: &Process| {
                    let list = process.inputs.get(input);
                    matches!(process.state, State::Running { .. })
                        && list.is_some_and(|list| list.iter().any(|(stream, _)| stream == id))
                };
                let ended = self.is_through(*reader, *id);
                !restartable && (ended || self.processes.get(reader).is_some_and(has_it))
            });
            if stream.bytes && !stream.held && read && stream.state != StreamState::Aborted {
                released.push(*id);
            }
        }
        for id in released {
            self.streams.get_mut(&id).expect("it exists").released = true;
        }
    }

    /// The value of this switch stream was asked for, or a switch on it exists at all.
    pub fn decides(&self, producer: Producer) -> bool {
        let Producer::Instance { instance, output, .. } = producer else { return true };
        let Some(InstanceKind::Function(function)) = self.machine.view(instance).map(|view| view.kind) else {
            return false;
        };
        let source = dflow_workflow::Source::Output { function, output };
        self.workflow.switches.iter().any(|switch| switch.on == SwitchOn::Value(source))
    }
}
