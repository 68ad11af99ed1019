//! One subscription of a stream: its reader's state as the store has observed it.

use crate::process::Endpoint;
use dflow_protocol::InstanceId;
use dflow_protocol::words::is_possible;
use std::time::Duration;

/// A reader of a stream: an input of an instance, whichever attempt of it is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscriber {
    /// The instance.
    pub instance: InstanceId,
    /// Index of the input.
    pub input: u32,
}

/// The state of a subscription. It outlives epochs of its stream and attempts of its reader.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// The consumer may be restarted, or reads the stream as one slice: all bytes stay for it.
    keep: bool,
    /// The attempt that reads, and its port.
    reader: Option<Endpoint>,
    /// The reader's question that is not answered yet.
    question: Option<Question>,
    /// The producer was told of the reader.
    registered: bool,
    /// It reads nothing more of this epoch.
    closed: bool,
    /// It reads no other epoch either.
    cancelled: bool,
    /// The position that was observed last.
    position: u64,
    /// Since when it has been at this position.
    since: Duration,
    /// A position at which it sleeps, and since when it has been observed there, although it was woken: there are bytes
    /// to read, or room in its outputs. Its process does not run.
    overslept: Option<(u64, Duration)>,
}

/// A reader's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The offset of the next byte that it reads.
    pub(crate) at: u64,
    /// It has a piece with this offset, but its producer's words say that the stream ends here, or make no sense. It
    /// asks whether they are true.
    pub(crate) verifies: bool,
}

/// A reader's control words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderWords {
    pub(crate) position: u64,
    /// It sleeps on the producer's watermark.
    pub(crate) asleep: bool,
    /// It sleeps for room in its outputs, and there is some.
    pub(crate) has_room: bool,
}

/// Bounds of the position of a stream's reader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderBounds {
    pub(crate) watermark: u64,
    /// The offset below which producers were granted room. Positions are checked against it and not against the
    /// watermark: a hostile producer could lower the watermark after its reader has moved on, and the reader would be
    /// blamed.
    pub(crate) granted: u64,
    /// The watermark was left by a dead attempt, and the next one has not reached it yet.
    pub(crate) is_left: bool,
    /// A new attempt replays the prefix, and its words say nothing about what readers may read.
    pub(crate) is_replayed: bool,
}

/// The result of a check of a reader's words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Observation {
    Plausible,
    /// It is past the bytes that a dead attempt has left. Either it lies, or that attempt has lowered its watermark.
    Overread,
    /// No correct reader publishes this position.
    Lie(String),
}

impl Subscription {
    pub(crate) fn new(keep: bool, now: Duration) -> Self {
        Self {
            keep,
            reader: None,
            question: None,
            registered: false,
            closed: false,
            cancelled: false,
            position: 0,
            since: now,
            overslept: None,
        }
    }

    /// Attaches an attempt of the consumer, which reads from offset 0.
    pub(crate) fn attach(&mut self, reader: Endpoint) {
        self.reader = Some(reader);
        self.closed = false;
        self.registered = false;
        self.position = 0;
        self.question = None;
    }

    /// The attempt that reads, and its port.
    pub(crate) fn reader(&self) -> Option<Endpoint> {
        self.reader
    }

    /// Whether this port of an attempt reads it now.
    pub(crate) fn is_read_by(&self, reader: Endpoint) -> bool {
        self.reader == Some(reader)
    }

    /// Its reader is gone, or uses its port for another stream. Returns whether the producer was told of it.
    pub(crate) fn detach(&mut self) -> bool {
        self.reader = None;
        std::mem::take(&mut self.registered)
    }

    /// Its producer is to be told of the reader. Returns whether it does not know of it yet, and needs to.
    pub(crate) fn register(&mut self) -> bool {
        !self.closed && !std::mem::replace(&mut self.registered, true)
    }

    /// The stream has another producer, which does not know of the reader.
    pub(crate) fn change_producer(&mut self) {
        self.registered = false;
    }

    /// The reader asks.
    pub(crate) fn ask(&mut self, question: Question) {
        self.question = Some(question);
    }

    /// The reader has its answer.
    pub(crate) fn answer(&mut self) {
        self.question = None;
    }

    /// The reader's question that is not answered yet.
    pub(crate) fn question(&self) -> Option<Question> {
        self.question
    }

    /// Whether all bytes stay for it.
    pub(crate) fn keeps(&self) -> bool {
        self.keep
    }

    /// The position that was observed last.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Since when it has been at its position.
    pub(crate) fn rests_since(&self) -> Duration {
        self.since
    }

    /// Whether it still reads this epoch and has not come to `offset` yet.
    pub(crate) fn is_before(&self, offset: u64) -> bool {
        !self.closed && self.position < offset
    }

    /// Whether it still reads this epoch.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed
    }

    /// Closes the epoch: its reader has closed the input, or is gone.
    pub(crate) fn close(&mut self) {
        self.question = None;
        self.closed = true;
    }

    /// Cancels the subscription: the consumer reads this stream in no epoch.
    pub(crate) fn cancel(&mut self) {
        self.close();
        self.keep = false;
        self.cancelled = true;
    }

    /// Begins a new epoch. The attempt that has read void bytes is being killed, so its words are ignored.
    pub(crate) fn begin_epoch(&mut self) {
        self.reader = None;
        self.registered = false;
        self.closed = self.cancelled;
        self.position = 0;
        self.question = None;
    }

    /// Whether it needs no byte of this epoch, now or after a restart.
    pub(crate) fn is_done(&self) -> bool {
        self.closed && !self.keep
    }

    /// The lowest offset that it may still need.
    pub(crate) fn needed_from(&self) -> u64 {
        match (self.keep, self.closed) {
            (true, _) => 0,
            (false, true) => u64::MAX,
            (false, false) => self.position,
        }
    }

    /// Checks and records the reader's words.
    pub(crate) fn observe(&mut self, words: ReaderWords, bounds: ReaderBounds, now: Duration) -> Observation {
        let ReaderWords { position, asleep, has_room } = words;
        let oversleeps = has_room || (asleep && position < bounds.watermark && !bounds.is_replayed);
        let has_slept = self.overslept.filter(|(at, _)| *at == position);
        self.overslept = oversleeps.then(|| has_slept.unwrap_or((position, now)));
        if bounds.is_left && position > bounds.watermark {
            return Observation::Overread;
        }
        if !is_possible(self.position, position, bounds.granted) {
            return Observation::Lie(format!("its position in a stream jumped from {} to {position}", self.position));
        }
        if position > self.position {
            self.position = position;
            self.since = now;
        }
        Observation::Plausible
    }

    /// Since when it sleeps although it was woken.
    pub(crate) fn oversleeps_since(&self) -> Option<Duration> {
        self.overslept.map(|(_, since)| since)
    }
}
