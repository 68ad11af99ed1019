//! The memory budget and the windows that are made from it.

use crate::ProcessId;
use dflow_protocol::SegmentId;
use dflow_shm::{Segment, SegmentError, SegmentKind};
use std::collections::HashMap;
use std::sync::Arc;

/// Memory for a window, faulted in.
#[derive(Debug)]
pub(crate) struct WindowMemory {
    pub(crate) segment: Segment,
    pub(crate) size: u64,
    /// The process that may write it; nobody else gets it before that process is gone.
    writer: ProcessId,
}

/// Hands out windows within a budget and takes them back.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    /// Bytes of all windows that exist, in use or pooled, and of arena slots.
    used: u64,
    /// Windows whose bytes nobody needs any more. Each is still mapped by its writer, and warm.
    spare: HashMap<ProcessId, Vec<Arc<WindowMemory>>>,
    /// Windows whose writer is gone.
    pool: Vec<Arc<WindowMemory>>,
    next_id: u64,
    peak: u64,
}

/// Windows that the pool keeps, at most; more are given back to the system.
const MAX_POOL: usize = 256;

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: 0, spare: HashMap::new(), pool: Vec::new(), next_id: 1, peak: 0 }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }

    /// Bytes that are in use: neither spare nor pooled.
    pub(crate) fn busy(&self) -> u64 {
        let idle: u64 = self.pool.iter().chain(self.spare.values().flatten()).map(|window| window.size).sum();
        self.used - idle
    }

    pub(crate) fn next_id(&mut self) -> SegmentId {
        self.next_id += 1;
        SegmentId(self.next_id)
    }

    /// A window of exactly `size` bytes for this writer, of huge pages only if `huge` allows them; `None` if the budget
    /// does not allow it. `beyond` ignores the budget: for what a stream must have.
    pub(crate) fn window(
        &mut self,
        writer: ProcessId,
        size: u64,
        huge: bool,
        beyond: bool,
    ) -> Result<Option<Arc<WindowMemory>>, SegmentError> {
        let fits = |window: &Arc<WindowMemory>| window.size == size && (huge || !window.segment.is_huge());
        let own = self.spare.get_mut(&writer).and_then(|own| own.iter().position(fits).map(|at| own.swap_remove(at)));
        if own.is_some() {
            return Ok(own);
        }
        // The pool's windows are used by nobody else: the store lets go of its last reference when it pools one.
        if let Some(at) = self.pool.iter().position(|window| fits(window) && Arc::strong_count(window) == 1)
            && let Some(window) = Arc::into_inner(self.pool.swap_remove(at))
        {
            return Ok(Some(Arc::new(WindowMemory { writer, ..window })));
        }
        while self.used + size > self.limit && self.give_back_one() {}
        if self.used + size > self.limit && !beyond {
            return Ok(None);
        }
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let segment = Segment::create_backed("dflow-window", length, SegmentKind::FunctionWritten, huge)?;
        self.charge(size);
        Ok(Some(Arc::new(WindowMemory { segment, size, writer })))
    }

    /// Takes a window back whose bytes nobody needs.
    pub(crate) fn free(&mut self, window: Arc<WindowMemory>) {
        if let Some(spare) = self.spare.get_mut(&window.writer) {
            spare.push(window);
        } else if self.pool.len() < MAX_POOL && self.used <= self.limit {
            self.pool.push(window);
        } else {
            self.used -= window.size;
        }
    }

    /// From now on this process may have windows.
    pub(crate) fn admit(&mut self, writer: ProcessId) {
        self.spare.insert(writer, Vec::new());
    }

    /// The process is gone: what it could write is for others.
    pub(crate) fn retire(&mut self, writer: ProcessId) {
        for window in self.spare.remove(&writer).unwrap_or_default() {
            self.free(window);
        }
    }

    /// Counts bytes that are not a window.
    pub(crate) fn charge(&mut self, bytes: u64) {
        self.used += bytes;
        self.peak = self.peak.max(self.used);
    }

    /// The opposite of [`Budget::charge`].
    pub(crate) fn discharge(&mut self, bytes: u64) {
        self.used -= bytes;
    }

    fn give_back_one(&mut self) -> bool {
        let window = self.pool.pop().or_else(|| self.spare.values_mut().find_map(Vec::pop));
        if let Some(window) = window {
            self.used -= window.size;
            return true;
        }
        false
    }
}
