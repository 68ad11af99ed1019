//! The receiving half of a path: messages, and stream bytes that are copied straight into their windows.

use super::connection::Shared;
use super::header::HEADER;
use super::lock;
use super::routes::over;
use crate::path::{PathError, PathEvent};
use bytes::{Buf, BytesMut};
use dflow_protocol::limits::MAX_PEER_MESSAGE;
use dflow_protocol::wire::{FlowId, PeerMessage, WireError};
use dflow_shm::{Landing, OutOfRoom};
use quinn::{Chunk, ReadError, RecvStream, VarInt};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use tokio::sync::Notify;

/// The most bytes of messages that wait for the link. Past it the stream is not read, and QUIC's flow control holds the
/// peer.
const MAX_UNREAD: usize = 4 * 1024 * 1024;
/// The most separate ranges that have arrived of one flow since the link's last poll.
const MAX_GAPS: usize = 65_536;
/// The most windows of one flow into which bytes may be in flight.
const MAX_WINDOWS: usize = 8;
/// The code with which an unwanted stream is stopped.
const UNWANTED: VarInt = VarInt::from_u32(1);

/// The receiving half of a path: filled by the endpoint's thread, emptied by the link's.
pub(super) struct Receiving {
    incarnation: u64,
    waker: Waker,
    /// The link has been woken and has not polled since.
    signalled: AtomicBool,
    events: Mutex<Events>,
    /// Notified when the link has taken messages.
    taken: Notify,
    flows: Mutex<Flows>,
}

#[derive(Default)]
struct Events {
    messages: VecDeque<PeerMessage>,
    /// The encoded size of all of them.
    bytes: usize,
    /// Flows of which bytes have arrived.
    ready: Vec<Arc<InFlow>>,
    room: bool,
    lost: Option<PathError>,
    /// [`PathEvent::Lost`] was queued; nothing may follow it.
    over: bool,
}

#[derive(Default)]
struct Flows {
    by_id: HashMap<FlowId, Arc<InFlow>>,
    /// The highest flow that was ever offered on this path.
    highest: Option<FlowId>,
    /// The stream of messages is open.
    has_messages: bool,
    closed: bool,
}

/// An incoming flow.
pub(super) struct InFlow {
    flow: FlowId,
    state: Mutex<InState>,
}

#[derive(Default)]
struct InState {
    /// The windows, in stream order; each ends where the next begins.
    windows: VecDeque<InWindow>,
    /// The offset at which its QUIC stream begins, once that is open.
    start: Option<u64>,
    /// The ranges that have arrived since the last poll, start and end, in the order of arrival.
    arrived: Vec<(u64, u64)>,
    listed: bool,
    over: bool,
}

struct InWindow {
    landing: Arc<Landing>,
    /// Bytes that have arrived in it on this path. QUIC delivers each once.
    placed: u64,
}

/// Why bytes were not placed.
enum Misplaced {
    /// The flow is over.
    Late,
    OutOfRoom(OutOfRoom),
    Gaps,
}

