//! Memory windows of type 2B. A window opens a range of a region for writing through one queue pair only, and can be
//! closed without deregistering the region.

use crate::device::{check, last_error};
use crate::error::{MemoryError, PostError};
use crate::post::{Hold, takes_windows};
use crate::queue_pair::QueuePair;
use crate::region::{MemoryRegion, MemorySlice, ProtectionDomain, RemoteKey, RemoteMemory};
use crate::status::Operation;
use rdma_sys::{
    bind_mw_t, ibv_access_flags, ibv_alloc_mw, ibv_dealloc_mw, ibv_inc_rkey, ibv_mw, ibv_mw_bind_info, ibv_mw_type,
    ibv_wr_opcode,
};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A memory window, initially unbound. It is freed with the queue pair to which it was last bound.
pub struct MemoryWindow {
    inner: Arc<Window>,
}

pub(crate) struct Window {
    raw: NonNull<ibv_mw>,
    domain: ProtectionDomain,
    bound: Mutex<Bound>,
}

struct Bound {
    /// Whether the device has freed the window.
    freed: bool,
    /// The region to which it was last bound, which must outlive it.
    region: Option<MemoryRegion>,
    /// The number of the queue pair to which it was last bound.
    queue_pair: Option<u32>,
}

// SAFETY: libibverbs allows calls on one window from every thread; its key is read and written under the lock.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    fn lock(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the window if it is bound to this queue pair, which is about to be destroyed. Destroying a queue pair that
    /// still has a window takes soft-RoCE a minute, and the kernel logs a warning.
    pub(crate) fn end_with(&self, queue_pair: u32) {
        let mut bound = self.lock();
        if bound.queue_pair == Some(queue_pair) {
            self.free(&mut bound);
        }
    }

    fn free(&self, bound: &mut Bound) {
        if std::mem::replace(&mut bound.freed, true) {
            return;
        }
        let region = bound.region.take();
        // SAFETY: freed only once, as recorded above under the lock; no later request refers to it.
        if let Err(error) = check(unsafe { ibv_dealloc_mw(self.raw.as_ptr()) }) {
            tracing::error!(
                "{} keeps a memory window, whose memory is therefore never freed: {error}",
                self.domain.context().name()
            );
            std::mem::forget(region);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut bound = self.lock();
        self.free(&mut bound);
    }
}

impl fmt::Debug for MemoryWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryWindow({})", self.inner.domain.context().name())
    }
}

impl MemoryWindow {
    /// Creates a window for regions and queue pairs of this domain.
    ///
    /// # Errors
    /// If the device does not support windows of type 2B, or has none left.
    pub fn new(domain: &ProtectionDomain) -> Result<Self, MemoryError> {
        let device = domain.context().name().to_owned();
        if !domain.context().has_windows() {
            return Err(MemoryError::NoWindows { device });
        }
        // SAFETY: the domain is alive.
        let raw = unsafe { ibv_alloc_mw(domain.raw(), ibv_mw_type::IBV_MW_TYPE_2) };
        let raw = raw.and_then(NonNull::new).ok_or_else(|| MemoryError::System {
            action: "make a memory window",
            bytes: 0,
            device,
            source: last_error(),
        })?;
        let bound = Mutex::new(Bound { freed: false, region: None, queue_pair: None });
        Ok(Self { inner: Arc::new(Window { raw, domain: domain.clone(), bound }) })
    }
}

const ENDED: PostError = PostError::Unsuitable("the memory window was freed with the queue pair to which it was bound");

impl QueuePair {
    /// Opens `slice` for writing by the peer of this queue pair. Returns the address and key for the peer, valid once
    /// this request has completed. A window that is already open must be closed first.
    ///
    /// # Errors
    /// If the memory is not registered for windows, and as [`QueuePair::post`].
    pub fn bind_window(
        &self,
        id: u64,
        window: &MemoryWindow,
        slice: MemorySlice<'_>,
        signaled: bool,
    ) -> Result<RemoteMemory, PostError> {
        self.check_slice(&slice)?;
        takes_windows(&slice)?;
        self.check_window(window)?;
        let inner = &window.inner;
        let mut bound = inner.lock();
        if bound.freed {
            return Err(ENDED);
        }
        // SAFETY: the window lives, and its key changes under the lock only.
        let key = unsafe { ibv_inc_rkey((*inner.raw.as_ptr()).rkey) };
        let address = slice.region.address(slice.offset);
        let info = ibv_mw_bind_info {
            mr: slice.region.raw(),
            addr: address,
            length: slice.length.into(),
            mw_access_flags: ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0,
        };
        let hold = Hold { region: slice.region.clone(), window: Some(inner.clone()) };
        self.post_window(id, Operation::BindWindow, signaled, Some(hold), |send| {
            send.opcode = ibv_wr_opcode::IBV_WR_BIND_MW;
            send.bind_mw_tso_union.bind_mw = bind_mw_t { mw: inner.raw.as_ptr(), rkey: key, bind_info: info };
        })?;
        // SAFETY: as above. For a window of type 2, verbs require the caller to store the new key.
        unsafe { (*inner.raw.as_ptr()).rkey = key };
        bound.region = Some(slice.region.clone());
        if bound.queue_pair.replace(self.number()) != Some(self.number()) {
            self.note_window(inner);
        }
        Ok(RemoteMemory { address, key: RemoteKey::from_number(key) })
    }

    /// Closes a window: once this request has completed, the peer cannot write there any more.
    ///
    /// # Errors
    /// If the window is not open, and as [`QueuePair::post`].
    pub fn close_window(&self, id: u64, window: &MemoryWindow, signaled: bool) -> Result<(), PostError> {
        self.check_window(window)?;
        let inner = &window.inner;
        let bound = inner.lock();
        if bound.freed {
            return Err(ENDED);
        }
        let Some(region) = bound.region.as_ref() else {
            return Err(PostError::Unsuitable("a memory window that was never opened cannot be closed"));
        };
        let hold = Hold { region: region.clone(), window: Some(inner.clone()) };
        // SAFETY: the window lives, and its key changes under the lock only.
        let key = unsafe { (*inner.raw.as_ptr()).rkey };
        self.post_window(id, Operation::Invalidate, signaled, Some(hold), |send| {
            send.opcode = ibv_wr_opcode::IBV_WR_LOCAL_INV;
            send.imm_data_invalidated_rkey_union.invalidated_rkey = key;
        })
    }

    fn check_window(&self, window: &MemoryWindow) -> Result<(), PostError> {
        if window.inner.domain.is_same(self.domain()) {
            Ok(())
        } else {
            Err(PostError::Unsuitable("the memory window belongs to another protection domain than the queue pair's"))
        }
    }
}
