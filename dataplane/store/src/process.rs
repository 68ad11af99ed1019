//! What the store knows of one attempt.

use crate::stream::Subscriber;
use dflow_protocol::{PortId, SegmentId, StreamId};
use dflow_shm::{PeerControl, Segment};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// The segment in which all of an attempt's outputs begin.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) id: SegmentId,
    pub(crate) segment: Segment,
}

/// An attempt's control page, as the daemon has it.
#[derive(Debug)]
pub(crate) struct ControlPage {
    pub(crate) id: SegmentId,
    /// For others: read-only by its seals.
    pub(crate) fd: OwnedFd,
    pub(crate) words: PeerControl,
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) bell: u32,
    pub(crate) control: Option<ControlPage>,
    /// Segments that it keeps for its life and has been sent.
    pub(crate) known: HashSet<SegmentId>,
    pub(crate) outputs: BTreeMap<PortId, StreamId>,
    pub(crate) inputs: BTreeMap<PortId, (StreamId, Subscriber)>,
    /// Inputs that are read as slices over everything: what they were given stays mapped.
    pub(crate) slicing: BTreeSet<u32>,
    pub(crate) next_port: u32,
    /// Its gate has opened.
    pub(crate) started: bool,
    /// Outputs that wait for a window: port, watermark, least size, held.
    pub(crate) starved: BTreeMap<PortId, Want>,
}

/// A window that a producer has asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) at: u64,
    pub(crate) least: u64,
    /// When it asked.
    pub(crate) since: Instant,
}
