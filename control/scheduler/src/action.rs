//! The actions that the run state machine emits.

use crate::fact::Fact;
use crate::options::Place;
use dflow_protocol::{Epoch, InstanceId, StreamId};
use std::time::Duration;

/// An action that the driver must carry out for a run, in the order in which the machine emits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open an epoch of a stream; its attempt may not run yet. A stream keeps its id over all its epochs. Each epoch is
    /// opened by this action, after the previous one was ended by [`Action::Abort`] or paused by [`Action::Suspend`].
    OpenStream {
        /// The stream.
        stream: StreamId,
        /// The epoch that is opened: the number of the attempt that writes it.
        epoch: Epoch,
        /// Its producer.
        producer: Producer,
        /// Choose the kept layout: a consumer may read it late, again, or as a whole.
        keep: bool,
        /// Something in the workflow reads this output. If it then has no subscription and no hold once all actions of
        /// one batch are applied, it has become unread, and its writer may be told so. Where nothing reads it by
        /// design, its bytes are discarded and the writer is not told.
        read: bool,
        /// The epoch continues the suspended one: its bytes are compared with the old ones up to the old watermark, and
        /// readers continue from where they are. A difference is reported as [`crate::Event::Diverged`].
        continues: bool,
    },
    /// An instance reads this stream from offset 0. Always emitted before the consumer starts, so that no byte that it
    /// needs is released. The subscription spans all epochs of the stream until [`Action::Unsubscribe`].
    Subscribe {
        /// The stream.
        stream: StreamId,
        /// The consumer.
        consumer: InstanceId,
        /// Index of the consumer's input.
        input: u32,
        /// The consumer may restart within the stream's epoch and then reads from offset 0 again. So until
        /// [`Action::Unsubscribe`] no byte of the epoch may be released, and its producer may not be told that it is
        /// unread, even if the reader has closed the stream. If this is false, the reader's position and its closing
        /// are final for this epoch; it reads the next epoch from offset 0.
        restartable: bool,
    },
    /// This consumer will never read this stream again.
    Unsubscribe {
        /// The stream.
        stream: StreamId,
        /// Its consumer.
        consumer: InstanceId,
        /// Index of the consumer's input.
        input: u32,
    },
    /// More consumers may appear later: keep everything from offset 0.
    Hold {
        /// The stream.
        stream: StreamId,
    },
    /// All consumers are known: ends [`Action::Hold`].
    Unhold {
        /// The stream.
        stream: StreamId,
    },
    /// Make the program of an attempt ready: spawn it and map its streams. Answered by [`crate::Event::Ready`].
    Prepare {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// Give an attempt one more stream on this input: at any time after [`Action::Prepare`], or for a sink before its
    /// [`Action::Start`].
    AddInput {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the input.
        input: u32,
        /// The stream's index in the input's list; indices come in order, starting at 0.
        index: u32,
        /// The stream.
        stream: StreamId,
        /// The epoch that is read.
        epoch: Epoch,
    },
    /// Tell an attempt that this input gets no more streams.
    InputsComplete {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the input.
        input: u32,
    },
    /// Start the attempt: its gate is open and it has a slot. A sink is not prepared first.
    Start {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// End an attempt. Answered by [`crate::Event::Ended`] with any outcome.
    Kill {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// An epoch is void and must not be read any further. Readers that must restart are killed by separate actions.
    Abort {
        /// The stream.
        stream: StreamId,
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// The attempt that wrote this epoch is gone and the next one will write the same bytes: readers stay attached and
    /// wait.
    Suspend {
        /// The stream.
        stream: StreamId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Read a finished stream as the value of a switch. Answered by [`crate::Event::Value`].
    ReadValue {
        /// The stream.
        stream: StreamId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Report [`crate::Event::TimerFired`] at this time since the run's start. Replaces the time of the previous such
    /// action.
    WakeAt(Duration),
    /// Tell other nodes of the run: each of them gets it as [`crate::Event::Fact`], once, in the order of these actions.
    Tell {
        /// Their places, without the machine's own.
        to: Vec<Place>,
        /// What they are told.
        fact: Fact,
    },
    /// These nodes are lost: nothing comes from them and nothing goes to them any more, in this run.
    Forsake {
        /// Their places.
        places: Vec<Place>,
    },
    /// Report what the store has, with [`crate::Event::Surveyed`], and release no byte of it until
    /// [`Action::EndSurvey`].
    Survey,
    /// Bytes may be released again.
    EndSurvey,
    /// The run has succeeded and all of its processes have ended: make its outputs visible. The last action of a run.
    Committed,
    /// The run has failed and all of its processes have ended: release everything. The last action of a run.
    RunFailed {
        /// The instance that failed, if it was one.
        instance: Option<InstanceId>,
        /// Why.
        reason: String,
    },
}

/// The producer of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producer {
    /// The caller supplies it; it is complete from the start.
    WorkflowInput {
        /// Index of the workflow's input.
        input: u32,
        /// The index of the stream among its streams.
        part: u32,
    },
    /// An instance.
    Instance {
        /// The instance.
        instance: InstanceId,
        /// Index of its output.
        output: u32,
        /// The index of the stream in that output.
        part: u32,
    },
}
