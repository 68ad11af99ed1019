//! Long streams between two processes, or several pairs of them at once.

use crate::failure::Failure;
use crate::latency::median;
use crate::memory::PAGE;
use crate::process::{Actors, Round};
use crate::quic::net::Net;
use crate::quic::rendezvous::{Rendezvous, RendezvousKeeper};
use crate::quic::transfer::{QuicTask, Work};
use crate::subject::Side;

/// The bytes sent before a measurement, so that congestion windows, pages and caches are in the state of the middle of
/// a long stream.
pub const WARM_UP: u64 = 8;

/// The cost of sending a stream.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Its length in bytes.
    pub bytes: u64,
    /// The time from writing its first byte until reading its last one, in nanoseconds.
    pub took: f64,
    /// The processor time of all processes involved, in nanoseconds.
    pub cpu: f64,
}

impl Bulk {
    /// Bytes per second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 * 1e9 / self.took.max(1.0)
    }

    /// The processor time per GiB, in nanoseconds.
    pub fn cpu_of_gib(&self) -> f64 {
        self.cpu * f64::from(1 << 30) / self.bytes.max(1) as f64
    }

    /// The medians of several, separately for the time and for the processor time.
    pub fn median(repeats: &[Bulk]) -> Option<Bulk> {
        let over = |of: fn(&Bulk) -> f64| median(repeats.iter().map(of).collect());
        Some(Bulk { bytes: repeats.first()?.bytes, took: over(|bulk| bulk.took)?, cpu: over(|bulk| bulk.cpu)? })
    }
}

/// Sends a stream in messages of `message` bytes between two processes.
pub fn carry(subject: &str, message: usize, net: &Net, bytes: u64) -> Result<Bulk, Failure> {
    let keeper = RendezvousKeeper::new(net, PAGE)?;
    carry_between(subject, message, &[keeper.rendezvous()], bytes)
}

/// Transfers one stream of `bytes` for each rendezvous, all at the same time, each between two separate processes.
pub fn carry_between(subject: &str, message: usize, rendezvous: &[&Rendezvous], bytes: u64) -> Result<Bulk, Failure> {
    let task = |rendezvous: &Rendezvous, side| {
        let task = QuicTask { subject: subject.to_owned(), work: Work::Stream, side, rendezvous: rendezvous.clone() };
        // Not pinned: each process has several threads, or works while the kernel works on the other core.
        (task, None)
    };
    let both = |rendezvous: &&Rendezvous| [Side::First, Side::Second].map(|side| task(rendezvous, side));
    let mut actors = Actors::start(rendezvous.iter().flat_map(both).collect())?;
    let count = (bytes / message as u64).max(1);
    actors.round(Round { count: (count / WARM_UP).max(1), interval: 0 })?;
    let findings = actors.round(Round { count, interval: 0 })?;
    let began = findings.iter().map(|found| found.began).min().unwrap_or(0);
    let ended = findings.iter().map(|found| found.ended).max().unwrap_or(0);
    let cpu: u64 = findings.iter().map(|found| found.cpu).sum();
    Ok(Bulk { bytes: count * message as u64, took: ended.saturating_sub(began) as f64, cpu: cpu as f64 })
}
