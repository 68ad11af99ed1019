//! The memory budget: what each run may have and has, and windows that wait to be used again.

use crate::shares::{Demand, fair_shares};
use crate::{ProcessId, TenantId};
use dflow_protocol::RunId;
use dflow_shm::Segment;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Memory for a window, faulted in.
#[derive(Debug)]
pub(crate) struct WindowMemory {
    pub(crate) segment: Segment,
    pub(crate) size: u64,
    /// The run whose account it is charged to.
    pub(crate) owner: Owner,
    /// The process that may write it. No other gets it before that process is gone.
    pub(crate) writer: ProcessId,
}

/// A run, and the tenant that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) run: RunId,
    pub(crate) tenant: TenantId,
}

/// What a run may use and uses.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) tenant: TenantId,
    /// Bytes that no other run can take.
    pub(crate) minimum: u64,
    /// Bytes that it gets at the most, unless a stream must have more to go on.
    pub(crate) cap: u64,
    /// Bytes that it uses.
    pub(crate) used: u64,
}

impl Account {
    /// Bytes that are not for others.
    fn committed(&self) -> u64 {
        self.used.max(self.minimum)
    }
}

/// A tenant that has runs.
#[derive(Debug, Default)]
struct Tenant {
    runs: usize,
    /// An attempt of it may still live after the end of its run and have windows mapped, so that no other tenant may get
    /// them.
    tainted: bool,
}

/// The budget of a node and what has become of it.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    /// Bytes beyond the limit that all runs together may have.
    overrun: u64,
    accounts: BTreeMap<RunId, Account>,
    tenants: BTreeMap<TenantId, Tenant>,
    /// Bytes that jobs of ended runs still use, and windows that are being zeroed.
    lingering: u64,
    /// Bytes in use: of all accounts, and those that linger.
    busy: u64,
    /// Bytes that are in use or guaranteed. Within the limit, except where a run had to have more.
    committed: u64,
    idle: Idle,
    peak: u64,
    /// Bytes have been given back since somebody last looked.
    freed: bool,
}

/// Windows whose bytes nobody needs any more. They are warm: their pages are there.
#[derive(Debug, Default)]
struct Idle {
    /// Windows that a live process still has mapped.
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
    /// Whose bytes are in it; `None` if it is zeroed.
    tenant: Option<TenantId>,
    since: Duration,
}

/// Windows that the pool keeps, at most: each takes a descriptor.
const MAX_POOL: usize = 1024;
/// The part of the budget that pooled windows may have (in percent).
const POOL_SHARE: u64 = 75;
/// After so long a pooled window goes back to the system.
const POOL_IDLE: Duration = Duration::from_secs(30);

