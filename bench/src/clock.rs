//! Two clocks: one that is common to all processes, and one that is cheap to read.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::failure::{Failure, Trying};

/// How long the cheap clock is calibrated against the shared one.
const CALIBRATION: Duration = Duration::from_millis(20);

/// CLOCK_MONOTONIC in nanoseconds, the same in every process.
pub fn now() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    tv_sec.cast_unsigned() * 1_000_000_000 + tv_nsec.cast_unsigned()
}

/// The processor time used by this process, in nanoseconds.
pub fn processor_time() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ProcessCPUTime);
    tv_sec.cast_unsigned() * 1_000_000_000 + tv_nsec.cast_unsigned()
}

/// The processor time used by another process, in nanoseconds. The kernel reports it in hundredths of a second.
pub fn processor_time_of(process: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).trying(format_args!("read {path}"))?;
    let ticks = ticks_of(&text).ok_or_else(|| Failure::new(format!("{path} has no processor time")))?;
    Ok(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}

/// The sum of user and system time in the text of `/proc/PID/stat`. The program's name, in parentheses, may contain any
/// character.
fn ticks_of(stat: &str) -> Option<u64> {
    /// The index of user time among the fields after the name; system time is next.
    const USER: usize = 11;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(USER);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Waits until [`now`] is `time`: sleeps for most of the time, then spins, which is accurate to a microsecond.
pub fn wait_until(time: u64) {
    /// The maximum overrun of a sleep.
    const MARGIN: u64 = 100_000;
    loop {
        let now = now();
        if now >= time {
            return;
        }
        if time - now > MARGIN {
            std::thread::sleep(Duration::from_nanos(time - now - MARGIN));
        }
    }
}

/// The cheapest clock available, for durations within one process.
///
/// On x86-64 with a constant time stamp counter, it is that counter. Reading it takes a few nanoseconds instead of
/// tens, and a whole hand-off takes only tens.
#[derive(Clone, Copy)]
pub struct Ticks {
    origin: Instant,
    /// Zero if the time stamp counter is not used.
    nanoseconds_a_tick: f64,
}

impl Ticks {
    /// Calibrates the clock.
    pub fn calibrated() -> Ticks {
        let origin = Instant::now();
        if !constant_counter() {
            return Ticks { origin, nanoseconds_a_tick: 0.0 };
        }
        let (first_ticks, first) = both_clocks();
        std::thread::sleep(CALIBRATION);
        let (last_ticks, last) = both_clocks();
        let nanoseconds = last.duration_since(first).as_nanos() as f64;
        Ticks { origin, nanoseconds_a_tick: nanoseconds / (last_ticks - first_ticks) as f64 }
    }

    /// The time in ticks.
    pub fn read(&self) -> u64 {
        if self.nanoseconds_a_tick > 0.0 { counter() } else { self.origin.elapsed().as_nanos() as u64 }
    }

    /// Converts ticks to nanoseconds.
    pub fn nanoseconds(&self, ticks: u64) -> f64 {
        if self.nanoseconds_a_tick > 0.0 { ticks as f64 * self.nanoseconds_a_tick } else { ticks as f64 }
    }
}

/// Both clocks at the same time. Of several attempts, takes the one with the least time between the two readings,
/// because the process may be preempted between them.
fn both_clocks() -> (u64, Instant) {
    const LOOKS: usize = 32;
    let look = |_| {
        let before = counter();
        let time = Instant::now();
        let after = counter();
        (after - before, (before, time))
    };
    let best = (0..LOOKS).map(look).min_by_key(|(between, _)| *between);
    best.map_or_else(|| (counter(), Instant::now()), |(_, moment)| moment)
}

/// Whether the processor's time stamp counter has a constant rate.
fn constant_counter() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
    cfg!(target_arch = "x86_64") && has("constant_tsc") && has("nonstop_tsc")
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 900 0 3 0 120 34 5 6 20 0 3 0 88 1 2";
        assert_eq!(ticks_of(stat), Some(154));
        assert_eq!(ticks_of("7 (cut"), None);
        assert!(processor_time_of(std::process::id()).is_ok());
    }
}
