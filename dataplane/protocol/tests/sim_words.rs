//! The control-word protocol on a simulated machine: a producer, two readers and the daemon. Each may die between any
//! two of its loads and stores, and one may write arbitrary values into its own words.
//!
//! Loom (`loom_words.rs`) explores every interleaving of a few steps. This test runs long histories from a seed, in
//! which participants die and lie. A participant that follows the protocol never reads a byte that is uncommitted or
//! overwritten, never sleeps for ever, and is never accused of a violation.

#[path = "sim_words/machine.rs"]
mod machine;

use dflow_protocol::words::{MAX_OFFSET, Platform, Progress, Sleeper, State, Watch, Word, is_possible, publish, ring};
use machine::{DAEMON, Ended, Machine, PRODUCER, READERS, Role, Simulated, SimulatedWord, random, receive};
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

/// A message from the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    /// The producer died before it finished.
    Aborted,
    /// This reader died.
    DropReader(Role),
}

/// How an honest participant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The producer has written everything, or the reader has read everything.
    Complete,
    /// A reader was told that its producer died.
    Aborted,
    /// A reader detected that its producer violates the protocol.
    Violation,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    seed: u64,
    /// The length of the stream in bytes.
    length: u64,
    /// The size of the window.
    window: u64,
    /// Whether the window is a ring; otherwise it holds the whole stream.
    ring: bool,
    /// After how many steps each function dies.
    lives: [Option<u32>; 3],
    liar: Option<Role>,
    /// Whether sleepers may wake spuriously, as the kernel allows.
    spurious: bool,
}

const PROGRESS: [SimulatedWord; 3] = [SimulatedWord(0), SimulatedWord(1), SimulatedWord(2)];
const TICKETS: [SimulatedWord; 3] = [SimulatedWord(3), SimulatedWord(4), SimulatedWord(5)];
const BELLS: [SimulatedWord; 3] = [SimulatedWord(6), SimulatedWord(7), SimulatedWord(8)];
const FIRST_CELL: usize = 9;

/// The word that holds the byte of the stream at an offset. Its content identifies the byte.
fn cell(case: &Case, offset: u64) -> SimulatedWord {
    SimulatedWord(FIRST_CELL + (offset % case.window) as usize)
}

fn content(offset: u64) -> u64 {
    offset + 1000
}

/// A function's view of its messages.
#[derive(Default)]
struct Inbox {
    received: u64,
}

impl Inbox {
    /// Returns new messages if the bell has changed. Must be called after the words were loaded.
    fn take(&mut self, role: Role) -> Vec<Mail> {
        let mail = if BELLS[role].load(Ordering::Acquire) == self.received { Vec::new() } else { receive(role) };
        self.received += mail.len() as u64;
        mail
    }
}

/// A producer's view of a reader.
struct Peer {
    role: Role,
    position: u64,
    watch: Watch,
}

fn produce(case: &Case) -> Outcome {
    let mut readers: Vec<Peer> =
        READERS.map(|role| Peer { role, position: 0, watch: Watch::default() }).into_iter().collect();
    let (mut inbox, mut sleeper) = (Inbox::default(), Sleeper::default());
    for offset in 0..case.length {
        wait_for_room(case, offset, &mut readers, &mut inbox, &mut sleeper);
        cell(case, offset).store(content(offset), Ordering::Relaxed);
        announce(Progress::open(offset + 1), &mut readers);
    }
    announce(Progress { offset: case.length, state: State::Finished }, &mut readers);
    Outcome::Complete
}

/// Publishes and wakes the readers that sleep on an older value.
fn announce(progress: Progress, readers: &mut [Peer]) {
    publish::<Simulated>(&PROGRESS[PRODUCER], progress);
    let mut wake = false;
    for reader in readers {
        wake |= reader.watch.must_wake::<Simulated>(&TICKETS[reader.role], progress);
    }
    if wake {
        Simulated::wake(&PROGRESS[PRODUCER]);
    }
}