impl Receiving {
    pub(super) fn new(incarnation: u64, waker: Waker) -> Self {
        Self {
            incarnation,
            waker,
            signalled: AtomicBool::new(false),
            events: Mutex::default(),
            taken: Notify::new(),
            flows: Mutex::default(),
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    // ---- The link's side ----

    /// Adds a window. Returns the number of flows if this one is new.
    pub(super) fn offer(&self, flow: FlowId, landing: &Arc<Landing>) -> Option<usize> {
        let mut flows = lock(&self.flows);
        flows.highest = flows.highest.max(Some(flow));
        let before = flows.by_id.len();
        let entry = flows.by_id.entry(flow);
        let inflow = entry.or_insert_with(|| Arc::new(InFlow { flow, state: Mutex::default() })).clone();
        let now = flows.by_id.len();
        drop(flows);
        inflow.offer(landing);
        (now > before).then_some(now)
    }

    /// After this returns, no byte of the flow lands.
    pub(super) fn withdraw(&self, flow: FlowId) {
        let inflow = lock(&self.flows).by_id.remove(&flow);
        if let Some(inflow) = inflow {
            inflow.close();
        }
    }

    pub(super) fn poll(&self, out: &mut Vec<PathEvent>) {
        // Before the events are taken: whatever arrives afterwards must wake the link again.
        self.signalled.store(false, Ordering::SeqCst);
        let mut events = lock(&self.events);
        let messages = std::mem::take(&mut events.messages);
        let ready = std::mem::take(&mut events.ready);
        let room = std::mem::take(&mut events.room);
        let was_full = events.bytes >= MAX_UNREAD;
        events.bytes = 0;
        let lost = events.lost.take();
        drop(events);
        if was_full {
            self.taken.notify_one();
        }
        for inflow in ready {
            let (flow, mut state) = (inflow.flow, lock(&inflow.state));
            state.listed = false;
            let arrived = std::mem::take(&mut state.arrived);
            drop(state);
            let placed = arrived.into_iter().map(|(at, end)| PathEvent::Placed { flow, at, length: end - at });
            out.extend(placed);
        }
        out.extend(messages.into_iter().map(PathEvent::Message));
        out.extend(room.then_some(PathEvent::Room));
        out.extend(lost.map(PathEvent::Lost));
    }

    /// After this returns, nothing lands.
    pub(super) fn close(&self) {
        let mut flows = lock(&self.flows);
        flows.closed = true;
        let all = std::mem::take(&mut flows.by_id);
        drop(flows);
        for inflow in all.into_values() {
            inflow.close();
        }
        let mut events = lock(&self.events);
        events.over = true;
        events.messages.clear();
        events.ready.clear();
        drop(events);
        self.taken.notify_one();
    }

    // ---- The endpoint's side ----

    /// There is room for writes again.
    pub(super) fn room(&self) {
        let mut events = lock(&self.events);
        if !events.over {
            events.room = true;
            drop(events);
            self.wake();
        }
    }

    /// The path is lost. Only the first reason counts.
    pub(super) fn lost(&self, error: PathError) {
        let mut events = lock(&self.events);
        if !std::mem::replace(&mut events.over, true) {
            events.lost = Some(error);
            drop(events);
            self.wake();
        }
    }

    fn wake(&self) {
        if !self.signalled.swap(true, Ordering::SeqCst) {
            self.waker.wake_by_ref();
        }
    }

    /// Claims the stream of messages; `false` if there is one already.
    pub(super) fn take_messages(&self) -> bool {
        !std::mem::replace(&mut lock(&self.flows).has_messages, true)
    }

    /// The peer has opened the stream of this flow, which begins at this offset. `None` if the flow is over.
    pub(super) fn open(&self, flow: FlowId, start: u64) -> Result<Option<Arc<InFlow>>, PathError> {
        let flows = lock(&self.flows);
        let Some(inflow) = flows.by_id.get(&flow).cloned() else {
            if flows.closed || flows.highest.is_some_and(|highest| flow <= highest) {
                return Ok(None);
            }
            return Err(PathError::Protocol(format!("bytes of {flow}, for which it has no window")));
        };
        drop(flows);
        let mut state = lock(&inflow.state);
        if state.start.replace(start).is_some() {
            return Err(PathError::Protocol(format!("a second stream for {flow}")));
        }
        state.retire();
        drop(state);
        Ok(Some(inflow))
    }
}

impl InFlow {
    fn offer(&self, landing: &Arc<Landing>) {
        let mut state = lock(&self.state);
        while state.windows.back().is_some_and(|last| last.landing.base() >= landing.base()) {
            state.windows.pop_back();
        }
        if state.windows.len() >= MAX_WINDOWS {
            state.windows.pop_front();
        }
        state.windows.push_back(InWindow { landing: landing.clone(), placed: 0 });
        state.retire();
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        state.over = true;
        state.windows.clear();
        state.arrived.clear();
    }

    /// Copies bytes into their windows. Returns whether the flow has to be listed for the link.
    fn place(&self, at: u64, bytes: &[u8]) -> Result<bool, Misplaced> {
        let mut state = lock(&self.state);
        if state.over {
            return Err(Misplaced::Late);
        }
        let (mut next, mut left) = (at, bytes);
        while !left.is_empty() {
            let index = state.windows.iter().rposition(|window| window.landing.base() <= next).unwrap_or(0);
            let end = state.windows.get(index + 1).map_or(u64::MAX, |window| window.landing.base());
            let length = usize::try_from(end.saturating_sub(next)).unwrap_or(usize::MAX).clamp(1, left.len());
            let (part, rest) = left.split_at(length);
            let Some(window) = state.windows.get_mut(index) else { return Err(Misplaced::Late) };
            window.landing.place(next, part).map_err(Misplaced::OutOfRoom)?;
            window.placed += length as u64;
            next += length as u64;
            left = rest;
        }
        state.retire();
        let runs = state.arrived.len();
        match state.arrived.last_mut() {
            Some((_, end)) if *end == at => *end = next,
            _ if runs >= MAX_GAPS => return Err(Misplaced::Gaps),
            _ => state.arrived.push((at, next)),
        }
        Ok(!std::mem::replace(&mut state.listed, true))
    }
}

impl InState {
    /// Drops leading windows that are completely filled.
    fn retire(&mut self) {
        let Some(start) = self.start else { return };
        while let (Some(first), Some(next)) = (self.windows.front(), self.windows.get(1)) {
            if first.placed < next.landing.base().saturating_sub(start.max(first.landing.base())) {
                break;
            }
            self.windows.pop_front();
        }
    }
}

/// Reads the messages of a path until it is over.
pub(super) async fn read_messages(shared: Arc<Shared>, receiving: Arc<Receiving>, mut stream: RecvStream) {
    let mut buffer = BytesMut::new();
    loop {
        match stream.read_chunk(MAX_UNREAD, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Ok(None) if !buffer.is_empty() => {
                let problem = format!("its messages end after {} bytes of one", buffer.len());
                return shared.violation(&PathError::Protocol(problem));
            }
            Ok(None) => return receiving.lost(over("the peer has ended it")),
            Err(ReadError::Reset(_)) => return receiving.lost(over("the peer has closed it")),
            // The connection is gone; `serve` reports why.
            Err(_) => return,
        }
        loop {
            let message = match next_message(&mut buffer) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return shared.violation(&error.into()),
            };
            let mut events = lock(&receiving.events);
            events.bytes += message.1;
            events.messages.push_back(message.0);
        }
        let waiting = lock(&receiving.events).bytes;
        if waiting > 0 {
            receiving.wake();
        }
        while lock(&receiving.events).bytes >= MAX_UNREAD {
            receiving.taken.notified().await;
        }
        if lock(&receiving.events).over {
            let _ = stream.stop(UNWANTED);
            return;
        }
    }
}

/// Takes the next complete message out of the buffer, and its size.
fn next_message(buffer: &mut BytesMut) -> Result<Option<(PeerMessage, usize)>, WireError> {
    const LENGTH: usize = 4;
    let Some(&[a, b, c, d]) = buffer.first_chunk::<LENGTH>() else { return Ok(None) };
    let size = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if size > MAX_PEER_MESSAGE {
        return Err(WireError::TooLong { size });
    }
    let Some(bytes) = buffer.get(LENGTH..LENGTH + size) else { return Ok(None) };
    let message = PeerMessage::decode(bytes)?;
    buffer.advance(LENGTH + size);
    Ok(Some((message, LENGTH + size)))
}

/// Reads the bytes of a flow in any order.
pub(super) async fn read_flow(
    shared: Arc<Shared>,
    receiving: Arc<Receiving>,
    inflow: Arc<InFlow>,
    start: u64,
    mut stream: RecvStream,
) {
    let mut has_arrived = false;
    loop {
        // One wake-up for everything that has arrived together: each costs the link's thread a pass over its streams.
        let tell = || {
            if std::mem::take(&mut has_arrived) {
                receiving.wake();
            }
        };
        let Some(chunk) = next_chunk(&mut stream, tell).await else { break };
        let at = start.saturating_add(chunk.offset.saturating_sub(HEADER as u64));
        match inflow.place(at, &chunk.bytes) {
            Ok(false) => {}
            Ok(true) => {
                lock(&receiving.events).ready.push(inflow.clone());
                has_arrived = true;
            }
            Err(Misplaced::Late) => {
                let _ = stream.stop(UNWANTED);
                return;
            }
            Err(problem) => {
                let error = match problem {
                    Misplaced::OutOfRoom(error) => PathError::OutOfRoom(error),
                    _ => PathError::Protocol(format!("more than {MAX_GAPS} gaps in {}", inflow.flow)),
                };
                return shared.violation(&error);
            }
        }
    }
    if has_arrived {
        receiving.wake();
    }
}

/// The next chunk of the stream, in any order; `None` at its end or when it is reset. `waits` is called before waiting.
async fn next_chunk(stream: &mut RecvStream, waits: impl FnOnce()) -> Option<Chunk> {
    let mut read = pin!(stream.read_chunk(usize::MAX, false));
    let at_once = poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => Poll::Ready(None),
    });
    match at_once.await {
        Some(outcome) => outcome,
        None => {
            waits();
            read.await
        }
    }
    .unwrap_or(None)
}

/// Stops a stream of a path or flow that is over.
pub(super) fn refuse(mut stream: RecvStream) {
    let _ = stream.stop(UNWANTED);
}
