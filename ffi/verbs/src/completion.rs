//! Completion queues: polling for completions, and sleeping until one arrives.

use crate::device::{Context, check, last_error};
use crate::error::QueueError;
use crate::in_flight::{InFlight, MAX_SLOTS, Tag};
use crate::post::Hold;
use crate::slow::timed;
use crate::status::{Operation, Status};
use rdma_sys::{
    ibv_ack_cq_events, ibv_comp_channel, ibv_cq, ibv_create_comp_channel, ibv_create_cq, ibv_destroy_comp_channel,
    ibv_destroy_cq, ibv_get_cq_event, ibv_poll_cq, ibv_req_notify_cq, ibv_wc, ibv_wc_flags,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum number of completions from one call of the driver.
const BATCH: usize = 32;

/// The end of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// The id that the caller gave to the request.
    pub id: u64,
    /// The number of its queue pair.
    pub queue_pair: u32,
    /// The kind of request.
    pub operation: Operation,
    /// How it ended; for a failed request, [`Status`] is an error.
    pub status: Status,
    /// The number of bytes transferred. For [`Operation::Receive`], the length of the received message or of the write
    /// with immediate data.
    pub bytes: u32,
    /// The immediate data of a received message or write.
    pub immediate: Option<u32>,
}

/// The queue to which the device adds completions. Clones share it.
///
/// It cannot overflow: a queue pair is created only if its depth fits the room that is left.
#[derive(Clone)]
pub struct CompletionQueue {
    inner: Arc<Inner>,
}

struct Inner {
    raw: NonNull<ibv_cq>,
    channel: Option<Channel>,
    context: Context,
    capacity: u32,
    state: Mutex<State>,
}

// SAFETY: libibverbs allows calls on one completion queue from every thread.
unsafe impl Send for Inner {}
// SAFETY: as above; the other fields are behind a lock.
unsafe impl Sync for Inner {}

struct State {
    slots: Vec<Slot>,
    /// The depths of all attached queues.
    reserved: u32,
    /// Maximum number of completions of detached work queues that may still be in the queue.
    stale: u32,
    batch: Box<[MaybeUninit<ibv_wc>]>,
    /// The resources of completed requests, dropped after the lock is released, because dropping may be slow.
    released: Vec<Hold>,
}

#[derive(Default)]
struct Slot {
    generation: u8,
    queue: Option<Arc<Mutex<InFlight<Hold>>>>,
}