fn wait_for_room(case: &Case, watermark: u64, readers: &mut Vec<Peer>, inbox: &mut Inbox, sleeper: &mut Sleeper) {
    if !case.ring {
        return;
    }
    let mut announced = None;
    loop {
        let mut held = watermark;
        let mut holder = None;
        for reader in readers.iter_mut() {
            let word = PROGRESS[reader.role].load(Ordering::Acquire);
            let progress = Progress::decode(word);
            if progress.state == State::Open {
                reader.position = progress.offset.clamp(reader.position.min(watermark), watermark);
                if reader.position < held {
                    held = reader.position;
                    holder = Some((reader.role, word));
                }
            }
        }
        let bell = inbox.received;
        for mail in inbox.take(PRODUCER) {
            if let Mail::DropReader(gone) = mail {
                readers.retain(|reader| reader.role != gone);
            }
        }
        let news = bell != inbox.received;
        match holder {
            Some((role, word)) if watermark >= held + case.window && !news => {
                if announced == Some((role, word)) {
                    Simulated::sleep(&[(&PROGRESS[role], word), (&BELLS[PRODUCER], bell)]);
                    announced = None;
                } else {
                    sleeper.prepare::<Simulated>(&TICKETS[PRODUCER], word);
                    announced = Some((role, word));
                }
            }
            _ if news => {}
            _ => {
                sleeper.done::<Simulated>(&TICKETS[PRODUCER]);
                return;
            }
        }
    }
}

fn consume(case: &Case, role: Role) -> Outcome {
    let (mut inbox, mut sleeper, mut watch) = (Inbox::default(), Sleeper::default(), Watch::default());
    let (mut position, mut published) = (0, 0);
    let mut announced = None;
    let mut tell = |progress: Progress| {
        publish::<Simulated>(&PROGRESS[role], progress);
        if watch.must_wake::<Simulated>(&TICKETS[PRODUCER], progress) {
            Simulated::wake(&PROGRESS[role]);
        }
    };
    loop {
        // The word first, then the bell.
        let seen = PROGRESS[PRODUCER].load(Ordering::Acquire);
        let bell = inbox.received;
        if inbox.take(role).contains(&Mail::Aborted) {
            return Outcome::Aborted;
        }
        if bell != inbox.received {
            continue;
        }
        let progress = Progress::decode(seen);
        if progress.offset > position {
            sleeper.done::<Simulated>(&TICKETS[role]);
            announced = None;
            let first = if case.ring { position } else { 0 };
            if progress.offset - first > case.window {
                return Outcome::Violation;
            }
            let take = 1 + random() % (progress.offset - position);
            for offset in position..position + take {
                let found = cell(case, offset).load(Ordering::Relaxed);
                let honest = case.liar != Some(PRODUCER);
                assert!(!honest || found == content(offset), "byte {offset} was read as {found}");
            }
            position += take;
            // Positions are published only now and then, as the SDK does.
            if random().is_multiple_of(2) {
                tell(Progress::open(position));
                published = position;
            }
        } else if progress.state != State::Open {
            tell(Progress { offset: position, state: State::Finished });
            let complete = progress.state == State::Finished && position == progress.offset;
            return if complete { Outcome::Complete } else { Outcome::Violation };
        } else if announced == Some(seen) {
            Simulated::sleep(&[(&PROGRESS[PRODUCER], seen), (&BELLS[role], bell)]);
            announced = None;
        } else {
            if published != position {
                tell(Progress::open(position));
                published = position;
            }
            sleeper.prepare::<Simulated>(&TICKETS[role], seen);
            announced = Some(seen);
        }
    }
}

/// Writes arbitrary values into every word of its page, and into the window if it is the producer. Then it dies, or it
/// writes an impossible value and waits to be detected.
fn lie(case: &Case, role: Role) -> Outcome {
    for _ in 0..random() % 60 {
        let value = match random() % 4 {
            0 => random(),
            1 => random() % 64,
            2 => Progress { offset: random() % (2 * case.length + 2), state: State::Finished }.encode(),
            _ => Progress::open(random() % (2 * case.length + 2)).encode(),
        };
        match random() % 4 {
            0 if role == PRODUCER => cell(case, random() % case.window).store(value, Ordering::Relaxed),
            1 => TICKETS[role].store(value, Ordering::Relaxed),
            2 => Simulated::wake(&PROGRESS[(random() % 3) as usize]),
            _ => PROGRESS[role].store(value, Ordering::Relaxed),
        }
    }
    // For a ring the daemon does not know how far anybody may be.
    if random().is_multiple_of(2) || case.ring {
        machine::die();
    }
    PROGRESS[role].store(Progress::open(case.window + 2 * case.length + 2).encode(), Ordering::Relaxed);
    TICKETS[role].store(0, Ordering::Relaxed);
    Simulated::fence();
    loop {
        Simulated::sleep(&[(&TICKETS[role], 0)]);
    }
}

