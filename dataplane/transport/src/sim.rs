//! A simulated network: paths inside of one process on a clock of its own, with delays, losses, reordering, duplicates,
//! cuts and crashes that a seed decides. The same seed gives the same run.

use crate::chunk::Chunk;
use crate::path::{Path, PathError, PathEvent, PathKind, RemoteWindow};
use dflow_protocol::exchange::Order;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage};
use dflow_shm::Landing;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// The most windows of one flow into which bytes may be on their way.
const MAX_WINDOWS: usize = 8;

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// The least and the most time that something needs to the other side, in ticks of the simulated clock.
    pub delay: (u64, u64),
    /// How many of a thousand packets are lost, and come only after [`SimConfig::resend_after`].
    pub loss_per_mille: u64,
    /// After so many ticks a lost packet is sent again.
    pub resend_after: u64,
    /// How many of a thousand packets come twice. The ends number their packets, and take one of each number, as QUIC
    /// does it.
    pub duplicate_per_mille: u64,
    /// Bytes are cut into packets of random sizes up to this many, which arrive in any order; 0: one packet a write, in
    /// the order in which they were written.
    pub packet: u64,
    /// Bytes that an end can send in a tick; 0: as many as it likes.
    pub bandwidth: u64,
    /// Bytes that may be under way before [`Path::has_room`] says no.
    pub in_flight: u64,
    /// So many times in all an end of a connection crashes: it vanishes with everything it has and without a word, and
    /// what it has sent still arrives. See [`SimNet::take_crash`].
    pub crashes: u32,
    /// The least and the most age of a connection at which one of its ends crashes, in ticks. One that is closed before
    /// that sees none.
    pub lifetime: (u64, u64),
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            delay: (5, 50),
            loss_per_mille: 20,
            resend_after: 400,
            duplicate_per_mille: 20,
            packet: 9000,
            bandwidth: 0,
            in_flight: 1 << 20,
            crashes: 0,
            lifetime: (0, 1000),
        }
    }
}

/// A network between two nodes. Clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    state: Arc<Mutex<State>>,
}

struct State {
    config: SimConfig,
    random: u64,
    now: u64,
    sequence: u64,
    /// By arrival, then in the order of sending.
    under_way: BTreeMap<(u64, u64), Packet>,
    ends: HashMap<EndId, End>,
    next_connection: u64,
    /// Sides that have crashed and of which nobody was told.
    crashed: VecDeque<usize>,
}

/// Which end of which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct EndId {
    connection: u64,
    side: usize,
}

impl EndId {
    fn other(self) -> Self {
        Self { side: 1 - self.side, ..self }
    }
}

#[derive(Default)]
struct End {
    events: VecDeque<PathEvent>,
    /// In the order in which they were offered. Each ends where the next begins.
    landings: HashMap<FlowId, Vec<Arc<Landing>>>,
    /// When the last message or ordered write arrives at this end.
    last_arrival: u64,
    /// When everything that this end has sent is out.
    sent_at: u64,
    /// The number of the next packet that this end sends.
    next_packet: u64,
    arrived: Arrived,
    /// Bytes that this end has sent and that have not arrived.
    in_flight: u64,
    lost: bool,
    waker: Option<Waker>,
}

