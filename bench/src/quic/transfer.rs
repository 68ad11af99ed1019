//! The subjects of this topic, subjects to move bytes from node to node, and the processes at both ends.

use std::ops::Range;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::{Ticks, now};
use crate::failure::Failure;
use crate::latency::{Recorded, histogram};
use crate::payload::WORD;
use crate::process::{Actor, Findings, Round, Task};
use crate::quic::bulk::{self, Bulk};
use crate::quic::net::Net;
use crate::quic::rendezvous::Rendezvous;
use crate::quic::subjects;
use crate::subject::{End, Side, Subject};

/// The number of bytes written and read at once in a stream.
pub const MESSAGE: usize = 64 << 10;

/// The number of bytes of a round trip, in each direction, and of a stream whose set-up is measured.
pub const PART: usize = 64;

/// The kinds of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// One long stream.
    Stream,
    /// [`PART`] bytes there and back.
    RoundTrip,
    /// Opening a connection, until it is usable.
    Connection,
    /// Opening a stream on a connection, from the reader's request until its first bytes have arrived.
    Open,
}

/// A way to move bytes from node to node.
pub trait Transfer: Subject {
    /// Whether this kind of measurement is supported.
    fn does(&self, work: Work) -> bool;

    /// Creates one end in a separate process. In a stream, the first side writes.
    fn join(&self, work: Work, side: Side, rendezvous: &Rendezvous) -> Result<Box<dyn Party>, Failure>;

    /// Sends a stream of `bytes` once.
    fn stream(&self, net: &Net, bytes: u64) -> Result<Bulk, Failure> {
        bulk::carry(self.card().name, MESSAGE, net, bytes)
    }
}

/// One process's part in a measurement.
pub trait Party {
    /// Does its part of the steps with these numbers, and enables the other side to do its own. On the first side, the
    /// histogram has the duration of each step in nanoseconds, if steps are measured individually.
    fn round(&mut self, numbers: Range<u64>) -> Result<Option<Histogram<u64>>, Failure>;
}

/// The task of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuicTask {
    /// The subject's name.
    pub subject: String,
    /// The kind of measurement.
    pub work: Work,
    /// Which of the two processes it is.
    pub side: Side,
    /// How it finds the other process.
    pub rendezvous: Rendezvous,
}

impl Task for QuicTask {
    const TOPIC: &str = "quic";

    fn actor(self) -> Result<Box<dyn Actor>, Failure> {
        let subjects = subjects();
        let subject = subjects.iter().find(|subject| subject.card().name == self.subject);
        let subject =
            subject.ok_or_else(|| Failure::new(format!("there is no subject {} between nodes", self.subject)))?;
        // Before any other thread exists, so that later threads inherit the network namespace.
        self.rendezvous.enter(self.side)?;
        let party = subject.join(self.work, self.side, &self.rendezvous)?;
        Ok(Box::new(Player { party, next: 0 }))
    }
}

struct Player {
    party: Box<dyn Party>,
    next: u64,
}

impl Actor for Player {
    fn round(&mut self, round: Round) -> Result<Findings, Failure> {
        let end = self.next + round.count;
        let began = now();
        let times = self.party.round(self.next..end)?;
        let ended = now();
        self.next = end;
        let latency = times.as_ref().map_or_else(Recorded::default, Recorded::of);
        Ok(Findings { began, ended, latency, ..Findings::default() })
    }
}

/// The times of single steps.
pub struct Times {
    ticks: Ticks,
    histogram: Histogram<u64>,
}

impl Times {
    /// Without steps.
    pub fn new(ticks: Ticks) -> Times {
        Times { ticks, histogram: histogram() }
    }

    /// Returns the start time of a step.
    pub fn begin(&self) -> u64 {
        self.ticks.read()
    }

    /// Records the end of a step that began at this time.
    pub fn end(&mut self, began: u64) {
        let took = self.ticks.nanoseconds(self.ticks.read().saturating_sub(began));
        self.histogram.saturating_record(took as u64);
    }

    /// All of them.
    pub fn into_histogram(self) -> Histogram<u64> {
        self.histogram
    }
}

/// The first word of the message with this number, in a stream whose words count up.
pub fn first_word(number: u64, message: usize) -> u64 {
    number * (message / WORD) as u64
}

/// One side of streams and round trips, built from an end that sends and receives.
pub struct Ends<E> {
    end: E,
    work: Work,
    side: Side,
    message: usize,
    ticks: Ticks,
}

impl<E: End> Ends<E> {
    /// For messages of `message` bytes.
    pub fn new(end: E, work: Work, side: Side, message: usize) -> Ends<E> {
        Ends { end, work, side, message, ticks: Ticks::calibrated() }
    }

    fn receive(&mut self, number: u64) -> Result<(), Failure> {
        let seen = self.end.receive()?;
        let first = first_word(number, self.message);
        if seen.first != first {
            return Err(Failure::new(format!("the word {} arrived in place of {first}", seen.first)));
        }
        seen.check(self.message)
    }
}

impl<E: End> Party for Ends<E> {
    fn round(&mut self, numbers: Range<u64>) -> Result<Option<Histogram<u64>>, Failure> {
        let mut times = Times::new(self.ticks);
        for number in numbers {
            let first = first_word(number, self.message);
            match (self.work, self.side) {
                (Work::Stream, Side::First) => self.end.send(first)?,
                (Work::Stream, Side::Second) => self.receive(number)?,
                (_, Side::First) => {
                    let began = times.begin();
                    self.end.send(first)?;
                    self.receive(number)?;
                    times.end(began);
                }
                (_, Side::Second) => {
                    self.receive(number)?;
                    self.end.send(first)?;
                }
            }
            self.end.between()?;
        }
        self.end.flush()?;
        Ok((self.work != Work::Stream && self.side == Side::First).then(|| times.into_histogram()))
    }
}
