//! Waiting until one of several ports can go on: look for a while, then sleep.

use crate::bells::Bell;
use crate::futex::{self, MAX_WORDS};
use crate::watchers::PeerWord;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// A port that may have to wait: for bytes, or for room.
pub trait Wait {
    /// Whether it can go on.
    fn ready(&mut self) -> bool;
    /// The wait takes a while, so deferred work that others may be waiting for, such as publishing a position, is done
    /// now.
    fn settle(&mut self);
    /// Announces that its owner is about to sleep, unless only the bell can wake it. [`Wait::ready`] is called once
    /// more after this.
    fn announce(&mut self);
    /// The word that will change when it can go on, and the value announced.
    fn word(&self) -> Option<(&AtomicU64, u64)>;
    /// The same word and value, to be watched by another thread ([`crate::Watchers`]); `None` if it is not another
    /// process's.
    fn peer_word(&self) -> Option<(PeerWord, u64)> {
        None
    }
    /// Withdraws the announcement.
    fn retract(&mut self);
}

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// How long to spin before sleeping. About the cost of a wake-up is right: less wastes wake-ups, more wastes the
    /// core. It ends at once when another thread waits for the core.
    pub spin: Duration,
}

impl Idle {
    /// Sleep at once.
    pub const SLEEP: Self = Self { spin: Duration::ZERO };
    /// Never sleep.
    pub const SPIN: Self = Self { spin: Duration::MAX };
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A port is ready.
    Ready,
    /// The daemon has queued messages.
    Bell,
}

/// A function that is called once when a sleep has lasted this long, with everything still announced.
pub type Park<'a> = (Duration, &'a mut dyn FnMut());

/// Waits until one of `ports` is ready or the bell's count differs from the one given. See [`Park`] for `park`.
///
/// At most 127 ports are watched while asleep; with more, the sleep is cut into short ones. A caller with more ports
/// leaves the inactive ones to [`crate::Watchers`].
pub fn wait(ports: &mut [&mut dyn Wait], bell: Option<(&Bell, u64)>, idle: Idle, park: Option<Park<'_>>) -> Woken {
    // Without a limit the wait ends only when something has happened.
    wait_until(ports, bell, idle, None, park).unwrap_or(Woken::Bell)
}

/// Waits as [`wait`] does, but not longer than `limit`; `None` if the time was up.
pub fn wait_at_most(
    ports: &mut [&mut dyn Wait],
    bell: Option<(&Bell, u64)>,
    idle: Idle,
    limit: Duration,
) -> Option<Woken> {
    wait_until(ports, bell, idle, Some(limit), None)
}

/// Waits as [`wait`] does, but not longer than `limit` if there is one; `None` if the time was up.
pub fn wait_until(
    ports: &mut [&mut dyn Wait],
    bell: Option<(&Bell, u64)>,
    idle: Idle,
    limit: Option<Duration>,
    mut park: Option<Park<'_>>,
) -> Option<Woken> {
    let mut look = |ports: &mut [&mut dyn Wait]| {
        if ports.iter_mut().any(|port| port.ready()) {
            return Some(Woken::Ready);
        }
        bell.filter(|(bell, count)| bell.count() != *count).map(|_| Woken::Bell)
    };
    if let Some(woken) = spin(ports, &mut look, bell, idle) {
        return Some(woken);
    }
    let start = Instant::now();
    let outcome = loop {
        for port in ports.iter_mut() {
            port.announce();
        }
        if let Some(woken) = look(ports) {
            break Some(woken);
        }
        let next = park.as_ref().map(|(after, _)| *after).into_iter().chain(limit).min();
        let left = next.map(|next| next.saturating_sub(start.elapsed()));
        if left == Some(Duration::ZERO) {
            if limit == next {
                break None;
            }
            if let Some((_, parked)) = park.take() {
                parked();
            }
            continue;
        }
        sleep(ports, bell, left);
        if let Some(woken) = look(ports) {
            break Some(woken);
        }
    };
    for port in ports.iter_mut() {
        port.retract();
    }
    outcome
}

/// The clock is read once in this many looks.
const LOOKS: u32 = 64;

fn spin(
    ports: &mut [&mut dyn Wait],
    look: &mut impl FnMut(&mut [&mut dyn Wait]) -> Option<Woken>,
    bell: Option<(&Bell, u64)>,
    idle: Idle,
) -> Option<Woken> {
    if let Some(woken) = look(ports) {
        return Some(woken);
    }
    if idle.spin.is_zero() || (idle != Idle::SPIN && bell.is_some_and(|(bell, _)| bell.crowded())) {
        return None;
    }
    // Most waits end within the first looks, so the clock is read and deferred work is done only after them.
    let mut start = None;
    loop {
        for _ in 0..LOOKS {
            std::hint::spin_loop();
            if let Some(woken) = look(ports) {
                return Some(woken);
            }
        }
        let since = *start.get_or_insert_with(|| {
            for port in ports.iter_mut() {
                port.settle();
            }
            Instant::now()
        });
        if idle != Idle::SPIN && (since.elapsed() >= idle.spin || give_way()) {
            return None;
        }
    }
}

/// Yields this core to another thread. Returns whether one was waiting for it: it may be the very thread whose work is
/// awaited.
fn give_way() -> bool {
    /// More than a yield takes if no other thread waits.
    const SOMEBODY: Duration = Duration::from_micros(10);
    let before = Instant::now();
    std::thread::yield_now();
    before.elapsed() >= SOMEBODY
}

fn sleep(ports: &[&mut dyn Wait], bell: Option<(&Bell, u64)>, limit: Option<Duration>) {
    /// How often the words are polled that exceed what one sleep can watch.
    const ROUND: Duration = Duration::from_micros(500);
    let mut words = Vec::with_capacity(ports.len().min(MAX_WORDS) + 1);
    words.extend(bell.map(|(bell, count)| (bell.word(), count)));
    let room = MAX_WORDS - words.len();
    words.extend(ports.iter().filter_map(|port| port.word()).take(room));
    let all = ports.len() <= room;
    let limit = if all { limit } else { Some(limit.map_or(ROUND, |limit| limit.min(ROUND))) };
    futex::sleep_until(&words, limit);
}

/// Nanoseconds of the monotonic clock, which is the same for all processes of the machine.
#[must_use]
pub fn now_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