/// The daemon: tells the others about each death, and checks whether the words are possible.
fn watch(case: &Case, found: &Mutex<Vec<Role>>) -> ! {
    let (mut counts, mut told, mut last) = ([0u64; 3], [false; 3], [0u64; 3]);
    let mut say = |role: Role, mail: Mail| {
        // Queued before the bell is raised.
        machine::send(role, mail);
        counts[role] += 1;
        ring::<Simulated>(&BELLS[role], counts[role]);
    };
    loop {
        machine::next_round();
        for role in [PRODUCER, READERS[0], READERS[1]] {
            if machine::is_dead(role) && !std::mem::replace(&mut told[role], true) {
                match role {
                    PRODUCER => READERS.iter().for_each(|&reader| say(reader, Mail::Aborted)),
                    reader => say(PRODUCER, Mail::DropReader(reader)),
                }
            }
        }
        let mut check = |role: Role, now: u64, limit: u64| {
            if machine::is_dead(role) {
                return;
            }
            if is_possible(last[role], now, limit) {
                last[role] = now;
            } else {
                found.lock().unwrap().push(role);
                machine::kill(role);
            }
        };
        // The watermark is no limit for a position: a malicious producer can lower it after readers have followed it.
        let room = if case.ring { MAX_OFFSET } else { case.window };
        for role in [PRODUCER, READERS[0], READERS[1]] {
            check(role, Progress::decode(PROGRESS[role].load(Ordering::Acquire)).offset, room);
        }
    }
}

fn run(case: &Case) -> Result<(), String> {
    let words = FIRST_CELL + case.window as usize;
    let lives = [case.lives[0], case.lives[1], case.lives[2], None];
    let simulation = Machine::new(case.seed, words, lives, case.spurious);
    let flagged = Mutex::new(Vec::new());
    let ends = simulation.run(|role| {
        if role == DAEMON {
            watch(case, &flagged);
        }
        match case.liar {
            Some(liar) if liar == role => lie(case, role),
            _ if role == PRODUCER => produce(case),
            _ => consume(case, role),
        }
    })?;
    let flagged = flagged.into_inner().unwrap();
    for role in [PRODUCER, READERS[0], READERS[1]] {
        if flagged.contains(&role) && case.liar != Some(role) {
            return Err(format!("{role} keeps the rules and was taken for a liar"));
        }
        let expected = match (&ends[role], case.liar) {
            (Ended::Asleep, _) => return Err(format!("{role} sleeps for ever")),
            (Ended::Dead, liar) => liar == Some(role) || case.lives[role].is_some(),
            (Ended::With(Outcome::Complete), _) => true,
            (Ended::With(Outcome::Aborted), _) => role != PRODUCER && ends[PRODUCER] == Ended::Dead,
            (Ended::With(Outcome::Violation), liar) => role != PRODUCER && liar == Some(PRODUCER),
        };
        if !expected {
            return Err(format!("{role} ended with {:?}; all: {ends:?}", ends[role]));
        }
    }
    Ok(())
}

fn case() -> impl Strategy<Value = Case> {
    let life = || prop_oneof![2 => Just(None), 1 => (1..200u32).prop_map(Some)];
    let liar = prop_oneof![2 => Just(None), 1 => (0..3usize).prop_map(Some)];
    (any::<u64>(), 0..24u64, 1..6u64, any::<bool>(), [life(), life(), life()], liar, any::<bool>()).prop_map(
        |(seed, length, window, ring, lives, liar, spurious)| {
            let window = if ring { window } else { window.max(length) };
            Case { seed, length, window, ring, lives, liar, spurious }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, ..ProptestConfig::default() })]

    #[test]
    fn participants_that_follow_the_protocol_are_safe_and_never_left_asleep(case in case()) {
        prop_assert_eq!(run(&case), Ok(()));
    }
}

/// Detects a watermark past the end of its window, a watermark that decreases, and a position past the watermark.
#[test]
fn impossible_values_are_detected() {
    assert!(is_possible(5, 5, 5) && is_possible(5, 9, 10) && is_possible(0, MAX_OFFSET, MAX_OFFSET));
    assert!(!is_possible(5, 4, 10) && !is_possible(5, 11, 10));
}