impl CompletionQueue {
    /// Creates a queue for at most `capacity` requests in flight on all its queue pairs together. Only a queue with a
    /// channel can be slept on.
    ///
    /// # Errors
    /// If the device does not support the capacity or has no queue left.
    pub fn new(context: &Context, capacity: u32, with_channel: bool) -> Result<Self, QueueError> {
        let most = context.max_completions();
        let wanted = i32::try_from(capacity).ok().filter(|_| (1..=most).contains(&capacity));
        let Some(entries) = wanted else {
            return Err(QueueError::Depth {
                what: "completion queue",
                wanted: capacity,
                most,
                device: context.name().to_owned(),
            });
        };
        let channel = with_channel.then(|| Channel::new(context)).transpose()?;
        let raw_channel = channel.as_ref().map_or(null_mut(), |channel| channel.raw.as_ptr());
        // SAFETY: the context is open; the channel belongs to it and is destroyed after the queue.
        let raw = NonNull::new(unsafe { ibv_create_cq(context.raw(), entries, null_mut(), raw_channel, 0) })
            .ok_or_else(|| failed(context, "make a completion queue", last_error()))?;
        let state = State {
            slots: Vec::new(),
            reserved: 0,
            stale: 0,
            batch: (0..BATCH).map(|_| MaybeUninit::uninit()).collect(),
            released: Vec::new(),
        };
        let inner = Inner { raw, channel, context: context.clone(), capacity, state: Mutex::new(state) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes as many completions as are available and fit in `completions`, and returns their number. Does not wait.
    ///
    /// # Errors
    /// If the device was removed.
    pub fn poll(&self, completions: &mut [Completion]) -> Result<usize, QueueError> {
        let mut guard = self.inner.lock();
        let mut count = 0;
        let mut result = Ok(());
        while count < completions.len() {
            let wanted = BATCH.min(completions.len() - count);
            match guard.take(self.inner.raw, wanted) {
                Ok(0) => {
                    // The queue is empty, so no completion of a detached work queue is left in it.
                    guard.stale = 0;
                    break;
                }
                Ok(got) => {
                    for at in 0..got {
                        if let Some(completion) = guard.deliver(at) {
                            completions[count] = completion;
                            count += 1;
                        }
                    }
                    if got < wanted {
                        break;
                    }
                }
                Err(source) => {
                    result = Err(failed(&self.inner.context, "poll a completion queue", source));
                    break;
                }
            }
        }
        if !guard.released.is_empty() {
            let mut released = std::mem::take(&mut guard.released);
            drop(guard);
            released.clear();
            // Keeps its allocation for the next call.
            self.inner.lock().released = released;
        }
        if count > 0 { Ok(count) } else { result.map(|()| 0) }
    }

    /// Requests an event for the next completion. Earlier completions cause none, so poll once more before sleeping.
    ///
    /// # Errors
    /// If the queue has no channel, or the device was removed.
    pub fn arm(&self) -> Result<(), QueueError> {
        self.channel()?;
        // SAFETY: the queue is alive.
        check(unsafe { ibv_req_notify_cq(self.inner.raw.as_ptr(), 0) })
            .map_err(|source| failed(&self.inner.context, "arm a completion queue", source))
    }

    /// Consumes all pending events and returns whether there were any. Does not wait.
    ///
    /// # Errors
    /// If the queue has no channel, or the device was removed.
    pub fn take_events(&self) -> Result<bool, QueueError> {
        let channel = self.channel()?;
        let mut any = false;
        loop {
            let (mut queue, mut tag) = (null_mut(), null_mut());
            // SAFETY: the channel is alive and its descriptor is non-blocking; the call fills both pointers.
            if unsafe { ibv_get_cq_event(channel.raw.as_ptr(), &raw mut queue, &raw mut tag) } != 0 {
                return match last_error() {
                    Errno::AGAIN | Errno::INTR => Ok(any),
                    source => Err(failed(&self.inner.context, "read the events of a completion queue", source)),
                };
            }
            any = true;
            // SAFETY: the event is of this queue, the only one on its channel, and is acknowledged once.
            unsafe { ibv_ack_cq_events(queue, 1) };
        }
    }

    /// Sleeps until there is an event and consumes it; returns `false` on a timeout. Call [`CompletionQueue::arm`]
    /// first, then [`CompletionQueue::poll`] until it returns nothing, then this.
    ///
    /// # Errors
    /// If the queue has no channel, or the device was removed.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, QueueError> {
        let channel = self.channel()?;
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut descriptors = [PollFd::from_borrowed_fd(channel.descriptor(), PollFlags::IN)];
        match rustix::event::poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => self.take_events(),
            Err(source) => Err(failed(&self.inner.context, "wait for a completion queue", source)),
        }
    }

    /// A descriptor that is readable while an event is pending; `None` without a channel.
    #[must_use]
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.inner.channel.as_ref().map(Channel::descriptor)
    }

    /// Maximum number of requests in flight on its queue pairs.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner.capacity
    }

    fn channel(&self) -> Result<&Channel, QueueError> {
        self.inner.channel.as_ref().ok_or(QueueError::NoChannel)
    }

    pub(crate) fn context(&self) -> &Context {
        &self.inner.context
    }

    pub(crate) fn raw(&self) -> *mut ibv_cq {
        self.inner.raw.as_ptr()
    }

    /// Reserves room for all requests that a new work queue can have in flight.
    pub(crate) fn attach(&self, depth: u32) -> Result<Attachment, QueueError> {
        let mut state = self.inner.lock();
        let free = self.inner.capacity.saturating_sub(state.reserved).saturating_sub(state.stale);
        let slot = state.slots.iter().position(|slot| slot.queue.is_none()).unwrap_or(state.slots.len());
        if depth > free || slot >= MAX_SLOTS {
            return Err(QueueError::NoCompletionRoom { wanted: depth, free, capacity: self.inner.capacity });
        }
        if slot == state.slots.len() {
            state.slots.push(Slot::default());
        }
        let queue = Arc::new(Mutex::new(InFlight::new(depth as usize)));
        state.slots[slot].queue = Some(queue.clone());
        state.reserved += depth;
        let generation = state.slots[slot].generation;
        let slot = u16::try_from(slot).unwrap_or(u16::MAX);
        Ok(Attachment { completions: self.clone(), queue, slot, generation, depth })
    }
}

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompletionQueue({}, {} entries)", self.inner.context.name(), self.inner.capacity)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let destroyed = timed(&self.context, "destroy a completion queue", || {
            // SAFETY: every queue pair holds a clone of the `Arc` around this value, so none is left; all consumed
            // events are acknowledged.
            check(unsafe { ibv_destroy_cq(self.raw.as_ptr()) })
        });
        if let Err(error) = destroyed {
            tracing::warn!("a completion queue of {} was not destroyed: {error}", self.context.name());
        }
    }
}

