//! A node in a simulation: its store, its machine and the functions of all runs.

use super::Dice;
use super::function::{Act, Function, Plan};
use super::machine::{Machine, Speed};
use dflow_protocol::{InstanceId, RunId, StreamId};
use dflow_store::{Config, ProcessId, Refusal, RunStream, Store, StoreEvent, Subscriber, TenantId};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);
/// Virtual time after which nothing will move any more.
const STUCK: Duration = Duration::from_secs(30);

/// A run: its functions read and write streams, each of which one of them writes.
#[derive(Clone, Debug)]
pub struct RunPlan {
    pub tenant: u64,
    pub minimum: u64,
    pub cap: u64,
    pub functions: Vec<Plan>,
}

pub struct World {
    pub store: Store,
    pub machine: Machine,
    pub dice: Dice,
    functions: BTreeMap<ProcessId, Function>,
    next_process: u64,
    next_tick: Duration,
    /// Of everything that has happened.
    log: DefaultHasher,
    pub failed: BTreeMap<RunId, String>,
    /// Runs all of whose functions have ended well.
    pub succeeded: BTreeSet<RunId>,
    pub misbehaved: Vec<(ProcessId, String)>,
}

impl World {
    pub fn new(seed: u64, config: Config, speed: Speed) -> Self {
        let machine = Machine::new(speed);
        Self {
            store: Store::new(config, machine.backend()).unwrap(),
            machine,
            dice: Dice::new(seed),
            functions: BTreeMap::new(),
            next_process: 1,
            next_tick: TICK,
            log: DefaultHasher::new(),
            failed: BTreeMap::new(),
            succeeded: BTreeSet::new(),
            misbehaved: Vec::new(),
        }
    }

    /// Admits a run and starts its functions.
    pub fn begin(&mut self, run: RunId, plan: &RunPlan) -> Result<(), Refusal> {
        self.store.admit(run, TenantId(plan.tenant), plan.minimum, plan.cap)?;
        let lengths: BTreeMap<u32, u64> = plan.functions.iter().flat_map(|it| it.writes.iter().copied()).collect();
        let now = self.machine.now();
        for &stream in lengths.keys() {
            self.store.open_stream(RunStream { run, stream: StreamId(stream) }, false);
        }
        let subscriber =
            |instance: usize, input: usize| Subscriber { instance: InstanceId(instance as u32), input: input as u32 };
        for (instance, function) in plan.functions.iter().enumerate() {
            for (input, &stream) in function.reads.iter().enumerate() {
                let stream = RunStream { run, stream: StreamId(stream) };
                self.store.subscribe(now, stream, subscriber(instance, input), false);
            }
        }
        for (instance, function) in plan.functions.iter().enumerate() {
            let id = ProcessId(self.next_process);
            self.next_process += 1;
            let reads: Vec<u64> = function.reads.iter().map(|stream| lengths[stream]).collect();
            let state = Function::new(id, run, plan.tenant, function.clone(), &reads);
            let outputs: Vec<_> = function.writes.iter().map(|&(stream, _)| vec![StreamId(stream)]).collect();
            self.store.begin(run, id, state.setup(), &outputs).unwrap();
            for (input, &stream) in function.reads.iter().enumerate() {
                let stream = RunStream { run, stream: StreamId(stream) };
                self.store.add_input(id, subscriber(instance, input), stream).unwrap();
            }
            state.hello(&mut self.store, now);
            self.store.start(id);
            self.functions.insert(id, state);
        }
        self.deliver();
        Ok(())
    }

    /// Ends a run whatever its functions do. They go on for a while, and find nobody who hears them.
    pub fn end(&mut self, run: RunId) {
        self.store.end_run(self.machine.now(), run);
        let live: Vec<ProcessId> = self.of_run(run);
        for id in live {
            if let Some(mut function) = self.functions.remove(&id) {
                function.act(&mut self.store, self.machine.now(), &mut self.dice);
            }
        }
        self.deliver();
    }

    fn of_run(&self, run: RunId) -> Vec<ProcessId> {
        self.functions.iter().filter(|(_, function)| function.run == run).map(|(id, _)| *id).collect()
    }

