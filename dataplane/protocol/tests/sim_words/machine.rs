//! The simulated machine. One thread runs at a time, chosen from a seed at each memory access. It has store buffers as
//! processors do, futexes, and participants that may die between any two accesses.

use super::{Mail, Outcome};
use dflow_protocol::words::{Platform, Word};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// A participant, by index.
pub type Role = usize;
pub const PRODUCER: Role = 0;
pub const READERS: [Role; 2] = [1, 2];
pub const DAEMON: Role = 3;
const ROLES: usize = 4;

/// More steps than any history in these tests needs.
const MOST_STEPS: u64 = 200_000;

/// How a participant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    With(Outcome),
    Dead,
    /// It slept and no participant was left to wake it.
    Asleep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Status {
    Ready,
    /// Sleeps on these words.
    Sleeping(Vec<usize>),
    /// The daemon between two rounds: it continues when something has changed.
    Idle(u64),
    Dead,
    Done,
}

/// A word of the machine, by index.
pub struct SimulatedWord(pub usize);

/// The protocol's platform on the simulated machine.
pub struct Simulated;

pub struct Machine {
    state: Mutex<State>,
    turns: [Condvar; ROLES],
    /// Signalled when no participant can continue.
    over: Condvar,
}

struct State {
    random: u64,
    memory: Vec<u64>,
    /// The store buffer: stores not yet visible to others, oldest first.
    buffers: [VecDeque<(usize, u64)>; ROLES],
    status: [Status; ROLES],
    lives: [Option<u32>; ROLES],
    mail: [Vec<Mail>; ROLES],
    /// The participant whose turn it is; `None` before the start and after the end.
    turn: Option<Role>,
    over: bool,
    spurious: bool,
    changes: u64,
    /// The number of changes when the daemon began its round.
    seen: u64,
    steps: u64,
    failure: Option<String>,
}

/// The panic payload that ends the thread of a participant that is dead, or left over at the end.
struct Gone;

thread_local! {
    static SELF: RefCell<Option<(Arc<Machine>, Role)>> = const { RefCell::new(None) };
}

fn me() -> (Arc<Machine>, Role) {
    SELF.with_borrow(|me| me.clone().unwrap())
}

impl Machine {
    /// A machine with this many words, all zero. `lives`: after how many steps each participant dies.
    pub fn new(seed: u64, words: usize, lives: [Option<u32>; ROLES], spurious: bool) -> Arc<Self> {
        let state = State {
            random: seed | 1,
            memory: vec![0; words],
            buffers: Default::default(),
            status: [const { Status::Ready }; ROLES],
            lives,
            mail: Default::default(),
            turn: None,
            over: false,
            spurious,
            changes: 0,
            seen: 0,
            steps: 0,
            failure: None,
        };
        Arc::new(Self { state: Mutex::new(state), turns: Default::default(), over: Condvar::new() })
    }

