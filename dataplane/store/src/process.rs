//! One attempt's state, and the table of all attempts.

use crate::carrier::Carrier;
use crate::error::StoreError;
use crate::memory::Owner;
use crate::observe::Traffic;
use crate::subscription::Subscriber;
use crate::{ProcessId, RunStream};
use dflow_protocol::limits::{MAX_BELLS, MAX_PORTS, MIN_WINDOW};
use dflow_protocol::words::Progress;
use dflow_protocol::{PortId, RunId, SegmentId};
use dflow_shm::{PeerControl, Segment};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A port of an attempt.
pub(crate) type Endpoint = (ProcessId, PortId);

/// The segment in which all of an attempt's outputs begin.
#[derive(Debug)]
pub(crate) struct Arena {
    /// The run of the attempt. What its streams take of the arena is charged to it.
    pub(crate) owner: Owner,
    pub(crate) id: SegmentId,
    pub(crate) segment: Segment,
    /// The carrier that it belongs to. A carrier's arena outlives its streams by far, so each slot is given back to the
    /// system with its stream.
    pub(crate) carrier: Option<ProcessId>,
}

/// An attempt's control page, mapped read-only.
#[derive(Debug)]
pub(crate) struct ControlPage {
    pub(crate) id: SegmentId,
    /// To be handed to other attempts; its seals make it read-only.
    pub(crate) fd: OwnedFd,
    pub(crate) words: PeerControl,
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) run: RunId,
    pub(crate) bell: u32,
    pub(crate) control: Option<ControlPage>,
    pub(crate) arena: Arc<Arena>,
    /// Segments that it has been sent and keeps mapped as long as it lives.
    pub(crate) known: HashSet<SegmentId>,
    pub(crate) outputs: BTreeMap<PortId, RunStream>,
    pub(crate) inputs: BTreeMap<PortId, (RunStream, Subscriber)>,
    /// Inputs that are read as one slice over the whole stream: their pieces stay mapped.
    pub(crate) slicing: BTreeSet<u32>,
    next_port: u32,
    /// What has passed through ports that are used for other streams now.
    past: Traffic,
    /// Its gate has opened, and it is started when others have left it a slot.
    pub(crate) queued: bool,
    /// Its gate has opened.
    pub(crate) started: bool,
    /// It was told to wait for a reader, and has not been reported as waiting since.
    pub(crate) stays: bool,
    /// It has been told of an output without readers.
    pub(crate) unread_told: bool,
    /// The output with readers that was found last; the search for the next one starts here.
    pub(crate) read_output: PortId,
    /// It has violated the protocol, and is being ended.
    pub(crate) condemned: bool,
    /// The state of an attempt that carries streams from and to other nodes.
    pub(crate) carrier: Option<Carrier>,
}

/// A window that a producer has asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) at: u64,
    pub(crate) least: u64,
    /// When it asked.
    pub(crate) since: Duration,
}

impl Want {
    /// The size of the least window that will do.
    pub(crate) fn window(self) -> u64 {
        self.least.next_power_of_two().max(MIN_WINDOW)
    }
}

impl Process {
    /// An attempt without ports.
    pub(crate) fn new(bell: u32, arena: Arc<Arena>, slicing: BTreeSet<u32>, is_carrier: bool) -> Self {
        Self {
            run: arena.owner.run,
            bell,
            control: None,
            known: HashSet::from([arena.id]),
            arena,
            outputs: BTreeMap::new(),
            inputs: BTreeMap::new(),
            slicing,
            next_port: 0,
            past: Traffic::default(),
            queued: false,
            stays: false,
            started: false,
            unread_told: false,
            read_output: PortId(0),
            condemned: false,
            carrier: is_carrier.then(Carrier::default),
        }
    }

    /// A port for one more stream.
    pub(crate) fn new_port(&mut self) -> Result<PortId, StoreError> {
        if let Some(port) = self.carrier.as_mut().and_then(|carrier| carrier.ports.take()) {
            return Ok(port);
        }
        if self.next_port >= MAX_PORTS {
            if let Some(port) = self.carrier.as_mut().and_then(|carrier| carrier.ports.take_without_slot()) {
                return Ok(port);
            }
            return Err(StoreError::Limit(match self.carrier {
                Some(_) => format!(
                    "more than {MAX_PORTS} streams come to this node from others, or go from it, at the same time: that is the \
                     most in one run. Use fewer, larger parts, or place them on more nodes"
                ),
                None => format!("{MAX_PORTS} streams are the most for one instance"),
            }));
        }
        self.next_port += 1;
        Ok(PortId(self.next_port - 1))
    }

    /// Ports for these streams, which it writes from the start; the first one.
    pub(crate) fn add_outputs(&mut self, streams: impl Iterator<Item = RunStream>) -> PortId {
        let first = PortId(self.next_port);
        for stream in streams {
            self.outputs.insert(PortId(self.next_port), stream);
            self.next_port += 1;
        }
        first
    }

    /// Whether its program has said hello and its gate is open.
    pub(crate) fn runs(&self) -> bool {
        self.started && self.control.is_some()
    }

    /// Whether it waits for nothing but a slot.
    pub(crate) fn waits_for_slot(&self) -> bool {
        self.queued && !self.started && self.control.is_some()
    }