impl End {
    fn happened(&mut self, event: PathEvent) {
        self.events.push_back(event);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// The numbers of the packets that have come to an end.
#[derive(Default)]
struct Arrived {
    /// All of those below have.
    below: u64,
    beyond: BTreeSet<u64>,
}

impl Arrived {
    /// A packet of this number has come; whether it is the first.
    fn insert(&mut self, number: u64) -> bool {
        let first = number >= self.below && self.beyond.insert(number);
        while self.beyond.remove(&self.below) {
            self.below += 1;
        }
        first
    }
}

enum Packet {
    Data { to: EndId, number: u64, content: Content },
    Cut { end: EndId },
    Crash { end: EndId },
}

#[derive(Clone)]
enum Content {
    Message(Vec<u8>),
    Bytes { flow: FlowId, at: u64, chunk: Chunk },
}

impl SimNet {
    /// A network whose mishaps follow from the seed.
    #[must_use]
    pub fn new(seed: u64, config: SimConfig) -> Self {
        let state = State {
            config,
            random: seed ^ 0x9e37_79b9_7f4a_7c15,
            now: 0,
            sequence: 0,
            under_way: BTreeMap::new(),
            ends: HashMap::new(),
            next_connection: 0,
            crashed: VecDeque::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Both ends of a new connection. Whoever drives an end looks at it when it has reason to; see
    /// [`SimNet::connect_waking`].
    #[must_use]
    pub fn connect(&self) -> [SimPath; 2] {
        self.connect_ends([None, None])
    }

    /// Both ends of a new connection, each of which wakes whoever drives it.
    #[must_use]
    pub fn connect_waking(&self, wakers: [Waker; 2]) -> [SimPath; 2] {
        self.connect_ends(wakers.map(Some))
    }

    fn connect_ends(&self, wakers: [Option<Waker>; 2]) -> [SimPath; 2] {
        let mut state = self.lock();
        state.next_connection += 1;
        let connection = state.next_connection;
        state.foresee_crash(connection);
        let mut wakers = wakers.into_iter().flatten();
        [0, 1].map(|side| {
            let id = EndId { connection, side };
            state.ends.insert(id, End { waker: wakers.next(), ..End::default() });
            SimPath { net: self.clone(), id }
        })
    }

    /// Breaks every connection. Each end notices it at a time of its own; nothing arrives any more.
    pub fn cut(&self) {
        let mut state = self.lock();
        state.under_way.retain(|_, packet| !matches!(packet, Packet::Data { .. }));
        let ends: Vec<EndId> = state.ends.keys().copied().collect();
        for end in ends {
            let at = state.now + state.delay();
            state.post(at, Packet::Cut { end });
        }
    }

    /// Which end of its connection has crashed, as an index into what [`SimNet::connect`] returned: the one of the first
    /// crash of which nobody was told. Whoever drives that end forgets its path and all that its node had, and begins anew.
    pub fn take_crash(&self) -> Option<usize> {
        self.lock().crashed.pop_front()
    }

    /// Lets the clock go on until the next thing arrives; `false` if nothing is under way.
    pub fn advance(&self) -> bool {
        let mut state = self.lock();
        let Some((&(at, _), _)) = state.under_way.first_key_value() else { return false };
        state.now = at;
        while let Some(entry) = state.under_way.first_entry().filter(|entry| entry.key().0 == at) {
            let packet = entry.remove();
            state.deliver(packet);
        }
        true
    }

    /// Sets the clock to this tick, if it is not further already. Everything arrives that arrives until then.
    pub fn advance_to(&self, now: u64) {
        let mut state = self.lock();
        while let Some(entry) = state.under_way.first_entry().filter(|entry| entry.key().0 <= now) {
            let (at, _) = *entry.key();
            let packet = entry.remove();
            state.now = state.now.max(at);
            state.deliver(packet);
        }
        state.now = state.now.max(now);
    }

    /// A number below `limit` that follows from the seed.
    #[must_use]
    pub fn random(&self, limit: u64) -> u64 {
        self.lock().below(limit)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next() % limit }
    }

    /// A number from the first to the second.
    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    fn delay(&mut self) -> u64 {
        let lost = self.below(1000) < self.config.loss_per_mille;
        self.between(self.config.delay) + if lost { self.config.resend_after } else { 0 }
    }

    /// While some are to come, every new connection has one in its future.
    fn foresee_crash(&mut self, connection: u64) {
        if self.config.crashes > 0 {
            let side = usize::from(self.below(2) == 1);
            let at = self.now + self.between(self.config.lifetime);
            self.post(at, Packet::Crash { end: EndId { connection, side } });
        }
    }

    fn post(&mut self, at: u64, packet: Packet) {
        self.sequence += 1;
        self.under_way.insert((at, self.sequence), packet);
    }

    /// Puts what leaves at `sent` on its way, once or twice. `ordered`: it does not overtake what was sent before it.
    fn transmit(&mut self, from: EndId, sent: u64, ordered: bool, content: Content) {
        let to = from.other();
        let Some(end) = self.ends.get_mut(&from) else { return };
        let number = end.next_packet;
        end.next_packet += 1;
        let twice = self.below(1000) < self.config.duplicate_per_mille;
        for content in std::iter::repeat_n(content, 1 + usize::from(twice)) {
            let at = if ordered { self.in_order(to, sent) } else { sent + self.delay() };
            self.post(at, Packet::Data { to, number, content });
        }
    }

    /// When something arrives that must not overtake what was sent before it.
    fn in_order(&mut self, to: EndId, sent: u64) -> u64 {
        let at = sent + self.delay();
        let Some(end) = self.ends.get_mut(&to) else { return at };
        end.last_arrival = end.last_arrival.max(at);
        end.last_arrival
    }

    /// When so many bytes are out that an end sends now.
    fn sent(&mut self, from: EndId, bytes: u64) -> u64 {
        let (now, bandwidth) = (self.now, self.config.bandwidth);
        let Some(end) = self.ends.get_mut(&from).filter(|_| bandwidth > 0) else { return now };
        end.sent_at = end.sent_at.max(now) + bytes.div_ceil(bandwidth);
        end.sent_at
    }

    fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::Cut { end } => self.lose(end, "it was cut"),
            Packet::Crash { end } => self.crash(end),
            Packet::Data { to, number, content } => {
                if self.ends.get_mut(&to).is_some_and(|end| end.arrived.insert(number)) {
                    self.take(to, content);
                }
            }
        }
    }

    fn take(&mut self, to: EndId, content: Content) {
        match content {
            Content::Message(bytes) => {
                let Some(end) = self.ends.get_mut(&to) else { return };
                match PeerMessage::decode(&bytes) {
                    Ok(message) => end.happened(PathEvent::Message(message)),
                    Err(error) => end.happened(PathEvent::Lost(error.into())),
                }
            }
            Content::Bytes { flow, at, chunk } => {
                let length = chunk.len() as u64;
                if let Some(sender) = self.ends.get_mut(&to.other()) {
                    sender.in_flight -= length;
                    sender.happened(PathEvent::Room);
                }
                let Some(end) = self.ends.get_mut(&to) else { return };
                let landings = end.landings.get(&flow).into_iter().flatten();
                let Some(landing) = landings.rev().find(|landing| landing.base() <= at) else { return };
                // Copied only now: bytes that the sender has changed meanwhile would be seen.
                match landing.place(at, &chunk.to_vec()) {
                    Ok(()) => end.happened(PathEvent::Placed { flow, at, length }),
                    Err(error) => end.happened(PathEvent::Lost(error.into())),
                }
            }
        }
    }

    /// The end is no more, and the other one notices it at a time of its own.
    fn crash(&mut self, id: EndId) {
        if self.config.crashes == 0 || self.ends.remove(&id).is_none() {
            return;
        }
        self.config.crashes -= 1;
        self.crashed.push_back(id.side);
        self.under_way.retain(|_, packet| !matches!(packet, Packet::Data { to, .. } if *to == id));
        let at = self.now + self.delay();
        self.post(at, Packet::Cut { end: id.other() });
    }

    fn lose(&mut self, end: EndId, reason: &str) {
        if let Some(end) = self.ends.get_mut(&end)
            && !std::mem::replace(&mut end.lost, true)
        {
            end.landings.clear();
            let reason = reason.to_owned();
            end.happened(PathEvent::Lost(PathError::Lost { kind: PathKind::Sim, reason }));
        }
    }
}

/// One end of a simulated connection.
pub struct SimPath {
    net: SimNet,
    id: EndId,
}

impl SimPath {
    /// Sends these bytes in place of a message, as a peer does that does not keep to the protocol.
    pub fn send_bytes(&mut self, bytes: Vec<u8>) {
        let mut state = self.net.lock();
        if state.ends.get(&self.id).is_some_and(|end| !end.lost) {
            let now = state.now;
            state.transmit(self.id, now, true, Content::Message(bytes));
        }
    }

