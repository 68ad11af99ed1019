//! A run that a test drives by hand, with names in place of ids and actions as short texts:
//!
//! - `open split:0.3@1` (output 0, part 3, epoch 1; a workflow input is `in0:0.3`), with ` continues` behind it
//! - `subscribe split:0.3 count[3].0` (input 0 of `count[3]`), `unsubscribe …`, `hold split:0.0`, `unhold …`
//! - `prepare count[3]#1` (attempt 1), `start …`, `kill …`
//! - `add count[3]#1.0 split:0.3@1`, `complete count[3]#1.0`
//! - `abort split:0.3@1`, `suspend …`, `read …`, `wake 5s`, `committed`, `failed`

use dflow_scheduler::planner::Placement;
use dflow_scheduler::{
    Action, Epoch, Event, InstanceId, InstanceState, Invocation, Outcome, PlaceOptions, Producer, RunMachine,
    RunOptions, Scope, StreamId,
};
use dflow_workflow::Workflow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub struct Script {
    pub machine: RunMachine,
    pub now: Duration,
    streams: BTreeMap<StreamId, (String, Epoch)>,
    /// The actions since the last event.
    pub last: Vec<String>,
    pub failure: Option<String>,
}

pub fn options(workflow: &Workflow) -> RunOptions {
    RunOptions {
        scope: Scope::WholeRun,
        places: vec![PlaceOptions { slots: 100, prepare_ahead: 0, max_started: 100 }],
        placement: Placement::default(),
        invocation: Invocation::Dataflow,
        params: BTreeMap::new(),
        input_parts: workflow.inputs.iter().map(|_| 1).collect(),
    }
}

/// The same on one node with so much.
pub fn on_one_node(workflow: &Workflow, slots: u32, prepare_ahead: u32, max_started: u32) -> RunOptions {
    RunOptions { places: vec![PlaceOptions { slots, prepare_ahead, max_started }], ..options(workflow) }
}

impl Script {
    pub fn new(flow: super::build::Flow) -> Self {
        let options = options(&flow.0);
        Self::with(flow, options)
    }

    pub fn with(flow: super::build::Flow, options: RunOptions) -> Self {
        let (machine, actions) = RunMachine::new(Arc::new(flow.0), options).expect("the options fit");
        let mut script =
            Self { machine, now: Duration::ZERO, streams: BTreeMap::new(), last: Vec::new(), failure: None };
        script.take(actions);
        script
    }

    pub fn event(&mut self, event: Event) -> &mut Self {
        let actions = self.machine.handle(self.now, event);
        self.last.clear();
        self.take(actions);
        self
    }

    /// These were wanted since the last event, in this order among others.
    #[track_caller]
    pub fn expect(&self, actions: &[&str]) -> &Self {
        let mut from = 0;
        for action in actions {
            match self.last[from..].iter().position(|other| other == action) {
                Some(place) => from += place + 1,
                None => panic!("no `{action}` (in this order) in {:#?}", self.last),
            }
        }
        self
    }

    /// Nothing that starts like this was wanted since the last event.
    #[track_caller]
    pub fn expect_none(&self, prefix: &str) -> &Self {
        if let Some(found) = self.last.iter().find(|action| action.starts_with(prefix)) {
            panic!("`{found}` in {:#?}", self.last);
        }
        self
    }

    pub fn ready(&mut self, name: &str) -> &mut Self {
        let (instance, attempt) = self.attempt(name);
        self.event(Event::Ready { instance, attempt })
    }

    pub fn bytes(&mut self, stream: &str) -> &mut Self {
        let (stream, epoch) = self.stream(stream);
        self.event(Event::FirstBytes { stream, epoch })
    }

    pub fn finish(&mut self, stream: &str) -> &mut Self {
        let (stream, epoch) = self.stream(stream);
        self.event(Event::Finished { stream, epoch, length: 1 })
    }

    pub fn value(&mut self, stream: &str, text: &str) -> &mut Self {
        let (stream, epoch) = self.stream(stream);
        self.event(Event::Value { stream, epoch, text: Ok(text.to_owned()) })
    }

    pub fn part(&mut self, name: &str) -> &mut Self {
        let (instance, attempt) = self.attempt(name);
        self.event(Event::PartOpened { instance, attempt, output: 0 })
    }

    pub fn parts_complete(&mut self, name: &str) -> &mut Self {
        let (instance, attempt) = self.attempt(name);
        self.event(Event::PartsComplete { instance, attempt, output: 0 })
    }

