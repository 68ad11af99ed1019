//! What the store knows of one reader of a stream.

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
    /// The consumer may be restarted, or wants a slice over everything: all bytes stay for it.
    pub(crate) keep: bool,
    /// The attempt that reads, and its port.
    pub(crate) reader: Option<Endpoint>,
    /// What the reader has asked and was not answered yet.
    pub(crate) question: Option<Question>,
    /// The producer knows of the reader.
    pub(crate) registered: bool,
    /// Nothing more of this epoch will be read.
    pub(crate) closed: bool,
    /// Nor of any other.
    cancelled: bool,
    /// The position last seen.
    pub(crate) position: u64,
    /// Since when it has been at this position.
    pub(crate) since: Duration,
    /// Since when it was seen to sleep at this position although there is more to read, or room in its outputs: it was
    /// woken and does not run.
    overslept: Option<(u64, Duration)>,
}

/// What a reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The offset at which it goes on.
    pub(crate) at: u64,
    /// It has the piece with this offset, unless the stream ends here: it asks whether its producer's words are true.
    pub(crate) verifies: bool,
}

/// A reader's words, as they were seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderWords {
    pub(crate) position: u64,
    /// It sleeps on the producer's watermark.
    pub(crate) asleep: bool,
    /// It sleeps for room in its outputs, and there is some.
    pub(crate) has_room: bool,
}

/// How far a reader of a stream can be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderBounds {
    pub(crate) watermark: u64,
    /// Up to where producers were granted room. A position is judged by this and not by the watermark: a producer that
    /// lies could take the watermark back after its reader has believed it.
    pub(crate) granted: u64,
    /// The watermark is what a dead attempt has left, and the next one has not reached it.
    pub(crate) is_left: bool,
    /// The next attempt writes ahead of what readers may have.
    pub(crate) is_replayed: bool,
}

/// What a look at a reader's words has shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Observation {
    Plausible,
    /// It is past what a dead attempt has left. Either it lies, or that attempt did and took back what it had published.
    Overread,
    /// No reader of ours publishes this.
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

    /// An attempt of the consumer reads from offset 0.
    pub(crate) fn attach(&mut self, reader: Endpoint) {
        self.reader = Some(reader);
        self.closed = false;
        self.registered = false;
        self.position = 0;
        self.question = None;
    }

    /// The attempt that reads closes its input, or is gone.
    pub(crate) fn close(&mut self) {
        self.question = None;
        self.closed = true;
    }

    /// The consumer will not read this stream any more, in no epoch.
    pub(crate) fn cancel(&mut self) {
        self.close();
        self.keep = false;
        self.cancelled = true;
    }

    /// The stream begins again, empty. The attempt that has read void bytes is being ended; its words mean nothing now.
    pub(crate) fn begin_epoch(&mut self) {
        self.reader = None;
        self.registered = false;
        self.closed = self.cancelled;
        self.position = 0;
        self.question = None;
    }

    /// Whether it needs no byte of this epoch, now or later.
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

    /// Takes note of what the reader's words say.
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
