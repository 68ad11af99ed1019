//! Long streams between two processes, or several pairs of them at once.

use crate::failure::Failure;
use crate::latency::median;
use crate::memory::PAGE;
use crate::process::{self, Crew, Round};
use crate::quic::meeting::{Meeting, MeetingKeeper};
use crate::quic::net::Net;
use crate::quic::way::{Task, Work};
use crate::subject::Side;

/// The part of a stream that is carried before, so that windows of congestion control, pages and caches are what they are
/// in the middle of a long stream.
pub const WARM_UP: u64 = 8;

/// What carrying a stream took.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Its bytes.
    pub bytes: u64,
    /// From its first byte written until its last one read, in nanoseconds.
    pub took: f64,
    /// The processor time of all processes that took part, in nanoseconds.
    pub cpu: f64,
}

impl Bulk {
    /// Bytes per second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 * 1e9 / self.took.max(1.0)
    }

    /// The processor time for one GiB, in nanoseconds.
    pub fn cpu_of_gib(&self) -> f64 {
        self.cpu * f64::from(1 << 30) / self.bytes.max(1) as f64
    }

    /// The medians of several: of the time and of the processor time, each by itself.
    pub fn median(repeats: &[Bulk]) -> Option<Bulk> {
        let over = |of: fn(&Bulk) -> f64| median(repeats.iter().map(of).collect());
        Some(Bulk { bytes: repeats.first()?.bytes, took: over(|bulk| bulk.took)?, cpu: over(|bulk| bulk.cpu)? })
    }
}

/// Carries a stream in messages of `message` bytes between two processes.
pub fn carry(subject: &str, message: usize, net: &Net, bytes: u64) -> Result<Bulk, Failure> {
    let keeper = MeetingKeeper::new(net, PAGE)?;
    carry_between(subject, message, &[keeper.meeting()], bytes)
}

/// Carries as many streams of `bytes` at once as there are meetings, each between two processes of its own.
pub fn carry_between(subject: &str, message: usize, meetings: &[&Meeting], bytes: u64) -> Result<Bulk, Failure> {
    let task = |meeting: &Meeting, side| {
        let task = Task { subject: subject.to_owned(), work: Work::Stream, side, meeting: meeting.clone() };
        // Not pinned: each has several threads, or works while the kernel does on the other core.
        (process::Task::Quic(task), None)
    };
    let both = |meeting: &&Meeting| [Side::First, Side::Second].map(|side| task(meeting, side));
    let mut crew = Crew::start(meetings.iter().flat_map(both).collect())?;
    let count = (bytes / message as u64).max(1);
    crew.round(Round { count: (count / WARM_UP).max(1), interval: 0 })?;
    let findings = crew.round(Round { count, interval: 0 })?;
    let began = findings.iter().map(|found| found.began).min().unwrap_or(0);
    let ended = findings.iter().map(|found| found.ended).max().unwrap_or(0);
    let cpu: u64 = findings.iter().map(|found| found.cpu).sum();
    Ok(Bulk { bytes: count * message as u64, took: ended.saturating_sub(began) as f64, cpu: cpu as f64 })
}
