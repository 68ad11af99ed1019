//! The memory budget and the windows that are made from it.

use crate::ProcessId;
use dflow_protocol::SegmentId;
use dflow_shm::Segment;
use std::collections::HashMap;
use std::sync::Arc;

/// Memory for a window, faulted in.
#[derive(Debug)]
pub(crate) struct WindowMemory {
    pub(crate) segment: Segment,
    pub(crate) size: u64,
    /// The process that may write it; nobody else gets it before that process is gone.
    pub(crate) writer: ProcessId,
}

/// Hands out windows within a budget and takes them back.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    /// Bytes of all windows that exist, in use or pooled, and of arena slots.
    used: u64,
    /// Bytes of the windows that are spare or pooled.
    idle: u64,
    /// Windows whose bytes nobody needs any more. Each is still mapped by its writer, and warm.
    spare: HashMap<ProcessId, Vec<Arc<WindowMemory>>>,
    /// Windows whose writer is gone.
    pool: Vec<Arc<WindowMemory>>,
    next_id: u64,
    peak: u64,
}

/// Windows that the pool keeps, at most: each takes a descriptor. How many bytes it keeps is a matter of the budget.
const MAX_POOL: usize = 1024;

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: 0, idle: 0, spare: HashMap::new(), pool: Vec::new(), next_id: 1, peak: 0 }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }

    /// Bytes that are in use: neither spare nor pooled.
    pub(crate) fn busy(&self) -> u64 {
        self.used - self.idle
    }

    pub(crate) fn next_id(&mut self) -> SegmentId {
        self.next_id += 1;
        SegmentId(self.next_id)
    }

    /// A spare or pooled window of exactly `size` bytes for this writer, of huge pages only if `huge` allows them.
    pub(crate) fn warm(&mut self, writer: ProcessId, size: u64, huge: bool) -> Option<Arc<WindowMemory>> {
        let fits = |window: &Arc<WindowMemory>| does_fit(window, size, huge);
        let own = self.spare.get_mut(&writer).and_then(|own| own.iter().position(fits).map(|at| own.swap_remove(at)));
        let window = own.or_else(|| {
            let at = self.pool.iter().rposition(|window| fits(window) && Arc::strong_count(window) == 1)?;
            // The pool's windows are used by nobody else: the store lets go of its last reference when it pools one.
            let window = Arc::into_inner(self.pool.swap_remove(at))?;
            Some(Arc::new(WindowMemory { writer, ..window }))
        })?;
        self.idle -= size;
        Some(window)
    }

    /// Whether there is such a window.
    pub(crate) fn has_warm(&self, writer: ProcessId, size: u64, huge: bool) -> bool {
        let own = self.spare.get(&writer).into_iter().flatten();
        own.chain(&self.pool).any(|window| does_fit(window, size, huge))
    }

    /// Counts a window of this size that is about to be made, unless the budget forbids it. Idle windows of other sizes
    /// go for it.
    pub(crate) fn reserve(&mut self, size: u64) -> bool {
        while self.used + size > self.limit && self.give_back_one() {}
        let fits = self.used + size <= self.limit;
        if fits {
            self.charge(size);
        }
        fits
    }

    /// Takes a window back whose bytes nobody needs.
    pub(crate) fn free(&mut self, window: Arc<WindowMemory>) {
        if let Some(spare) = self.spare.get_mut(&window.writer) {
            self.idle += window.size;
            spare.push(window);
        } else if self.pool.len() < MAX_POOL && self.used <= self.limit {
            self.idle += window.size;
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
            self.idle -= window.size;
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
            self.idle -= window.size;
            self.used -= window.size;
            return true;
        }
        false
    }
}

fn does_fit(window: &WindowMemory, size: u64, huge: bool) -> bool {
    window.size == size && (huge || !window.segment.is_huge())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_shm::SegmentKind;

    const MIB: u64 = 1 << 20;

    fn window(budget: &mut Budget, writer: ProcessId, size: u64) -> Arc<WindowMemory> {
        budget.warm(writer, size, true).unwrap_or_else(|| {
            assert!(budget.reserve(size));
            let segment = Segment::create("test", size as usize, SegmentKind::FunctionWritten).unwrap();
            Arc::new(WindowMemory { segment, size, writer })
        })
    }

    #[test]
    fn what_a_writer_leaves_is_for_the_next_one_however_much_it_is() {
        let (first, second) = (ProcessId(1), ProcessId(2));
        let mut budget = Budget::new(600 * MIB);
        budget.admit(first);
        budget.admit(second);
        let windows: Vec<_> = (0..600).map(|_| window(&mut budget, first, MIB)).collect();
        assert!(!budget.reserve(1));
        windows.into_iter().for_each(|window| budget.free(window));
        assert_eq!(budget.busy(), 0);
        // Its writer may still write there.
        assert!(!budget.has_warm(second, MIB, true) && budget.has_warm(first, MIB, true));
        budget.retire(first);
        let windows: Vec<_> = (0..600).map(|_| budget.warm(second, MIB, true).unwrap()).collect();
        assert_eq!(budget.busy(), 600 * MIB);
        assert!(budget.warm(second, MIB, true).is_none());
        windows.into_iter().for_each(|window| budget.free(window));
        // Idle windows of another size make room.
        assert!(budget.reserve(300 * MIB));
        assert_eq!((budget.busy(), budget.peak()), (300 * MIB, 600 * MIB));
    }
}
