//! The carrier's thread: its turns, and its sleep.

use crate::channels::Channels;
use crate::peer::Peer;
use crate::runs::{RunNumber, Runs};
use crate::streams::Failure;
use crate::watch::{Port, Watched};
use crate::{Command, NodeId, Report};
use dflow_ports::Attaching;
use dflow_protocol::wire::StreamKey;
use dflow_protocol::{PortId, RunId};
use dflow_shm::{Doorbell, Listener, Wait, Watchers};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// The number of ports that the carrier itself watches while it sleeps: those that were active last. Other threads watch the
/// rest. One futex wait on many more words costs more than the wake-up that it saves.
const WATCHED: usize = 64;
/// The interval of liveness checks and reports.
const TICK: Duration = Duration::from_millis(100);
/// A channel that the store has not opened is tried again after this fraction of the time that it has waited so far, and after
/// [`LEAST_OPENING`] at the earliest.
const OPENING_FRACTION: u32 = 4;
const LEAST_OPENING: Duration = Duration::from_micros(50);

pub(super) struct Worker<'a> {
    queue: Receiver<Command>,
    listener: Listener,
    watchers: Watchers,
    channels: Arc<Channels>,
    /// Runs whose channels the store has not opened yet.
    opening: BTreeMap<RunId, Opening>,
    runs: Runs,
    peers: BTreeMap<NodeId, Peer>,
    /// What peers know this process by. Another number follows when a peer is forgotten, so that a new link is
    /// not taken for the one before.
    life: u64,
    report: &'a dyn Fn(Report),
}

