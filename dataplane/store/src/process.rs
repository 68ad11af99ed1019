//! What the store knows of one attempt.

use crate::store::StoreError;
use crate::stream::{PieceState, Subscriber};
use dflow_protocol::limits::MAX_PORTS;
use dflow_protocol::{PortId, SegmentId, StreamId};
use dflow_shm::{PeerControl, Segment};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The segment in which all of an attempt's outputs begin.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) id: SegmentId,
    pub(crate) segment: Segment,
    /// It outlives its streams by far: their slots are given back to the system one by one.
    pub(crate) long_lived: bool,
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
    /// It has been told of an output that nobody reads it any more.
    pub(crate) unread_told: bool,
    /// An output that somebody still read when that was looked for last.
    pub(crate) read_output: PortId,
    /// It has done what cannot be, and is being ended.
    pub(crate) condemned: bool,
    /// Outputs that wait for a window: port, watermark, least size, held.
    pub(crate) starved: BTreeMap<PortId, Want>,
    /// For one that carries streams from and to other nodes.
    pub(crate) carrier: Option<Carrier>,
}

/// What is different for an attempt that carries streams: its ports come and go, it lends what it reads, and others
/// write what it offers.
#[derive(Debug, Default)]
pub(crate) struct Carrier {
    /// Reading ports whose readers on other nodes do not move.
    pub(crate) stuck: HashSet<PortId>,
    /// Pieces of streams that were aborted, by the port through which something may still land in them.
    pub(crate) quarantine: HashMap<PortId, Vec<PieceState>>,
    /// Who waits for the window behind the present one, which is being backed.
    pub(crate) ahead: HashMap<StreamId, (PortId, Want)>,
}

/// A window that a producer has asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) at: u64,
    pub(crate) least: u64,
    /// When it asked.
    pub(crate) since: Duration,
}

impl Process {
    /// A port for one more stream.
    pub(crate) fn new_port(&mut self) -> Result<PortId, StoreError> {
        if self.next_port >= MAX_PORTS {
            return Err(StoreError::Limit(match self.carrier {
                Some(_) => format!(
                    "more than {MAX_PORTS} streams come to this node from others, or go from it: that is the most in one run. \
                     Use fewer, larger parts, or place them on more nodes"
                ),
                None => format!("{MAX_PORTS} streams are the most for one instance"),
            }));
        }
        self.next_port += 1;
        Ok(PortId(self.next_port - 1))
    }
}