    pub fn is_live(&self, run: RunId) -> bool {
        self.functions.values().any(|function| function.run == run)
    }

    pub fn is_idle(&self) -> bool {
        self.functions.is_empty()
    }

    /// One function acts, or time passes.
    pub fn step(&mut self) {
        let ids: Vec<ProcessId> = self.functions.keys().copied().collect();
        let first = self.dice.below(ids.len() as u64) as usize;
        let moved = (0..ids.len()).any(|offset| self.act(ids[(first + offset) % ids.len()]));
        // Functions take their time.
        self.machine.advance(Duration::from_micros(self.dice.below(20)));
        if !moved {
            self.wait();
        }
        self.complete();
    }

    fn act(&mut self, id: ProcessId) -> bool {
        let now = self.machine.now();
        let Some(function) = self.functions.get_mut(&id) else { return false };
        let act = function.act(&mut self.store, now, &mut self.dice);
        if act != Act::Waits {
            function.positions().for_each(|position| position.hash(&mut self.log));
            (id.0, now).hash(&mut self.log);
        }
        match act {
            Act::Waits => return false,
            Act::Moved => {}
            Act::Done | Act::Died => {
                let run = function.run;
                self.functions.remove(&id);
                self.store.examine(id);
                self.store.end(now, id, act == Act::Done);
                if act == Act::Died {
                    self.failed.entry(run).or_insert_with(|| "a function has died".into());
                } else if !self.is_live(run) && !self.failed.contains_key(&run) {
                    self.succeeded.insert(run);
                }
            }
        }
        self.deliver();
        true
    }

    /// Nothing moves: time passes until a job is done or the store is to look again.
    fn wait(&mut self) {
        let now = self.machine.now();
        let next = self.machine.next_completion().map_or(self.next_tick, |done| done.min(self.next_tick));
        // Outputs that were told to stay ask again sooner.
        let next = next.min(now + Duration::from_millis(1)).max(now);
        self.machine.advance(next - now);
    }

    fn complete(&mut self) {
        while let Some(completion) = self.machine.take_done() {
            self.store.complete(self.machine.now(), completion);
        }
        if self.machine.now() >= self.next_tick {
            self.next_tick = self.machine.now() + TICK;
            self.store.tick(self.machine.now());
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        let now = self.machine.now();
        for message in self.store.take_outgoing() {
            (message.process.0, format!("{:?}", message.message)).hash(&mut self.log);
            if let Some(function) = self.functions.get_mut(&message.process) {
                function.take(message, now);
            }
        }
        for event in self.store.take_events() {
            match event {
                StoreEvent::Misbehaved(id, what) => self.misbehaved.push((id, what)),
                StoreEvent::Failed(run, why) => {
                    self.failed.entry(run).or_insert(why.to_string());
                }
                _ => {}
            }
        }
    }

    /// Steps until something holds.
    ///
    /// # Panics
    /// If nothing moves for long.
    pub fn run_until(&mut self, holds: impl Fn(&Self) -> bool) {
        let (mut last, mut since) = (0, self.machine.now());
        while !holds(self) {
            self.step();
            let at = self
                .functions
                .values()
                .flat_map(Function::positions)
                .fold(self.functions.len() as u64, u64::wrapping_add);
            if at != last {
                (last, since) = (at, self.machine.now());
            }
            if self.machine.now() - since > STUCK {
                let functions: Vec<String> = self.functions.values().map(Function::describe).collect();
                panic!("stuck with {:?}: {functions:#?}", self.store.usage());
            }
        }
    }

    /// Lets all jobs complete, and then so much time pass that idle memory is given back.
    pub fn settle(&mut self) {
        while let Some(done) = self.machine.next_completion() {
            self.machine.advance(done.saturating_sub(self.machine.now()));
            self.complete();
        }
        self.machine.advance(Duration::from_secs(60));
        self.complete();
    }

    /// A number that two equal histories share.
    pub fn fingerprint(&self) -> u64 {
        self.log.finish()
    }
}