/// A run whose channel the store has not opened yet.
struct Opening {
    attaching: Attaching,
    since: Instant,
    /// Commands about its streams, which are carried out as soon as there is the channel.
    waiting: Vec<Command>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        queue: Receiver<Command>,
        bell: Arc<Doorbell>,
        channels: Arc<Channels>,
        life: u64,
        report: &'a dyn Fn(Report),
    ) -> Self {
        let (listener, watchers) = (Listener::new(Arc::clone(&bell)), Watchers::new(bell));
        let (opening, runs, peers) = (BTreeMap::new(), Runs::default(), BTreeMap::new());
        Self { queue, listener, watchers, channels, opening, runs, peers, life, report }
    }

    /// Works until there is nobody left to give commands.
    pub(super) fn run(mut self) {
        let mut tick = Instant::now();
        loop {
            self.listener.hear();
            self.wake_what_has_news();
            let mut busy = false;
            loop {
                match self.queue.try_recv() {
                    Ok(command) => {
                        busy = true;
                        self.obey(command);
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        // What has happened since the last tick would otherwise not be reported.
                        self.peers.values_mut().for_each(|peer| peer.report_changes(self.report));
                        return;
                    }
                }
            }
            busy |= self.open_channels();
            let now = Instant::now();
            let mut failures = Vec::new();
            for peer in self.peers.values_mut() {
                busy |= peer.step(now, self.report);
                failures.append(&mut peer.streams.take_failures());
            }
            self.handle(failures);
            if now.duration_since(tick) >= TICK {
                tick = now;
                self.tick(now);
            }
            if !busy {
                self.rest(now);
            }
        }
    }

    fn wake_what_has_news(&mut self) {
        for name in self.watchers.take_news() {
            match Watched::named(name) {
                Watched::Port(port) => self.wake(port),
                Watched::Bell(run) => self.runs.wake(run),
            }
        }
        let mail = self.runs.take_mail();
        for (run, id) in mail.ports {
            self.wake(Port { run, id });
        }
        for (run, reason) in mail.failed {
            self.fail_run(run, reason);
        }
    }

    fn wake(&mut self, port: Port) {
        self.peers.values_mut().any(|peer| peer.streams.wake(port));
    }

    fn peer(&mut self, id: NodeId) -> &mut Peer {
        let life = self.life;
        self.peers.entry(id).or_insert_with(|| Peer::new(id, life))
    }

    fn obey(&mut self, command: Command) {
        if let Command::Export(_, stream, _) | Command::Import(_, stream, _) | Command::Drop(stream) = &command
            && let Some(opening) = self.opening.get_mut(&stream.run())
        {
            opening.waiting.push(command);
            return;
        }
        match command {
            Command::Begin(run, channel) => self.begin(run, channel),
            Command::End(run) => {
                self.opening.remove(&run);
                if let Some(number) = self.runs.number(run) {
                    self.end(number, "its run is over");
                }
            }
            Command::Export(id, stream, port) => self.export(id, stream, port),
            Command::Import(id, stream, port) => self.import(id, stream, port),
            Command::Drop(stream) => {
                for peer in self.peers.values_mut() {
                    peer.streams.drop_stream(&mut peer.link, stream);
                }
            }
            Command::Leave(id, run) => {
                if let (Some(number), Some(peer)) = (self.runs.number(run), self.peers.get_mut(&id)) {
                    peer.end_run(run, number, "its run goes on without this node", self.report);
                }
            }
            Command::Connect(id, path, number) => {
                let report = self.report;
                self.peer(id).connect(path, number, report);
            }
            Command::Silence(id, limit) => self.peer(id).silence = limit,
            Command::Forget(id) => {
                if let Some(peer) = self.peers.remove(&id) {
                    self.life = self.life.wrapping_add(1);
                    let failures = peer.close(&mut self.watchers, self.report);
                    self.handle(failures);
                }
            }
            Command::Sum(run) => {
                for peer in self.peers.values_mut() {
                    peer.report_stats(self.report);
                    peer.report_traffic(run, self.report);
                }
                (self.report)(Report::Summed(run));
            }
        }
    }

    fn begin(&mut self, run: RunId, channel: OwnedFd) {
        self.opening.remove(&run);
        if let Some(before) = self.runs.number(run) {
            self.end(before, "its run has begun again");
        }
        let attaching = Attaching::new(self.channels.add(channel));
        self.opening.insert(run, Opening { attaching, since: Instant::now(), waiting: Vec::new() });
    }

    /// Goes on with the runs whose channels the store has opened. Returns whether there were any.
    fn open_channels(&mut self) -> bool {
        let mut opened = Vec::new();
        self.opening.retain(|&run, opening| match opening.attaching.try_finish().transpose() {
            None => true,
            Some(attachment) => {
                opened.push((run, attachment, std::mem::take(&mut opening.waiting)));
                false
            }
        });
        let busy = !opened.is_empty();
        for (run, attachment, waiting) in opened {
            match attachment.and_then(|attachment| self.runs.begin(run, attachment)) {
                Ok(_) => waiting.into_iter().for_each(|command| self.obey(command)),
                Err(error) => (self.report)(Report::RunFailed(run, error.to_string())),
            }
        }
        busy
    }

    /// Ends a run on all links. Returns its id, unless it has ended already.
    fn end(&mut self, number: RunNumber, reason: &str) -> Option<RunId> {
        let run = self.runs.remove(number, &mut self.watchers)?;
        for peer in self.peers.values_mut() {
            peer.end_run(run.id, number, reason, self.report);
        }
        Some(run.id)
    }

    fn fail_run(&mut self, number: RunNumber, reason: String) {
        if let Some(run) = self.end(number, "its node cannot go on with its run") {
            (self.report)(Report::RunFailed(run, reason));
        }
    }

    fn export(&mut self, peer: NodeId, stream: StreamKey, port: PortId) {
        // Otherwise it has failed, which the node may not have heard yet.
        if let Some((run, state)) = self.runs.get(stream.run()) {
            let outgoing = state.attachment.outgoing(port);
            let peer = self.peer(peer);
            peer.link.keep_traffic(stream.run());
            peer.streams.export(stream, Port { run, id: port }, outgoing);
        }
    }

    fn import(&mut self, peer: NodeId, stream: StreamKey, port: PortId) {
        if let Some((run, state)) = self.runs.get(stream.run()) {
            let incoming = state.attachment.incoming(port);
            let peer = self.peer(peer);
            peer.link.keep_traffic(stream.run());
            peer.streams.import(&mut peer.link, stream, Port { run, id: port }, incoming);
        }
    }

    fn handle(&mut self, failures: Vec<Failure>) {
        for failure in failures {
            match failure {
                Failure::Export(stream, reason) => (self.report)(Report::ExportFailed(stream, reason)),
                Failure::Import(stream, reason) => (self.report)(Report::ImportFailed(stream, reason)),
                Failure::Channel(run, reason) => self.fail_run(run, reason),
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            peer.tick(now, self.report);
        }
        self.watchers.let_go();
    }

    /// Sends what was delayed, and waits.
    fn rest(&mut self, now: Instant) {
        // Nothing wakes the thread when the store opens a channel: the bell is among what it sends. A run begins at most this
        // much later than it could.
        let opening = |opening: &Opening| now.saturating_duration_since(opening.since) / OPENING_FRACTION;
        let opening = self.opening.values().map(opening).min().map(|limit| limit.max(LEAST_OPENING));
        let mut limit = opening.into_iter().chain([TICK]).min().unwrap_or(TICK);
        let most = WATCHED / self.peers.len().max(1);
        self.runs.rest(&mut self.watchers);
        // First of all: a port may be watched on another link already, for another stream.
        self.peers.values_mut().for_each(|peer| peer.streams.forget_unwatched(&mut self.watchers));
        let mut ports: Vec<&mut dyn Wait> = vec![&mut self.listener];
        for peer in self.peers.values_mut() {
            let credit_due = peer.link.settle(&mut peer.streams);
            for at in credit_due.into_iter().chain(peer.streams.look_again_at()) {
                limit = limit.min(at.saturating_duration_since(now));
            }
            peer.streams.rest(most, &mut self.watchers);
            peer.streams.wait_for(&mut ports);
        }
        self.runs.wait(ports, limit);
    }
}