impl Memory {
    pub(crate) fn new(limit: u64, overrun: u64) -> Self {
        Self {
            limit,
            overrun,
            accounts: BTreeMap::new(),
            tenants: BTreeMap::new(),
            lingering: 0,
            busy: 0,
            committed: 0,
            idle: Idle::default(),
            peak: 0,
            freed: false,
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The most bytes that there were, in use or idle.
    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }

    /// Bytes that are in use.
    pub(crate) fn busy(&self) -> u64 {
        self.busy
    }

    /// Bytes that no run is guaranteed.
    pub(crate) fn unpromised(&self) -> u64 {
        let promised = self.accounts.values().map(|account| account.minimum).sum();
        self.limit.saturating_sub(promised)
    }

    pub(crate) fn account(&self, run: RunId) -> Option<&Account> {
        self.accounts.get(&run)
    }

    /// The owner of what is charged to a run.
    pub(crate) fn owner(&self, run: RunId) -> Option<Owner> {
        Some(Owner { run, tenant: self.accounts.get(&run)?.tenant })
    }

    /// Whether bytes have been given back since the last call, so that runs which lack some may be served.
    pub(crate) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// Opens the account of a run. The caller has checked that its minimum is [unpromised](Self::unpromised).
    pub(crate) fn open(&mut self, owner: Owner, minimum: u64, cap: u64) {
        self.accounts.insert(owner.run, Account { tenant: owner.tenant, minimum, cap, used: 0 });
        self.committed += minimum;
        self.tenants.entry(owner.tenant).or_default().runs += 1;
    }

    /// Closes the account of a run whose streams are gone. What jobs still use of it lingers. `clean`: all of its attempts
    /// were seen to end, so none can look at its windows any more.
    pub(crate) fn close(&mut self, run: RunId, clean: bool) {
        let Some(account) = self.accounts.remove(&run) else { return };
        self.committed = self.committed - account.committed() + account.used;
        self.lingering += account.used;
        let Some(tenant) = self.tenants.get_mut(&account.tenant) else { return };
        tenant.runs -= 1;
        tenant.tainted |= !clean;
        if tenant.tainted {
            self.idle.drop_pooled(|pooled| pooled.tenant == Some(account.tenant));
        }
        if self.tenants.get(&account.tenant).is_some_and(|tenant| tenant.runs == 0) {
            self.tenants.remove(&account.tenant);
        }
    }

    /// The part of `of` that this run may have if it wants as much as it can get, and the others want what they use.
    pub(crate) fn share(&self, run: RunId, of: u64) -> u64 {
        let demands: Vec<Demand> = self
            .accounts
            .iter()
            .map(|(&id, account)| Demand {
                tenant: account.tenant,
                run: id,
                bytes: if id == run { account.cap } else { account.used },
            })
            .collect();
        let minimum = self.accounts.get(&run).map_or(0, |account| account.minimum);
        fair_shares(of, &demands).get(&run).copied().unwrap_or(0).max(minimum)
    }

    /// By how much each run is above its share of `of`, if one wants so many bytes more than it has; the run that is most
    /// above it first, and none that is not.
    pub(crate) fn excesses(&self, of: u64, wants: Option<(RunId, u64)>) -> Vec<(RunId, u64)> {
        let wanted = |id| wants.filter(|(run, _)| *run == id).map_or(0, |(_, bytes)| bytes);
        let demands: Vec<Demand> = self
            .accounts
            .iter()
            .map(|(&id, account)| Demand { tenant: account.tenant, run: id, bytes: account.used + wanted(id) })
            .collect();
        let shares = fair_shares(of, &demands);
        let above = |demand: &Demand| {
            let minimum = self.accounts.get(&demand.run).map_or(0, |account| account.minimum);
            let share = shares.get(&demand.run).copied().unwrap_or(0).max(minimum);
            Some((demand.run, demand.bytes - share.min(demand.bytes))).filter(|(_, excess)| *excess > 0)
        };
        let mut excesses: Vec<(RunId, u64)> = demands.iter().filter_map(above).collect();
        excesses.sort_by_key(|(_, excess)| std::cmp::Reverse(*excess));
        excesses
    }

    /// Whether a run may use so many bytes more. Its minimum is its own, however much others use.
    fn allows(&self, run: RunId, size: u64) -> bool {
        let Some(account) = self.accounts.get(&run) else { return false };
        let used = account.used + size;
        let committed = self.committed - account.committed() + used.max(account.minimum);
        used <= account.minimum || (used <= account.cap && committed <= self.limit)
    }

    /// An idle window of exactly `size` bytes for this writer, of huge pages only if `huge` allows them. One that another
    /// tenant has used is none.
    pub(crate) fn warm(&mut self, owner: Owner, writer: ProcessId, size: u64, huge: bool) -> Option<Arc<WindowMemory>> {
        if !self.allows(owner.run, size) {
            return None;
        }
        let window = self.idle.take(owner, writer, size, huge)?;
        self.charge(owner.run, size);
        Some(window)
    }

    /// Whether there is such a window.
    pub(crate) fn has_warm(&self, owner: Owner, writer: ProcessId, size: u64, huge: bool) -> bool {
        self.idle.has(owner, writer, size, huge)
    }

    /// Charges a window of this size that is about to be made, unless the budget forbids it. Idle windows of other sizes
    /// go for it.
    pub(crate) fn reserve(&mut self, run: RunId, size: u64) -> bool {
        if !self.allows(run, size) {
            return false;
        }
        self.charge(run, size);
        true
    }

    /// The most bytes that all runs together may have.
    pub(crate) fn most(&self) -> u64 {
        self.limit.saturating_add(self.overrun)
    }

    /// Whether a run may have so many bytes beyond the budget, because a stream must have them to go on.
    pub(crate) fn allows_beyond(&self, run: RunId, size: u64) -> bool {
        let within_minimum = self.accounts.get(&run).is_some_and(|account| account.used + size <= account.minimum);
        within_minimum || self.busy + size <= self.most()
    }

    /// Charges bytes to a run, whatever its account says: those that a stream must have.
    pub(crate) fn charge(&mut self, run: RunId, bytes: u64) {
        let Some(account) = self.accounts.get_mut(&run) else { return };
        self.committed -= account.committed();
        account.used += bytes;
        self.committed += account.committed();
        self.busy += bytes;
        while self.busy + self.idle.bytes > self.limit && self.idle.give_back_one() {}
        self.peak = self.peak.max(self.busy + self.idle.bytes);
    }

    /// The opposite of [`Memory::charge`].
    pub(crate) fn discharge(&mut self, run: RunId, bytes: u64) {
        self.freed |= bytes > 0;
        self.busy -= bytes;
        let Some(account) = self.accounts.get_mut(&run) else {
            self.lingering -= bytes;
            self.committed -= bytes;
            return;
        };
        self.committed -= account.committed();
        account.used -= bytes;
        self.committed += account.committed();
    }

    /// Takes back a window whose bytes nobody needs.
    pub(crate) fn free(&mut self, window: Arc<WindowMemory>, now: Duration) {
        self.discharge(window.owner.run, window.size);
        if let Some(spare) = self.idle.spare.get_mut(&window.writer) {
            self.idle.bytes += window.size;
            spare.push(window);
        } else {
            let tenant = window.owner.tenant;
            self.pool(window, Some(tenant), now);
        }
    }

    fn pool(&mut self, memory: Arc<WindowMemory>, tenant: Option<TenantId>, now: Duration) {
        let is_safe = tenant.is_none_or(|tenant| self.tenants.get(&tenant).is_some_and(|tenant| !tenant.tainted));
        let fits = self.idle.pool.len() < MAX_POOL
            && self.idle.pooled + memory.size <= self.limit / 100 * POOL_SHARE
            && self.busy + self.idle.bytes + memory.size <= self.limit;
        if is_safe && fits {
            self.idle.bytes += memory.size;
            self.idle.pooled += memory.size;
            self.idle.pool.push(Pooled { memory, tenant, since: now });
        }
    }

    /// From now on this process may have windows.
    pub(crate) fn admit(&mut self, writer: ProcessId) {
        self.idle.spare.insert(writer, Vec::new());
    }

    /// The process is gone: what it could write is for others.
    pub(crate) fn retire(&mut self, writer: ProcessId, now: Duration) {
        for window in self.idle.spare.remove(&writer).unwrap_or_default() {
            self.idle.bytes -= window.size;
            let tenant = window.owner.tenant;
            self.pool(window, Some(tenant), now);
        }
    }

    /// The run of this process is over, and it may still live: what it could write is for nobody.
    pub(crate) fn abandon(&mut self, writer: ProcessId) {
        for window in self.idle.spare.remove(&writer).unwrap_or_default() {
            self.idle.bytes -= window.size;
        }
    }

    /// A pooled window of a tenant that has no run here any more, to be zeroed for others. It counts as in use until
    /// [`Memory::cleaned`].
    pub(crate) fn take_unclean(&mut self) -> Option<Arc<WindowMemory>> {
        let tenants = &self.tenants;
        let has_left = |pooled: &Pooled| pooled.tenant.is_some_and(|tenant| !tenants.contains_key(&tenant));
        let memory = self.idle.take_pooled(has_left)?;
        self.lingering += memory.size;
        self.busy += memory.size;
        self.committed += memory.size;
        Some(memory)
    }

    /// A window that [`Memory::take_unclean`] gave is zeroed, or could not be.
    pub(crate) fn cleaned(&mut self, memory: Arc<WindowMemory>, is_clean: bool, now: Duration) {
        self.lingering -= memory.size;
        self.busy -= memory.size;
        self.committed -= memory.size;
        if is_clean {
            self.pool(memory, None, now);
        }
    }

    /// A window that was backed for a writer that is gone by now. Nobody has written it.
    pub(crate) fn pool_fresh(&mut self, memory: Arc<WindowMemory>, now: Duration) {
        self.discharge(memory.owner.run, memory.size);
        self.pool(memory, None, now);
    }

    /// Whether this process may still be given windows.
    pub(crate) fn is_admitted(&self, writer: ProcessId) -> bool {
        self.idle.spare.contains_key(&writer)
    }

    /// Gives windows back to the system that nobody has wanted for long.
    pub(crate) fn give_back_old(&mut self, now: Duration) {
        self.idle.drop_pooled(|pooled| now.saturating_sub(pooled.since) >= POOL_IDLE);
    }

    /// Bytes of windows that wait to be used again.
    pub(crate) fn idle(&self) -> u64 {
        self.idle.bytes
    }
}

impl Idle {
    fn take(&mut self, owner: Owner, writer: ProcessId, size: u64, huge: bool) -> Option<Arc<WindowMemory>> {
        let own = self.spare.get_mut(&writer).and_then(|own| {
            let at = own.iter().position(|window| does_fit(window, size, huge))?;
            Some(own.swap_remove(at))
        });
        if let Some(window) = own {
            self.bytes -= size;
            return Some(window);
        }
        let window = self.take_pooled(|pooled| pooled.is_for(owner.tenant) && does_fit(&pooled.memory, size, huge))?;
        // Nobody else has it: the store lets go of its last reference when it pools one.
        let window = Arc::into_inner(window)?;
        Some(Arc::new(WindowMemory { writer, owner, ..window }))
    }

    fn has(&self, owner: Owner, writer: ProcessId, size: u64, huge: bool) -> bool {
        let own = self.spare.get(&writer).into_iter().flatten();
        let pooled = self.pool.iter().filter(|pooled| pooled.is_for(owner.tenant)).map(|pooled| &pooled.memory);
        own.chain(pooled).any(|window| does_fit(window, size, huge))
    }

    /// The pooled window that came last and for which this holds.
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

    /// The oldest pooled window goes first, and then those that processes still have mapped.
    fn give_back_one(&mut self) -> bool {
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
}

impl Pooled {
    fn is_for(&self, tenant: TenantId) -> bool {
        self.tenant.is_none_or(|it| it == tenant)
    }
}

fn does_fit(window: &WindowMemory, size: u64, huge: bool) -> bool {
    window.size == size && (huge || !window.segment.is_huge())
}
