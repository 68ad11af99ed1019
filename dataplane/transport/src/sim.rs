//! A simulated network: paths within one process, on a clock of their own, with delays, loss, reordering, duplicates, cuts and
//! crashes that a seed decides. The same seed gives the same execution.

use crate::chunk::Chunk;
use crate::path::{Path, PathError, PathEvent, PathKind, RemoteWindow};
use dflow_protocol::exchange::Order;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage};
use dflow_shm::Landing;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// The most windows of one flow into which bytes may be in flight.
const MAX_WINDOWS: usize = 8;

/// The behaviour of the network.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// The minimum and maximum latency, in ticks of the simulated clock.
    pub delay: (u64, u64),
    /// Lost packets per thousand. They arrive after [`SimConfig::resend_after`].
    pub loss_per_mille: u64,
    /// The ticks after which a lost packet is retransmitted.
    pub resend_after: u64,
    /// Duplicated packets per thousand. The ends number their packets and accept one of each number, as QUIC does.
    pub duplicate_per_mille: u64,
    /// Bytes are cut into packets of random sizes up to this, which arrive in any order. 0: one packet for each write, in
    /// order.
    pub packet: u64,
    /// The bandwidth of each end, in bytes per tick; 0: unlimited.
    pub bandwidth: u64,
    /// The bytes in flight from which [`Path::has_room`] is false.
    pub in_flight: u64,
    /// How many times an end of a connection crashes: it loses everything without notice; what it has sent still arrives.
    /// See [`SimNet::take_crash`].
    pub crashes: u32,
    /// The minimum and maximum age of a connection, in ticks, at which one of its ends crashes.
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
    state: Arc<Mutex<Network>>,
}