    pub fn park(&mut self, name: &str) -> &mut Self {
        let (instance, attempt) = self.attempt(name);
        self.event(Event::Parked { instance, attempt })
    }

    pub fn resume(&mut self, name: &str) -> &mut Self {
        let (instance, attempt) = self.attempt(name);
        self.event(Event::Resumed { instance, attempt })
    }

    pub fn end(&mut self, name: &str) -> &mut Self {
        self.ended(name, Outcome::Succeeded)
    }

    pub fn fail(&mut self, name: &str) -> &mut Self {
        self.ended(name, Outcome::Failed { reason: "boom".to_owned() })
    }

    pub fn ended(&mut self, name: &str, outcome: Outcome) -> &mut Self {
        let (instance, attempt) = self.attempt(name);
        self.event(Event::Ended { instance, attempt, outcome })
    }

    pub fn tick(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self.event(Event::TimerFired)
    }

    #[track_caller]
    pub fn attempt(&self, name: &str) -> (InstanceId, u32) {
        let view = self.machine.instances().find(|view| view.name == name);
        view.map(|view| (view.id, view.attempt)).unwrap_or_else(|| panic!("no instance {name}"))
    }

    #[track_caller]
    pub fn state(&self, name: &str) -> InstanceState {
        let view = self.machine.instances().find(|view| view.name == name);
        view.unwrap_or_else(|| panic!("no instance {name}")).state
    }

    #[track_caller]
    pub fn stream(&self, name: &str) -> (StreamId, Epoch) {
        let found = self.streams.iter().find(|(_, (other, _))| other == name);
        found.map(|(stream, (_, epoch))| (*stream, *epoch)).unwrap_or_else(|| panic!("no stream {name}"))
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            if let Action::OpenStream { stream, epoch, producer, .. } = &action {
                let name = match producer {
                    Producer::WorkflowInput { input, part } => format!("in{input}:0.{part}"),
                    Producer::Instance { instance, output, part } => {
                        format!("{}:{output}.{part}", self.name(*instance))
                    }
                };
                self.streams.insert(*stream, (name, *epoch));
            }
            if let Action::RunFailed { reason, .. } = &action {
                self.failure = Some(reason.clone());
            }
            let text = self.text(&action);
            self.last.push(text);
        }
    }

    fn name(&self, id: InstanceId) -> String {
        self.machine.view(id).map_or_else(|| format!("gone{id}"), |view| view.name)
    }

    fn text(&self, action: &Action) -> String {
        let stream = |id: &StreamId| self.streams.get(id).map_or("unknown", |(name, _)| name).to_owned();
        let name = |id: &InstanceId| self.name(*id);
        match action {
            Action::OpenStream { stream: id, epoch, continues, .. } => {
                format!("open {}@{epoch}{}", stream(id), if *continues { " continues" } else { "" })
            }
            Action::Subscribe { stream: id, consumer, input, .. } => {
                format!("subscribe {} {}.{input}", stream(id), name(consumer))
            }
            Action::Unsubscribe { stream: id, consumer, input } => {
                format!("unsubscribe {} {}.{input}", stream(id), name(consumer))
            }
            Action::Hold { stream: id } => format!("hold {}", stream(id)),
            Action::Unhold { stream: id } => format!("unhold {}", stream(id)),
            Action::Prepare { instance, attempt } => format!("prepare {}#{attempt}", name(instance)),
            Action::AddInput { instance, attempt, input, stream: id, epoch, .. } => {
                format!("add {}#{attempt}.{input} {}@{epoch}", name(instance), stream(id))
            }
            Action::InputsComplete { instance, attempt, input } => {
                format!("complete {}#{attempt}.{input}", name(instance))
            }
            Action::Start { instance, attempt } => format!("start {}#{attempt}", name(instance)),
            Action::Kill { instance, attempt, .. } => format!("kill {}#{attempt}", name(instance)),
            Action::Abort { stream: id, epoch, .. } => format!("abort {}@{epoch}", stream(id)),
            Action::Suspend { stream: id, epoch } => format!("suspend {}@{epoch}", stream(id)),
            Action::ReadValue { stream: id, epoch } => format!("read {}@{epoch}", stream(id)),
            Action::Tell { fact, .. } => format!("tell {fact:?}"),
            Action::WakeAt(at) => format!("wake {at:?}"),
            Action::Forsake { places } => format!("forsake {places:?}"),
            Action::Survey => "survey".to_owned(),
            Action::EndSurvey => "end survey".to_owned(),
            Action::Committed => "committed".to_owned(),
            Action::RunFailed { .. } => "failed".to_owned(),
        }
    }
}
