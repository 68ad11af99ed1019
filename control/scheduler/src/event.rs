//! What the run state machine is told.

use dflow_protocol::{Epoch, InstanceId, StreamId};

/// Something that has happened in a run. Events of an attempt or an epoch that is not the present one are ignored, since
/// they may have been on their way when it was given up.
///
/// What a driver owes the machine:
/// - every attempt that got [`crate::Action::Prepare`] (a sink: [`crate::Action::Start`]) gets exactly one
///   [`Event::Ended`], after which nothing of it runs any more;
/// - before it reports a successful end, everything that the attempt committed is readable: the machine takes the
///   attempt's streams for finished then, whether [`Event::Finished`] came or not;
/// - a parked instance is reported as [`Event::Resumed`] when it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The program of an attempt is ready: it runs as far as it can without its start.
    Ready {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// The first bytes of a stream are readable.
    FirstBytes {
        /// The stream.
        stream: StreamId,
        /// The epoch that wrote them.
        epoch: Epoch,
    },
    /// A stream is complete.
    Finished {
        /// The stream.
        stream: StreamId,
        /// The epoch that wrote it.
        epoch: Epoch,
        /// Its length in bytes.
        length: u64,
    },
    /// A running attempt wants one more part on an output whose number of parts is discovered. The answer is
    /// [`crate::Action::OpenStream`]. Its parts are numbered in the order of these events.
    PartOpened {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the output.
        output: u32,
    },
    /// A running attempt opens no more parts on this output. A successful end implies it.
    PartsComplete {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the output.
        output: u32,
    },
    /// The answer to [`crate::Action::ReadValue`].
    Value {
        /// The stream.
        stream: StreamId,
        /// The epoch that was read.
        epoch: Epoch,
        /// Its text with surrounding white space removed, or why it is none (not UTF-8, too long): then the attempt
        /// that wrote it counts as failed.
        text: Result<String, String>,
    },
    /// A stream that continues an earlier epoch differs from it, or ended earlier. It has to come before the
    /// [`Event::Ended`] of its attempt.
    Diverged {
        /// The stream.
        stream: StreamId,
        /// The epoch that differs from the one before.
        epoch: Epoch,
    },
    /// An attempt is dead: nothing of it runs any more.
    Ended {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// How it ended.
        outcome: Outcome,
    },
    /// A running instance waits for data or credit, and so gives its slots back.
    Parked {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// A parked instance goes on. This may exceed the slots; then nothing else starts for a while.
    Resumed {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// The time of the last [`crate::Action::WakeAt`] has come.
    TimerFired,
    /// The user wants the run to end.
    Cancel {
        /// Why, for the report.
        reason: String,
    },
    /// The store cannot go on (the disk is full and nothing moves, say).
    StoreFailed {
        /// Why, for the report.
        reason: String,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It ended because nobody reads any more what it has not finished. Report this only if that is what the store
    /// knows by itself; the attempt's own word is not enough. Counts as a success.
    Unread,
    /// It failed.
    Failed {
        /// Why, for the report.
        reason: String,
    },
}