    fn with_end<T>(&self, otherwise: T, look: impl FnOnce(&mut End) -> T) -> T {
        self.net.lock().ends.get_mut(&self.id).map_or(otherwise, look)
    }
}

impl Path for SimPath {
    fn kind(&self) -> PathKind {
        PathKind::Sim
    }

    fn send(&mut self, message: &PeerMessage) -> Result<(), PathError> {
        self.send_bytes(message.encode()?);
        Ok(())
    }

    fn offer(&mut self, flow: FlowId, _: GrantId, landing: &Arc<Landing>) -> Result<RemoteWindow, PathError> {
        self.with_end((), |end| {
            let landings = end.landings.entry(flow).or_default();
            if landings.len() >= MAX_WINDOWS {
                landings.remove(0);
            }
            landings.push(Arc::clone(landing));
        });
        Ok(RemoteWindow::default())
    }

    fn withdraw(&mut self, flow: FlowId) {
        self.with_end((), |end| {
            end.landings.remove(&flow);
        });
    }

    fn has_room(&self) -> bool {
        let state = self.net.lock();
        state.ends.get(&self.id).is_some_and(|end| !end.lost && end.in_flight < state.config.in_flight)
    }

    fn write(&mut self, order: &Order, chunk: Chunk) -> Result<(), PathError> {
        let mut state = self.net.lock();
        let Some(end) = state.ends.get_mut(&self.id).filter(|end| !end.lost) else { return Ok(()) };
        end.in_flight += chunk.len() as u64;
        let packet = state.config.packet;
        let mut done = 0;
        while done < chunk.len() {
            let left = chunk.len() - done;
            let length =
                if packet == 0 { left } else { left.min(usize::try_from(1 + state.below(packet)).unwrap_or(left)) };
            let start = chunk.start() + done;
            let part = Chunk::new(Arc::clone(chunk.memory()), start..start + length);
            let sent = state.sent(self.id, length as u64);
            let bytes = Content::Bytes { flow: order.flow, at: order.at + done as u64, chunk: part };
            state.transmit(self.id, sent, packet == 0, bytes);
            done += length;
        }
        Ok(())
    }

    fn finish(&mut self, _: FlowId) {}

    fn poll(&mut self, events: &mut Vec<PathEvent>) {
        self.with_end((), |end| events.extend(end.events.drain(..)));
    }
}

impl Drop for SimPath {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        let (id, other) = (self.id, self.id.other());
        state.ends.remove(&id);
        // Nothing of this end's memory is read any more, and nothing lands in it.
        let concerns = |packet: &Packet| match packet {
            Packet::Data { to, content: Content::Message(_), .. } => *to == id,
            Packet::Data { to, content: Content::Bytes { .. }, .. } => *to == id || *to == other,
            Packet::Cut { end } | Packet::Crash { end } => *end == id,
        };
        state.under_way.retain(|_, packet| !concerns(packet));
        if state.ends.contains_key(&other) {
            let now = state.now;
            let at = state.in_order(other, now);
            state.post(at, Packet::Cut { end: other });
        }
    }
}