    /// The words that it has published for one of its ports.
    pub(crate) fn progress(&self, port: PortId) -> Option<Progress> {
        Some(self.control.as_ref()?.words.port(port).progress())
    }

    /// The bytes that have passed through its ports.
    pub(crate) fn traffic(&self) -> Traffic {
        let mut traffic = self.past;
        if let Some(control) = &self.control {
            self.inputs.keys().for_each(|&port| traffic.add_input(control.words.port(port)));
            self.outputs.keys().for_each(|&port| traffic.add_output(control.words.port(port)));
        }
        traffic
    }

    /// Removes a reading port, which may be used for another stream later.
    pub(crate) fn remove_input(&mut self, port: PortId) {
        if let (Some(_), Some(control)) = (self.inputs.remove(&port), &self.control) {
            self.past.add_input(control.words.port(port));
        }
    }

    /// Removes a writing port, which may be used for another stream later. Returns the stream that was written through it.
    pub(crate) fn remove_output(&mut self, port: PortId) -> Option<RunStream> {
        let stream = self.outputs.remove(&port)?;
        if let Some(control) = &self.control {
            self.past.add_output(control.words.port(port));
        }
        Some(stream)
    }

    /// Whether it sleeps for this port, or is about to.
    pub(crate) fn sleeps_at(&self, port: PortId) -> bool {
        self.control.as_ref().is_some_and(|control| control.words.port(port).is_waiting())
    }
}

/// The attempts, and the numbers of their bells.
#[derive(Debug)]
pub(crate) struct Processes {
    table: BTreeMap<ProcessId, Process>,
    free_bells: Vec<u32>,
    next_bell: u32,
}

impl Processes {
    pub(crate) fn new() -> Self {
        // Bells are numbered from 1: the place of bell 0 says whether the cores are crowded.
        Self { table: BTreeMap::new(), free_bells: Vec::new(), next_bell: 1 }
    }

    pub(crate) fn get(&self, id: ProcessId) -> Option<&Process> {
        self.table.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.table.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ProcessId, &Process)> {
        self.table.iter().map(|(&id, process)| (id, process))
    }

    /// The attempts of a run.
    pub(crate) fn of_run(&self, run: RunId) -> impl Iterator<Item = ProcessId> {
        self.iter().filter(move |(_, process)| process.run == run).map(|(id, _)| id)
    }

    /// The bytes that have passed through an attempt's ports.
    pub(crate) fn traffic(&self, id: ProcessId) -> Traffic {
        self.get(id).map(Process::traffic).unwrap_or_default()
    }

    /// The run that an attempt belongs to.
    pub(crate) fn run(&self, id: ProcessId) -> Option<RunId> {
        Some(self.get(id)?.run)
    }

    /// A bell that no attempt has.
    pub(crate) fn take_bell(&mut self) -> Result<u32, StoreError> {
        if let Some(bell) = self.free_bells.pop() {
            return Ok(bell);
        }
        if self.next_bell as usize >= MAX_BELLS {
            return Err(StoreError::Limit(format!("{MAX_BELLS} processes at the same time is the most")));
        }
        self.next_bell += 1;
        Ok(self.next_bell - 1)
    }

    pub(crate) fn insert(&mut self, id: ProcessId, process: Process) {
        self.table.insert(id, process);
    }

    /// Removes an attempt that is over. Its bell is free again.
    pub(crate) fn remove(&mut self, id: ProcessId) -> Option<Process> {
        let process = self.table.remove(&id)?;
        self.free_bells.push(process.bell);
        Some(process)
    }

    /// The stream that an attempt writes through a port.
    pub(crate) fn output(&self, id: ProcessId, port: PortId) -> Option<RunStream> {
        self.get(id)?.outputs.get(&port).copied()
    }

    /// The stream that an attempt reads through a port, and as which subscriber.
    pub(crate) fn input(&self, id: ProcessId, port: PortId) -> Option<(RunStream, Subscriber)> {
        self.get(id)?.inputs.get(&port).copied()
    }

    /// The streams that an attempt writes, by port.
    pub(crate) fn outputs(&self, id: ProcessId) -> Vec<(PortId, RunStream)> {
        let outputs = self.get(id).map(|process| process.outputs.iter());
        outputs.into_iter().flatten().map(|(&port, &stream)| (port, stream)).collect()
    }

    /// The words that an attempt has published for one of its ports.
    pub(crate) fn progress(&self, (id, port): Endpoint) -> Option<Progress> {
        self.get(id)?.progress(port)
    }

    /// The state of an attempt that carries streams.
    pub(crate) fn carrier_mut(&mut self, id: ProcessId) -> Option<&mut Carrier> {
        self.get_mut(id)?.carrier.as_mut()
    }

    /// Whether an attempt carries streams from and to other nodes.
    pub(crate) fn is_carrier(&self, id: ProcessId) -> bool {
        self.get(id).is_some_and(|process| process.carrier.is_some())
    }

    /// Whether an attempt has violated the protocol.
    pub(crate) fn is_condemned(&self, id: ProcessId) -> bool {
        self.get(id).is_some_and(|process| process.condemned)
    }
}
