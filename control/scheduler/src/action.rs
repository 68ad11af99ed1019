//! What the run state machine wants done.

use dflow_protocol::{Epoch, InstanceId, StreamId};
use std::time::Duration;

/// Something that has to be done for a run, in the order in which the machine says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A stream exists from now on; its attempt may not run yet. A stream keeps its id over all its epochs, and each
    /// epoch is opened by this action, after the epoch before was given up by [`Action::Abort`] or paused by
    /// [`Action::Suspend`].
    OpenStream {
        /// The stream.
        stream: StreamId,
        /// The epoch that is opened: the number of the attempt that writes it.
        epoch: Epoch,
        /// Who writes it.
        producer: Producer,
        /// Choose the kept layout: somebody may read it late, again, or as a whole.
        keep: bool,
        /// Something in the workflow reads this output. If nothing is subscribed to it then and it is not held (look
        /// after all actions that came together), nobody reads it any more, and its writer may be told. Where nothing
        /// reads it by design, what is written is thrown away, and its writer is not bothered.
        read: bool,
        /// The epoch continues the suspended one: what it writes is compared with the old bytes up to the old
        /// watermark, and readers go on where they are. A difference is [`crate::Event::Diverged`].
        continues: bool,
    },
    /// An instance reads this stream, from offset 0 on. Always comes before the consumer starts, so that no byte is
    /// released that it needs. It holds over all epochs of the stream until [`Action::Unsubscribe`].
    Subscribe {
        /// The stream.
        stream: StreamId,
        /// Who reads it.
        consumer: InstanceId,
        /// Index of the consumer's input.
        input: u32,
        /// The consumer may be started again while the stream's epoch goes on, and then reads from offset 0 again:
        /// nothing of the epoch may be released, and its producer may not be told that nobody reads, before
        /// [`Action::Unsubscribe`], even if the reader has closed it. Otherwise the reader's position and its own
        /// closing are what counts, for as long as the epoch lasts; it reads the next epoch from offset 0 again.
        restartable: bool,
    },
    /// This reader will never read this stream again.
    Unsubscribe {
        /// The stream.
        stream: StreamId,
        /// Who read it.
        consumer: InstanceId,
        /// Index of the consumer's input.
        input: u32,
    },
    /// Readers may appear that are not known yet: keep everything from offset 0.
    Hold {
        /// The stream.
        stream: StreamId,
    },
    /// All readers are known: the end of [`Action::Hold`].
    Unhold {
        /// The stream.
        stream: StreamId,
    },
    /// Make the program of an attempt ready: spawn it, map its streams. [`crate::Event::Ready`] answers.
    Prepare {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// An attempt gets one more stream on this input; comes any time after [`Action::Prepare`], for a sink before its
    /// [`Action::Start`].
    AddInput {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the input.
        input: u32,
        /// The stream's place in the input's list; they come in order, starting at 0.
        index: u32,
        /// The stream.
        stream: StreamId,
        /// The epoch that is read.
        epoch: Epoch,
    },
    /// An attempt gets no more streams on this input.
    InputsComplete {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Index of the input.
        input: u32,
    },
    /// The gate is open and there is a slot: the attempt runs. A sink was not prepared before.
    Start {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
    },
    /// End an attempt. [`crate::Event::Ended`] answers, with whatever outcome.
    Kill {
        /// The instance.
        instance: InstanceId,
        /// Its attempt.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// An epoch is void: nothing of it may be read any more. Its readers are killed where they have to be.
    Abort {
        /// The stream.
        stream: StreamId,
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// The attempt that wrote this epoch is gone, and another one will write the same bytes: readers stay and wait.
    Suspend {
        /// The stream.
        stream: StreamId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Read a finished stream as the value of a switch. [`crate::Event::Value`] answers.
    ReadValue {
        /// The stream.
        stream: StreamId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Report [`crate::Event::TimerFired`] at this time since the run's start; replaces the time of the action before.
    WakeAt(Duration),
    /// The run has succeeded, nothing of it runs any more: make its outputs visible. The last action of a run.
    Committed,
    /// The run has failed, nothing of it runs any more. The last action of a run; everything of it can be dropped.
    RunFailed {
        /// The instance that failed, if it was one.
        instance: Option<InstanceId>,
        /// Why.
        reason: String,
    },
}

/// Who writes a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producer {
    /// The caller gives it: it is complete from the start.
    WorkflowInput {
        /// Index of the workflow's input.
        input: u32,
        /// Which of its streams, from 0 on.
        part: u32,
    },
    /// An instance.
    Instance {
        /// The instance.
        instance: InstanceId,
        /// Index of its output.
        output: u32,
        /// Which stream of that output, from 0 on.
        part: u32,
    },
}