    /// Runs all participants until none can continue.
    pub fn run(self: &Arc<Self>, work: impl Fn(Role) -> Outcome + Sync) -> Result<[Ended; ROLES], String> {
        let mut ends = [Ended::Dead; ROLES];
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..ROLES)
                .map(|role| {
                    let work = &work;
                    scope.spawn(move || self.take_part(role, work))
                })
                .collect();
            let mut state = self.lock();
            self.pass_on(&mut state);
            while !state.over {
                state = self.over.wait(state).unwrap();
            }
            self.turns.iter().for_each(Condvar::notify_all);
            drop(state);
            for (end, thread) in ends.iter_mut().zip(threads) {
                if let Some(outcome) = thread.join().unwrap() {
                    *end = Ended::With(outcome);
                }
            }
        });
        let state = self.lock();
        for (end, status) in ends.iter_mut().zip(&state.status) {
            match status {
                Status::Sleeping(_) => *end = Ended::Asleep,
                Status::Dead => *end = Ended::Dead,
                _ => {}
            }
        }
        state.failure.clone().map_or(Ok(ends), Err)
    }

    fn take_part(self: &Arc<Self>, role: Role, work: &(impl Fn(Role) -> Outcome + Sync)) -> Option<Outcome> {
        SELF.set(Some((Arc::clone(self), role)));
        let ended = catch_unwind(AssertUnwindSafe(|| {
            drop(self.wait_for_turn(self.lock(), role));
            work(role)
        }));
        let mut state = self.lock();
        match ended {
            Ok(outcome) => {
                state.status[role] = Status::Done;
                state.flush(role);
                self.pass_on(&mut state);
                Some(outcome)
            }
            Err(gone) if gone.is::<Gone>() => None,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                state.failure = Some(text.unwrap_or_else(|| "a participant has panicked".into()));
                state.over = true;
                self.over.notify_all();
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn wait_for_turn<'a>(&'a self, mut state: MutexGuard<'a, State>, role: Role) -> MutexGuard<'a, State> {
        while state.turn != Some(role) && !state.over {
            state = self.turns[role].wait(state).unwrap();
        }
        if state.over {
            drop(state);
            resume_unwind(Box::new(Gone));
        }
        state
    }

    /// Chooses the next participant.
    fn pass_on(&self, state: &mut State) {
        state.steps += 1;
        if state.steps > MOST_STEPS {
            state.failure = Some("they go on for ever".into());
            state.over = true;
        }
        for role in 0..ROLES {
            if state.random().is_multiple_of(3) {
                state.flush_one(role);
            }
        }
        if state.spurious && state.random().is_multiple_of(64) {
            let role = (state.random() % ROLES as u64) as usize;
            if matches!(state.status[role], Status::Sleeping(_)) {
                state.status[role] = Status::Ready;
            }
        }
        if state.ready().is_empty() {
            (0..ROLES).for_each(|role| state.flush(role));
        }
        let ready = state.ready();
        state.turn = match ready.len() {
            0 => {
                state.over = true;
                None
            }
            count => Some(ready[(state.random() % count as u64) as usize]),
        };
        match state.turn.filter(|_| !state.over) {
            Some(role) => {
                if matches!(state.status[role], Status::Idle(_)) {
                    state.status[role] = Status::Ready;
                    state.seen = state.changes;
                }
                self.turns[role].notify_all();
            }
            None => self.over.notify_all(),
        }
    }

    /// Performs one step of the current participant, then passes the turn on.
    fn step<T>(&self, role: Role, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        if let Some(left) = &mut state.lives[role] {
            *left -= 1;
            if *left == 0 {
                self.end(state, role);
            }
        }
        let result = act(&mut state);
        self.pass_on(&mut state);
        drop(self.wait_for_turn(state, role));
        result
    }

    /// Ends the current participant. Its store buffer drains to memory.
    fn end(&self, mut state: MutexGuard<'_, State>, role: Role) -> ! {
        state.status[role] = Status::Dead;
        state.changes += 1;
        state.flush(role);
        self.pass_on(&mut state);
        drop(state);
        resume_unwind(Box::new(Gone))
    }
}

impl State {
    /// xorshift64*.
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn ready(&self) -> Vec<Role> {
        let is_ready = |role: &Role| match self.status[*role] {
            Status::Ready => true,
            Status::Idle(seen) => seen != self.changes,
            _ => false,
        };
        (0..ROLES).filter(is_ready).collect()
    }

    fn flush_one(&mut self, role: Role) {
        if let Some((word, value)) = self.buffers[role].pop_front() {
            self.memory[word] = value;
            self.changes += 1;
        }
    }

    fn flush(&mut self, role: Role) {
        while !self.buffers[role].is_empty() {
            self.flush_one(role);
        }
    }
}

impl Word for SimulatedWord {
    fn load(&self, _: Ordering) -> u64 {
        let (machine, role) = me();
        machine.step(role, |state| {
            let own = state.buffers[role].iter().rev().find(|(word, _)| *word == self.0);
            own.map_or(state.memory[self.0], |(_, value)| *value)
        })
    }

    fn store(&self, value: u64, _: Ordering) {
        let (machine, role) = me();
        machine.step(role, |state| state.buffers[role].push_back((self.0, value)));
    }
}

impl Platform for Simulated {
    type Word = SimulatedWord;

    fn fence() {
        let (machine, role) = me();
        machine.step(role, |state| state.flush(role));
    }

    fn wake(word: &SimulatedWord) {
        let (machine, role) = me();
        machine.step(role, |state| {
            for status in &mut state.status {
                if matches!(status, Status::Sleeping(words) if words.contains(&word.0)) {
                    *status = Status::Ready;
                }
            }
        });
    }

    fn sleep(words: &[(&SimulatedWord, u64)]) {
        let (machine, role) = me();
        machine.step(role, |state| {
            // The kernel compares 32 bits of each word.
            if words.iter().all(|(word, seen)| state.memory[word.0] as u32 == *seen as u32) {
                state.status[role] = Status::Sleeping(words.iter().map(|(word, _)| word.0).collect());
            }
        });
    }
}

/// A pseudo-random number that depends on the seed alone.
pub fn random() -> u64 {
    me().0.lock().random()
}

/// Ends the participant that calls it.
pub fn die() -> ! {
    let (machine, role) = me();
    machine.end(machine.lock(), role)
}

/// Whether a participant died before its end.
pub fn is_dead(role: Role) -> bool {
    me().0.lock().status[role] == Status::Dead
}

/// Ends another participant.
pub fn kill(role: Role) {
    let machine = me().0;
    let mut state = machine.lock();
    if state.status[role] != Status::Done {
        state.status[role] = Status::Dead;
        state.changes += 1;
        state.flush(role);
    }
}

/// Queues a message.
pub fn send(role: Role, mail: Mail) {
    me().0.lock().mail[role].push(mail);
}

/// Takes the messages that are queued for a participant.
pub fn receive(role: Role) -> Vec<Mail> {
    std::mem::take(&mut me().0.lock().mail[role])
}

/// Lets the others run until something has changed since the round began. The daemon may continue at any time after
/// that.
pub fn next_round() {
    let (machine, role) = me();
    machine.step(role, |state| state.status[role] = Status::Idle(state.seen));
}