struct Network {
    config: SimConfig,
    random: u64,
    now: u64,
    sequence: u64,
    /// By the time of arrival, then in the order of sending.
    in_transit: BTreeMap<(u64, u64), Packet>,
    ends: HashMap<EndpointId, Endpoint>,
    next_connection: u64,
    /// Crashes that were not taken yet, by side.
    crashed: VecDeque<usize>,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct EndpointId {
    connection: u64,
    side: usize,
}

impl EndpointId {
    fn other(self) -> Self {
        Self { side: 1 - self.side, ..self }
    }
}

#[derive(Default)]
struct Endpoint {
    events: VecDeque<PathEvent>,
    /// The windows, in stream order. Each ends where the next begins.
    landings: HashMap<FlowId, Vec<Arc<Landing>>>,
    /// When the last message or ordered write arrives at this end.
    last_arrival: u64,
    /// When this end has put everything on the wire.
    sent_at: u64,
    /// The number of the next packet from this end.
    next_packet: u64,
    arrived: Arrived,
    /// Bytes from this end that have not arrived.
    in_flight: u64,
    lost: bool,
    waker: Option<Waker>,
}

impl Endpoint {
    fn push(&mut self, event: PathEvent) {
        self.events.push_back(event);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// The packet numbers that have arrived at an end.
#[derive(Default)]
struct Arrived {
    /// All numbers below have arrived.
    below: u64,
    beyond: BTreeSet<u64>,
}

impl Arrived {
    /// A packet of this number has arrived. Returns whether it is the first.
    fn insert(&mut self, number: u64) -> bool {
        let first = number >= self.below && self.beyond.insert(number);
        while self.beyond.remove(&self.below) {
            self.below += 1;
        }
        first
    }
}

enum Packet {
    Data { to: EndpointId, number: u64, content: Content },
    Cut { end: EndpointId },
    Crash { end: EndpointId },
}

#[derive(Clone)]
enum Content {
    Message(Vec<u8>),
    Bytes { flow: FlowId, at: u64, chunk: Chunk },
}

impl SimNet {
    /// A network whose faults follow from the seed.
    #[must_use]
    pub fn new(seed: u64, config: SimConfig) -> Self {
        let state = Network {
            config,
            random: seed ^ 0x9e37_79b9_7f4a_7c15,
            now: 0,
            sequence: 0,
            in_transit: BTreeMap::new(),
            ends: HashMap::new(),
            next_connection: 0,
            crashed: VecDeque::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Both ends of a new connection. Nobody is woken: the caller polls them. See [`SimNet::connect_waking`].
    #[must_use]
    pub fn connect(&self) -> [SimPath; 2] {
        self.connect_ends([None, None])
    }

    /// Both ends of a new connection, each with its waker.
    #[must_use]
    pub fn connect_waking(&self, wakers: [Waker; 2]) -> [SimPath; 2] {
        self.connect_ends(wakers.map(Some))
    }

    fn connect_ends(&self, wakers: [Option<Waker>; 2]) -> [SimPath; 2] {
        let mut state = self.lock();
        state.next_connection += 1;
        let connection = state.next_connection;
        state.schedule_crash(connection);
        let mut wakers = wakers.into_iter().flatten();
        [0, 1].map(|side| {
            let id = EndpointId { connection, side };
            state.ends.insert(id, Endpoint { waker: wakers.next(), ..Endpoint::default() });
            SimPath { net: self.clone(), id }
        })
    }

    /// Cuts every connection. Nothing arrives any more, and each end notices at a time of its own.
    pub fn cut(&self) {
        let mut state = self.lock();
        state.in_transit.retain(|_, packet| !matches!(packet, Packet::Data { .. }));
        let ends: Vec<EndpointId> = state.ends.keys().copied().collect();
        for end in ends {
            let at = state.now + state.delay();
            state.post(at, Packet::Cut { end });
        }
    }

    /// Takes the next crash: the side that crashed, as an index into the result of [`SimNet::connect`]. Its driver has to drop
    /// the path and all state of the node, and start again.
    pub fn take_crash(&self) -> Option<usize> {
        self.lock().crashed.pop_front()
    }

    /// Advances the clock to the next arrival; `false` if nothing is in transit.
    pub fn advance(&self) -> bool {
        let mut state = self.lock();
        let Some((&(at, _), _)) = state.in_transit.first_key_value() else { return false };
        state.now = at;
        while let Some(entry) = state.in_transit.first_entry().filter(|entry| entry.key().0 == at) {
            let packet = entry.remove();
            state.deliver(packet);
        }
        true
    }

    /// Advances the clock to this tick, if it is not further already, with everything that arrives until then.
    pub fn advance_to(&self, now: u64) {
        let mut state = self.lock();
        while let Some(entry) = state.in_transit.first_entry().filter(|entry| entry.key().0 <= now) {
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

    fn lock(&self) -> MutexGuard<'_, Network> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
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

    /// Schedules a crash of the new connection while there are crashes left.
    fn schedule_crash(&mut self, connection: u64) {
        if self.config.crashes > 0 {
            let side = usize::from(self.below(2) == 1);
            let at = self.now + self.between(self.config.lifetime);
            self.post(at, Packet::Crash { end: EndpointId { connection, side } });
        }
    }

    fn post(&mut self, at: u64, packet: Packet) {
        self.sequence += 1;
        self.in_transit.insert((at, self.sequence), packet);
    }

    /// Sends content at the time `sent`, once or twice. `ordered`: it does not overtake earlier content.
    fn transmit(&mut self, from: EndpointId, sent: u64, ordered: bool, content: Content) {
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

    /// The time of arrival of content that must not overtake earlier content.
    fn in_order(&mut self, to: EndpointId, sent: u64) -> u64 {
        let at = sent + self.delay();
        let Some(end) = self.ends.get_mut(&to) else { return at };
        end.last_arrival = end.last_arrival.max(at);
        end.last_arrival
    }

    /// When an end that begins now has sent this many bytes.
    fn sent(&mut self, from: EndpointId, bytes: u64) -> u64 {
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

    fn take(&mut self, to: EndpointId, content: Content) {
        match content {
            Content::Message(bytes) => {
                let Some(end) = self.ends.get_mut(&to) else { return };
                match PeerMessage::decode(&bytes) {
                    Ok(message) => end.push(PathEvent::Message(message)),
                    Err(error) => end.push(PathEvent::Lost(error.into())),
                }
            }
            Content::Bytes { flow, at, chunk } => {
                let length = chunk.len() as u64;
                if let Some(sender) = self.ends.get_mut(&to.other()) {
                    sender.in_flight -= length;
                    sender.push(PathEvent::Room);
                }
                let Some(end) = self.ends.get_mut(&to) else { return };
                let landings = end.landings.get(&flow).into_iter().flatten();
                let Some(landing) = landings.rev().find(|landing| landing.base() <= at) else { return };
                // Copied only on arrival, so that tests notice a sender that changes bytes in flight.
                match landing.place(at, &chunk.to_vec()) {
                    Ok(()) => end.push(PathEvent::Placed { flow, at, length }),
                    Err(error) => end.push(PathEvent::Lost(error.into())),
                }
            }
        }
    }

    /// The end vanishes, and the other one notices at a time of its own.
    fn crash(&mut self, id: EndpointId) {
        if self.config.crashes == 0 || self.ends.remove(&id).is_none() {
            return;
        }
        self.config.crashes -= 1;
        self.crashed.push_back(id.side);
        self.in_transit.retain(|_, packet| !matches!(packet, Packet::Data { to, .. } if *to == id));
        let at = self.now + self.delay();
        self.post(at, Packet::Cut { end: id.other() });
    }

    fn lose(&mut self, end: EndpointId, reason: &str) {
        if let Some(end) = self.ends.get_mut(&end)
            && !std::mem::replace(&mut end.lost, true)
        {
            end.landings.clear();
            let reason = reason.to_owned();
            end.push(PathEvent::Lost(PathError::Lost { kind: PathKind::Sim, reason }));
        }
    }
}

/// One end of a simulated connection.
pub struct SimPath {
    net: SimNet,
    id: EndpointId,
}

impl SimPath {
    /// Sends these bytes in place of a message, as a hostile peer might.
    pub fn send_bytes(&mut self, bytes: Vec<u8>) {
        let mut state = self.net.lock();
        if state.ends.get(&self.id).is_some_and(|end| !end.lost) {
            let now = state.now;
            state.transmit(self.id, now, true, Content::Message(bytes));
        }
    }

    fn with_end<T>(&self, otherwise: T, look: impl FnOnce(&mut Endpoint) -> T) -> T {
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
        // The fence: nothing of this end's memory is read after the drop, and nothing lands in it.
        let is_fenced = |packet: &Packet| match packet {
            Packet::Data { to, content: Content::Message(_), .. } => *to == id,
            Packet::Data { to, content: Content::Bytes { .. }, .. } => *to == id || *to == other,
            Packet::Cut { end } | Packet::Crash { end } => *end == id,
        };
        state.in_transit.retain(|_, packet| !is_fenced(packet));
        if state.ends.contains_key(&other) {
            let now = state.now;
            let at = state.in_order(other, now);
            state.post(at, Packet::Cut { end: other });
        }
    }
}
