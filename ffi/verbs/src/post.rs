//! Posting work to a queue pair: sends, writes, reads and receives, one at a time or in batches with one doorbell.

use crate::completion::Attachment;
use crate::device::check;
use crate::error::PostError;
use crate::in_flight::{Entry, InFlight};
use crate::queue_pair::{QueuePair, QueuePairState};
use crate::region::{MemoryRegion, MemorySlice, RegionAccess, RemoteMemory};
use crate::status::Operation;
use crate::window::Window;
use rdma_sys::{
    ibv_post_recv, ibv_post_send, ibv_recv_wr, ibv_send_flags as flags, ibv_send_wr, ibv_sge, ibv_wr_opcode as opcode,
    rdma_t,
};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::{Arc, MutexGuard, PoisonError};

/// The operation of a request for the send queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOperation {
    /// Sends a message to the peer's next receive.
    Send,
    /// Sends a message with 32 bits of immediate data.
    SendWithImmediate(u32),
    /// Writes to the peer's memory without notifying the peer.
    Write(RemoteMemory),
    /// Writes to the peer's memory and completes the peer's next receive with 32 bits of immediate data, after the
    /// bytes have been placed.
    WriteWithImmediate(RemoteMemory, u32),
    /// Reads from the peer's memory into local memory.
    Read(RemoteMemory),
}

/// The data of a request.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// None.
    Empty,
    /// Registered memory that the device reads (for a read operation: writes) at any time until the completion.
    Memory(MemorySlice<'a>),
    /// Registered memory that is copied when the request is posted, which saves the device an access to memory. Limited
    /// by the capacity for inline data.
    InlineMemory(MemorySlice<'a>),
    /// Any bytes, copied when the request is posted. Limited by the capacity for inline data.
    Inline(&'a [u8]),
}

/// A request for the send queue.
#[derive(Clone, Copy, Debug)]
pub struct SendRequest<'a> {
    /// An id chosen by the caller, returned in the completion.
    pub id: u64,
    /// The operation.
    pub operation: SendOperation,
    /// The data.
    pub data: Data<'a>,
    /// Whether its success is reported. A failure always is reported.
    pub signaled: bool,
}

/// A request for the receive queue.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveRequest<'a> {
    /// An id chosen by the caller, returned in the completion.
    pub id: u64,
    /// The buffer for the message. Without one, only writes with immediate data and empty messages can be received.
    pub into: Option<MemorySlice<'a>>,
}

/// What a request in flight keeps alive.
#[expect(dead_code, reason = "only held")]
pub(crate) struct Hold {
    pub(crate) region: MemoryRegion,
    pub(crate) window: Option<Arc<Window>>,
}

/// Reused buffers in which the requests of a batch are linked for the driver.
pub(crate) struct Scratch {
    sends: Vec<ibv_send_wr>,
    receives: Vec<ibv_recv_wr>,
    pieces: Vec<ibv_sge>,
}

impl Scratch {
    pub(crate) fn new(depth: usize) -> Self {
        Self {
            sends: Vec::with_capacity(depth),
            receives: Vec::with_capacity(depth),
            pieces: Vec::with_capacity(depth),
        }
    }

    fn clear(&mut self) {
        self.sends.clear();
        self.receives.clear();
        self.pieces.clear();
    }
}

