//! Windows that wait to be used again. Their pages are there and, for the process that wrote them, mapped: using one
//! costs a fraction of what fresh memory does.

use super::{Owner, WindowMemory};
use crate::{ProcessId, TenantId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The most windows in the pool: each takes a descriptor.
const MAX_POOL: usize = 1024;
/// The part of the budget that the pool may have (in percent).
const POOL_SHARE: u64 = 75;
/// A pooled window that was not used for this long goes back to the system.
pub(super) const POOL_IDLE: Duration = Duration::from_secs(30);

/// Windows whose bytes are not needed any more.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// Windows that a live process may still write.
    spare: BTreeMap<ProcessId, Vec<Arc<WindowMemory>>>,
    /// Windows whose writer is gone, the oldest first.
    pool: Vec<Pooled>,
    /// Bytes of both.
    bytes: u64,
    /// Bytes of the pool.
    pooled: u64,
}

#[derive(Debug)]
struct Pooled {
    memory: Arc<WindowMemory>,
    /// The tenant whose bytes are in it; `None` if it is zeroed.
    tenant: Option<TenantId>,
    since: Duration,
}

impl Idle {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From now on this process may have windows.
    pub(super) fn admit(&mut self, writer: ProcessId) {
        self.spare.insert(writer, Vec::new());
    }

    /// Whether this process may have windows.
    pub(super) fn is_admitted(&self, writer: ProcessId) -> bool {
        self.spare.contains_key(&writer)
    }

    /// Keeps a window for its writer, if that is still there. Otherwise it is returned.
    pub(super) fn keep(&mut self, window: Arc<WindowMemory>) -> Option<Arc<WindowMemory>> {
        let Some(spare) = self.spare.get_mut(&window.writer) else { return Some(window) };
        self.bytes += window.size;
        spare.push(window);
        None
    }

    /// The process has no windows any more; those that were kept for it.
    pub(super) fn retire(&mut self, writer: ProcessId) -> Vec<Arc<WindowMemory>> {
        let windows = self.spare.remove(&writer).unwrap_or_default();
        self.bytes -= windows.iter().map(|window| window.size).sum::<u64>();
        windows
    }

    /// Pools a window whose writer is gone, within the pool's part of `limit`. One that does not fit goes back to the
    /// system.
    pub(super) fn pool(&mut self, memory: Arc<WindowMemory>, tenant: Option<TenantId>, limit: u64, now: Duration) {
        if self.pool.len() < MAX_POOL && self.pooled + memory.size <= limit / 100 * POOL_SHARE {
            self.bytes += memory.size;
            self.pooled += memory.size;
            self.pool.push(Pooled { memory, tenant, since: now });
        }
    }

    /// A window of exactly `size` bytes for this writer, of huge pages only if `huge` allows them.
    pub(super) fn take(&mut self, owner: Owner, writer: ProcessId, size: u64, huge: bool) -> Option<Arc<WindowMemory>> {
        let own = self.spare.get_mut(&writer).and_then(|own| {
            let at = own.iter().position(|window| does_fit(window, size, huge))?;
            Some(own.swap_remove(at))
        });
        if let Some(window) = own {
            self.bytes -= size;
            return Some(window);
        }
        let window = self.take_pooled(|pooled| pooled.is_for(owner.tenant) && does_fit(&pooled.memory, size, huge))?;
        // The store dropped its other references before it pooled the window.
        let window = Arc::into_inner(window)?;
        Some(Arc::new(WindowMemory { writer, owner, ..window }))
    }

    /// Whether there is such a window.
    pub(super) fn has(&self, owner: Owner, writer: ProcessId, size: u64, huge: bool) -> bool {
        let own = self.spare.get(&writer).into_iter().flatten();
        let pooled = self.pool.iter().filter(|pooled| pooled.is_for(owner.tenant)).map(|pooled| &pooled.memory);
        own.chain(pooled).any(|window| does_fit(window, size, huge))
    }

    /// A pooled window with the bytes of a tenant for which this holds.
    pub(super) fn take_of(&mut self, holds: impl Fn(TenantId) -> bool) -> Option<Arc<WindowMemory>> {
        self.take_pooled(|pooled| pooled.tenant.is_some_and(&holds))
    }

    /// The pool's windows with the bytes of a tenant go back to the system.
    pub(super) fn drop_of(&mut self, tenant: TenantId) {
        self.drop_pooled(|pooled| pooled.tenant == Some(tenant));
    }

    /// Pooled windows that were not used for long go back to the system.
    pub(super) fn drop_old(&mut self, now: Duration) {
        self.drop_pooled(|pooled| now.saturating_sub(pooled.since) >= POOL_IDLE);
    }

    /// One window goes back to the system, if there is any: the pool's oldest, and then those that processes still have
    /// mapped, whose pages are free only when they are unmapped.
    pub(super) fn drop_one(&mut self) -> bool {
        let window = if self.pool.is_empty() {
            self.spare.values_mut().find_map(Vec::pop)
        } else {
            let memory = self.pool.remove(0).memory;
            self.pooled -= memory.size;
            Some(memory)
        };
        if let Some(window) = &window {
            self.bytes -= window.size;
        }
        window.is_some()
    }

    /// The window that was pooled last of those for which this holds: its pages are most likely in a cache.
    fn take_pooled(&mut self, holds: impl Fn(&Pooled) -> bool) -> Option<Arc<WindowMemory>> {
        let at = self.pool.iter().rposition(holds)?;
        let memory = self.pool.remove(at).memory;
        self.bytes -= memory.size;
        self.pooled -= memory.size;
        Some(memory)
    }

    fn drop_pooled(&mut self, holds: impl Fn(&Pooled) -> bool) {
        for pooled in self.pool.extract_if(.., |pooled| holds(pooled)) {
            self.bytes -= pooled.memory.size;
            self.pooled -= pooled.memory.size;
        }
    }
}

impl Pooled {
    fn is_for(&self, tenant: TenantId) -> bool {
        self.tenant.is_none_or(|it| it == tenant)
    }
}

fn does_fit(window: &WindowMemory, size: u64, huge: bool) -> bool {
    window.size == size && (huge || !window.segment.is_huge())
}