impl State {
    /// Lets the driver fill the batch; returns the number of completions.
    fn take(&mut self, queue: NonNull<ibv_cq>, wanted: usize) -> Result<usize, Errno> {
        let most = i32::try_from(wanted.min(self.batch.len())).unwrap_or(0);
        // SAFETY: the queue is alive, and the batch has room for this many.
        let got = unsafe { ibv_poll_cq(queue.as_ptr(), most, self.batch.as_mut_ptr().cast()) };
        usize::try_from(got).map_err(|_| last_error())
    }

    /// The completion at this index of the batch, unless it is of no interest to the caller.
    fn deliver(&mut self, at: usize) -> Option<Completion> {
        // SAFETY: the driver has filled the first entries of the batch, and `at` is one of them.
        let raw = unsafe { self.batch[at].assume_init_ref() };
        let tag = Tag::unpack(raw.wr_id);
        let slot = self.slots.get(usize::from(tag.slot)).filter(|slot| slot.generation == tag.generation);
        let Some(queue) = slot.and_then(|slot| slot.queue.as_ref()) else {
            self.stale = self.stale.saturating_sub(1);
            return None;
        };
        let entry = queue.lock().unwrap_or_else(PoisonError::into_inner).complete(tag.sequence, &mut self.released)?;
        self.released.extend(entry.hold);
        let status = Status::from_raw(raw.status);
        let good = status == Status::Success;
        if good && !entry.notify {
            return None;
        }
        let received = good && entry.operation == Operation::Receive;
        let immediate = (received && raw.wc_flags & ibv_wc_flags::IBV_WC_WITH_IMM.0 != 0).then(|| {
            // SAFETY: the flag says that the union holds immediate data.
            u32::from_be(unsafe { raw.imm_data_invalidated_rkey_union.imm_data })
        });
        let bytes = if received { raw.byte_len } else { entry.bytes };
        Some(Completion { id: entry.id, queue_pair: raw.qp_num, operation: entry.operation, status, bytes, immediate })
    }
}

/// The slot of a work queue in its completion queue. Must be dropped only after the work queue has been destroyed.
pub(crate) struct Attachment {
    completions: CompletionQueue,
    pub(crate) queue: Arc<Mutex<InFlight<Hold>>>,
    slot: u16,
    generation: u8,
    depth: u32,
}

impl Attachment {
    pub(crate) fn tag(&self, sequence: u64) -> u64 {
        Tag { slot: self.slot, generation: self.generation, sequence }.pack()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, InFlight<Hold>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut state = self.completions.inner.lock();
        let slot = &mut state.slots[usize::from(self.slot)];
        // The counter wraps after 256 work queues in this slot. No completion of the first can be left by then: without
        // the queue having been polled empty in between, there would have been no room for so many.
        slot.generation = slot.generation.wrapping_add(1);
        slot.queue = None;
        let given_up = self.lock().clear();
        state.reserved -= self.depth;
        state.stale = state.stale.saturating_add(u32::try_from(given_up.len()).unwrap_or(u32::MAX));
        drop(state);
        drop(given_up);
    }
}

/// The channel for the events of one completion queue.
struct Channel {
    raw: NonNull<ibv_comp_channel>,
    /// Closed after it.
    _context: Context,
}

impl Channel {
    fn new(context: &Context) -> Result<Self, QueueError> {
        // SAFETY: the context is open.
        let raw = NonNull::new(unsafe { ibv_create_comp_channel(context.raw()) })
            .ok_or_else(|| failed(context, "make a completion channel", last_error()))?;
        let channel = Self { raw, _context: context.clone() };
        rustix::io::ioctl_fionbio(channel.descriptor(), true)
            .map_err(|source| failed(context, "set up a completion channel", source))?;
        Ok(channel)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as the channel.
        unsafe { BorrowedFd::borrow_raw((*self.raw.as_ptr()).fd) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: the only queue that used it is destroyed before its fields are dropped.
        let _ = unsafe { ibv_destroy_comp_channel(self.raw.as_ptr()) };
    }
}

pub(crate) fn failed(context: &Context, action: &'static str, source: Errno) -> QueueError {
    QueueError::System { action, device: context.name().to_owned(), source }
}