impl QueuePair {
    /// Posts a batch to the send queue, in this order, with one doorbell. On an error nothing is posted, except for
    /// [`PostError::System`].
    ///
    /// # Errors
    /// If the queue has no room for the batch, if a request is invalid, or if the device rejects one.
    pub fn post(&self, requests: &[SendRequest<'_>]) -> Result<(), PostError> {
        if !matches!(self.reached(), QueuePairState::Connected | QueuePairState::Error) {
            return Err(PostError::State { state: self.reached() });
        }
        for request in requests {
            self.check_send(request)?;
        }
        let mut scratch = self.scratch();
        let mut queue = room(&self.send, requests.len())?;
        for request in requests {
            let signaled = request.signaled || queue.must_signal();
            let (piece, hold) = piece(&request.data);
            let entry = Entry {
                id: request.id,
                operation: request.operation.completed(),
                bytes: piece.length,
                notify: request.signaled,
                hold,
            };
            let mut send = no_send();
            send.wr_id = self.send.tag(queue.push(entry, signaled));
            request.operation.describe(&mut send);
            if signaled {
                send.send_flags |= flags::IBV_SEND_SIGNALED.0;
            }
            if matches!(request.data, Data::Inline(_) | Data::InlineMemory(_)) {
                send.send_flags |= flags::IBV_SEND_INLINE.0;
            }
            send.num_sge = i32::from(piece.length > 0);
            scratch.pieces.push(piece);
            scratch.sends.push(send);
        }
        self.ring_sends(&mut scratch, &mut queue)
    }

    /// Writes bytes to the peer's memory; see [`SendOperation::Write`].
    ///
    /// # Errors
    /// As [`QueuePair::post`].
    pub fn write(&self, id: u64, data: Data<'_>, to: RemoteMemory, signaled: bool) -> Result<(), PostError> {
        self.post(&[SendRequest { id, operation: SendOperation::Write(to), data, signaled }])
    }

    /// Writes bytes to the peer's memory and notifies the peer; see [`SendOperation::WriteWithImmediate`].
    ///
    /// # Errors
    /// As [`QueuePair::post`].
    pub fn write_with_immediate(
        &self,
        id: u64,
        data: Data<'_>,
        to: RemoteMemory,
        immediate: u32,
        signaled: bool,
    ) -> Result<(), PostError> {
        self.post(&[SendRequest { id, operation: SendOperation::WriteWithImmediate(to, immediate), data, signaled }])
    }

    /// Sends a message.
    ///
    /// # Errors
    /// As [`QueuePair::post`].
    pub fn send(&self, id: u64, data: Data<'_>, signaled: bool) -> Result<(), PostError> {
        self.post(&[SendRequest { id, operation: SendOperation::Send, data, signaled }])
    }

    /// Reads bytes of the peer's memory into local memory. They are valid once the request has completed.
    ///
    /// # Errors
    /// As [`QueuePair::post`].
    pub fn read(&self, id: u64, into: MemorySlice<'_>, from: RemoteMemory) -> Result<(), PostError> {
        let data = Data::Memory(into);
        self.post(&[SendRequest { id, operation: SendOperation::Read(from), data, signaled: true }])
    }

    /// Posts a batch to the receive queue. On an error nothing is posted, except for [`PostError::System`].
    ///
    /// # Errors
    /// If the queue has no room for the batch, if a request is invalid, or if the device rejects one.
    pub fn post_receives(&self, requests: &[ReceiveRequest<'_>]) -> Result<(), PostError> {
        if self.reached() == QueuePairState::Reset {
            return Err(PostError::State { state: self.reached() });
        }
        for slice in requests.iter().filter_map(|request| request.into.as_ref()) {
            self.check_slice(slice)?;
            if !slice.region.access().writes() {
                return Err(PostError::Unsuitable("a receive needs memory that is registered for receiving"));
            }
        }
        let mut scratch = self.scratch();
        let mut queue = room(&self.receive, requests.len())?;
        for request in requests {
            let (piece, hold) = request.into.as_ref().map_or((NO_PIECE, None), |slice| piece(&Data::Memory(*slice)));
            let entry = Entry { id: request.id, operation: Operation::Receive, bytes: 0, notify: true, hold };
            let sequence = queue.push(entry, true);
            scratch.receives.push(ibv_recv_wr {
                wr_id: self.receive.tag(sequence),
                next: null_mut(),
                sg_list: null_mut(),
                num_sge: i32::from(piece.length > 0),
            });
            scratch.pieces.push(piece);
        }
        self.ring_receives(&mut scratch, &mut queue)
    }

    fn check_send(&self, request: &SendRequest<'_>) -> Result<(), PostError> {
        let length = match &request.data {
            Data::Empty => 0,
            Data::Memory(slice) | Data::InlineMemory(slice) => {
                self.check_slice(slice)?;
                slice.length as usize
            }
            Data::Inline(bytes) => bytes.len(),
        };
        if matches!(request.data, Data::Inline(_) | Data::InlineMemory(_)) && length > self.max_inline() {
            return Err(PostError::InlineTooLong { length, most: self.max_inline() });
        }
        match (request.operation, &request.data) {
            (SendOperation::Read(_), Data::Memory(slice)) if slice.region.access().writes() => Ok(()),
            (SendOperation::Read(_), _) => {
                Err(PostError::Unsuitable("a read needs memory that is registered for receiving"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_slice(&self, slice: &MemorySlice<'_>) -> Result<(), PostError> {
        if slice.region.domain().is_same(self.domain()) {
            Ok(())
        } else {
            Err(PostError::Unsuitable("the memory is registered in another protection domain than the queue pair's"))
        }
    }

    /// Posts a request of a memory window.
    pub(crate) fn post_window(
        &self,
        id: u64,
        operation: Operation,
        signaled: bool,
        hold: Option<Hold>,
        describe: impl FnOnce(&mut ibv_send_wr),
    ) -> Result<(), PostError> {
        if self.reached() != QueuePairState::Connected {
            return Err(PostError::State { state: self.reached() });
        }
        let mut scratch = self.scratch();
        let mut queue = room(&self.send, 1)?;
        let reported = signaled || queue.must_signal();
        let mut send = no_send();
        send.wr_id = self.send.tag(queue.push(Entry { id, operation, bytes: 0, notify: signaled, hold }, reported));
        describe(&mut send);
        if reported {
            send.send_flags |= flags::IBV_SEND_SIGNALED.0;
        }
        scratch.pieces.push(NO_PIECE);
        scratch.sends.push(send);
        self.ring_sends(&mut scratch, &mut queue)
    }

    fn scratch(&self) -> MutexGuard<'_, Scratch> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        scratch.clear();
        scratch
    }

    fn ring_sends(&self, scratch: &mut Scratch, queue: &mut InFlight<Hold>) -> Result<(), PostError> {
        let Scratch { sends, pieces, .. } = scratch;
        let (first, first_piece) = (sends.as_mut_ptr(), pieces.as_mut_ptr());
        for at in 0..sends.len() {
            // SAFETY: both vectors have one element for each request and no longer grow.
            unsafe {
                (*first.add(at)).sg_list = first_piece.add(at);
                (*first.add(at)).next = if at + 1 < sends.len() { first.add(at + 1) } else { null_mut() };
            }
        }
        if sends.is_empty() {
            return Ok(());
        }
        let mut refused = null_mut();
        // SAFETY: the queue pair is alive. The list is well-formed and is read only during the call. The memory to
        // which its pieces refer is registered and kept alive by the entries in `queue`, or is inline and valid during
        // the call.
        let code = unsafe { ibv_post_send(self.raw.as_ptr(), first, &raw mut refused) };
        outcome(code, position(first, refused, sends.len()), sends.len(), queue)
    }

    fn ring_receives(&self, scratch: &mut Scratch, queue: &mut InFlight<Hold>) -> Result<(), PostError> {
        let Scratch { receives, pieces, .. } = scratch;
        let (first, first_piece) = (receives.as_mut_ptr(), pieces.as_mut_ptr());
        for at in 0..receives.len() {
            // SAFETY: as in `ring_sends`.
            unsafe {
                (*first.add(at)).sg_list = first_piece.add(at);
                (*first.add(at)).next = if at + 1 < receives.len() { first.add(at + 1) } else { null_mut() };
            }
        }
        if receives.is_empty() {
            return Ok(());
        }
        let mut refused = null_mut();
        // SAFETY: as in `ring_sends`; the memory is registered for writing.
        let code = unsafe { ibv_post_recv(self.raw.as_ptr(), first, &raw mut refused) };
        outcome(code, position(first, refused, receives.len()), receives.len(), queue)
    }
}

const NO_PIECE: ibv_sge = ibv_sge { addr: 0, length: 0, lkey: 0 };

impl SendOperation {
    fn completed(self) -> Operation {
        match self {
            Self::Send | Self::SendWithImmediate(_) => Operation::Send,
            Self::Write(_) | Self::WriteWithImmediate(..) => Operation::Write,
            Self::Read(_) => Operation::Read,
        }
    }

    fn describe(self, send: &mut ibv_send_wr) {
        let mut target = |memory: RemoteMemory| {
            send.wr.rdma = rdma_t { remote_addr: memory.address, rkey: memory.key.number() };
        };
        let (code, immediate) = match self {
            Self::Send => (opcode::IBV_WR_SEND, 0),
            Self::SendWithImmediate(immediate) => (opcode::IBV_WR_SEND_WITH_IMM, immediate),
            Self::Write(to) => {
                target(to);
                (opcode::IBV_WR_RDMA_WRITE, 0)
            }
            Self::WriteWithImmediate(to, immediate) => {
                target(to);
                (opcode::IBV_WR_RDMA_WRITE_WITH_IMM, immediate)
            }
            Self::Read(from) => {
                target(from);
                (opcode::IBV_WR_RDMA_READ, 0)
            }
        };
        send.opcode = code;
        send.imm_data_invalidated_rkey_union.imm_data = immediate.to_be();
    }
}

/// The scatter/gather entry for the data, and what keeps the memory alive.
fn piece(data: &Data<'_>) -> (ibv_sge, Option<Hold>) {
    match data {
        Data::Empty => (NO_PIECE, None),
        Data::Memory(slice) | Data::InlineMemory(slice) => {
            let piece = ibv_sge {
                addr: slice.region.address(slice.offset),
                length: slice.length,
                lkey: slice.region.local_key().0,
            };
            (piece, Some(Hold { region: slice.region.clone(), window: None }))
        }
        Data::Inline(bytes) => {
            // The length does not exceed the inline capacity, as checked before.
            let length = u32::try_from(bytes.len()).unwrap_or(0);
            (ibv_sge { addr: bytes.as_ptr() as u64, length, lkey: 0 }, None)
        }
    }
}

fn room(attachment: &Attachment, wanted: usize) -> Result<MutexGuard<'_, InFlight<Hold>>, PostError> {
    let queue = attachment.lock();
    let free = queue.free();
    if wanted > free { Err(PostError::QueueFull { wanted, free }) } else { Ok(queue) }
}

fn no_send() -> ibv_send_wr {
    // SAFETY: plain numbers and pointers, for which zeroes are valid.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// The index of the request that the driver rejected.
fn position<T>(first: *const T, refused: *const T, count: usize) -> usize {
    (0..count).find(|&at| std::ptr::eq(first.wrapping_add(at), refused)).unwrap_or(0)
}

/// Removes the entries of requests that were not posted.
fn outcome(code: i32, posted: usize, count: usize, queue: &mut InFlight<Hold>) -> Result<(), PostError> {
    check(code).map_err(|source| {
        queue.take_back(count - posted);
        PostError::System { posted, source }
    })
}

/// Whether memory windows may be bound to a region with this access.
pub(crate) fn takes_windows(slice: &MemorySlice<'_>) -> Result<(), PostError> {
    if slice.region.access() == RegionAccess::Windows {
        Ok(())
    } else {
        Err(PostError::Unsuitable("a memory window needs memory that is registered for windows"))
    }
}
