//! The events that the run state machine receives.

use crate::fact::{Fact, StreamCopy};
use crate::options::Place;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use dflow_workflow::FunctionId;

/// Something that has happened in a run. Events of an attempt or an epoch that is no longer current are ignored,
/// because they may have been in flight when it was given up.
///
/// The driver guarantees:
/// - every attempt that got [`crate::Action::Prepare`] (a sink: [`crate::Action::Start`]) gets exactly one
///   [`Event::Ended`], after which none of its processes is running;
/// - everything that an attempt committed is readable before its successful end is reported: the machine then considers
///   the attempt's streams finished, whether or not [`Event::Finished`] has arrived;
/// - a parked instance is reported as [`Event::Resumed`] when it continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The program of an attempt is ready: it has run as far as it can before its start.
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
    /// A running attempt asks for one more part on an output whose parts are discovered. Answered by
    /// [`crate::Action::OpenStream`]. Parts are numbered in the order of these events.
    PartOpened {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the output.
        output: u32,
    },
    /// A running attempt will open no more parts on this output. A successful end implies this.
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
        /// Its text without surrounding white space, or why it is not a value (not UTF-8, too long); the attempt that
        /// wrote it then counts as failed.
        text: Result<String, String>,
    },
    /// A stream that continues an earlier epoch differs from it, or ended earlier. Must be reported before the
    /// [`Event::Ended`] of its attempt.
    Diverged {
        /// The stream.
        stream: StreamId,
        /// The epoch that differs from the one before.
        epoch: Epoch,
    },
    /// An attempt is dead: all of its processes have ended.
    Ended {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// How it ended.
        outcome: Outcome,
    },
    /// A running instance waits for data or credit and returns its slots.
    Parked {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// A parked instance continues. This may exceed the slots; then nothing else starts until enough are free.
    Resumed {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// An attempt has started later than its [`crate::Action::Start`], because its node's slots were held by other runs. An
    /// attempt for which this does not come has started at once.
    Started {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// Another node has told this one something with [`crate::Action::Tell`]. Facts from one node arrive in order. A fact
    /// about an instance that the sender does not decide for is ignored.
    Fact {
        /// The node that told it.
        from: Place,
        /// What it told.
        fact: Fact,
    },
    /// A node of the run is gone, with everything that it had. The coordinator alone is told. The run goes on without it:
    /// what is needed of what was there runs again elsewhere.
    NodeLost {
        /// The node.
        place: Place,
        /// Why, for the report.
        reason: String,
        /// New lists of places, by part, for the functions that have this one in theirs: with another node in its stead.
        /// Empty for a function that no other node can run.
        places: Vec<(FunctionId, Vec<Place>)>,
    },
    /// The answer to [`crate::Action::Survey`]: the streams in the node's store.
    Surveyed {
        /// The streams.
        copies: Vec<StreamCopy>,
    },
    /// The time of the last [`crate::Action::WakeAt`] has come.
    TimerFired,
    /// The user cancels the run.
    Cancel {
        /// Why, for the report.
        reason: String,
    },
    /// The store cannot make progress, for example because the disk is full.
    StoreFailed {
        /// Why, for the report.
        reason: String,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Succeeded,
    /// It ended because its unfinished outputs have no reader left. Report this only if the store itself knows so; the
    /// attempt's own claim is not enough. Counts as a success.
    Unread,
    /// It failed.
    Failed {
        /// Why, for the report.
        reason: String,
    },
}
