//! The memory budget: an account for each run, and idle windows.

mod idle;

use self::idle::Idle;
use crate::shares::{Demand, fair_share, fair_shares};
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
    /// The process that may write it. No other process gets it before that one is gone.
    pub(crate) writer: ProcessId,
}

/// A run, and the tenant that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) run: RunId,
    pub(crate) tenant: TenantId,
    /// The number of its account. A run that is admitted again under the same id gets another one, so that late jobs of
    /// its predecessor are not charged to it.
    number: u64,
}

/// The account of a run.
#[derive(Debug)]
pub(crate) struct Account {
    number: u64,
    pub(crate) tenant: TenantId,
    /// Bytes that no other run can take.
    pub(crate) minimum: u64,
    /// The most bytes that it gets, except in allocations that its progress depends on.
    pub(crate) cap: u64,
    /// Bytes that it uses.
    pub(crate) used: u64,
    /// The most that it has used at once.
    pub(crate) peak: u64,
}

impl Account {
    /// Bytes that others cannot have: those in use, and the rest of the minimum.
    fn committed(&self) -> u64 {
        self.used.max(self.minimum)
    }
}

/// A tenant that has runs.
#[derive(Debug, Default)]
struct Tenant {
    runs: usize,
    /// An attempt of it may have outlived its run with windows mapped, so that none of them may go to another tenant.
    tainted: bool,
}

/// The budget of a node, and its use.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    /// Bytes by which all runs together may exceed the limit.
    overrun: u64,
    accounts: BTreeMap<RunId, Account>,
    /// How many accounts were ever opened.
    opened: u64,
    tenants: BTreeMap<TenantId, Tenant>,
    /// Bytes in use by jobs of ended runs, and of windows that are being zeroed.
    lingering: u64,
    /// Bytes in use: of all accounts, and lingering.
    busy: u64,
    /// Bytes in use or guaranteed. Within the limit, except for allocations that progress depended on.
    committed: u64,
    idle: Idle,
    peak: u64,
    /// Bytes were freed since the last [`Memory::take_freed`].
    freed: bool,
}

impl Memory {
    pub(crate) fn new(limit: u64, overrun: u64) -> Self {
        Self {
            limit,
            overrun,
            accounts: BTreeMap::new(),
            opened: 0,
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

    /// The largest number of bytes that were in use or idle at the same time.
    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }

    /// Bytes in use.
    pub(crate) fn busy(&self) -> u64 {
        self.busy
    }

    /// Bytes that are guaranteed to no run.
    pub(crate) fn unpromised(&self) -> u64 {
        let promised = self.accounts.values().map(|account| account.minimum).sum();
        self.limit.saturating_sub(promised)
    }

    pub(crate) fn account(&self, run: RunId) -> Option<&Account> {
        self.accounts.get(&run)
    }

    /// The owner of allocations for a run.
    pub(crate) fn owner(&self, run: RunId) -> Option<Owner> {
        let account = self.accounts.get(&run)?;
        Some(Owner { run, tenant: account.tenant, number: account.number })
    }

    /// Whether bytes were freed since the last call, so that starved producers may be served.
    pub(crate) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// Opens the account of a run. The caller has checked that its minimum is [unpromised](Self::unpromised).
    pub(crate) fn open(&mut self, run: RunId, tenant: TenantId, minimum: u64, cap: u64) {
        self.opened += 1;
        self.accounts.insert(run, Account { number: self.opened, tenant, minimum, cap, used: 0, peak: 0 });
        self.committed += minimum;
        self.tenants.entry(tenant).or_default().runs += 1;
    }

    /// Closes the account of a run whose streams are freed. Bytes that jobs still use linger. `clean`: all of its
    /// attempts are known to be dead, so that none has a window mapped.
    pub(crate) fn close(&mut self, run: RunId, clean: bool) {
        let Some(account) = self.accounts.remove(&run) else { return };
        // What is left of its minimum is free at once; what jobs still use is not.
        self.committed = self.committed - account.committed() + account.used;
        self.lingering += account.used;
        let Some(tenant) = self.tenants.get_mut(&account.tenant) else { return };
        tenant.runs -= 1;
        tenant.tainted |= !clean;
        if tenant.tainted {
            // An attempt that lives on could still write into them.
            self.idle.drop_of(account.tenant);
        }
        if self.tenants.get(&account.tenant).is_some_and(|tenant| tenant.runs == 0) {
            self.tenants.remove(&account.tenant);
        }
    }

    /// The share of `of` bytes of a run that demands its cap, where the others demand what they use.
    pub(crate) fn share(&self, run: RunId, of: u64) -> u64 {
        let Some(own) = self.accounts.get(&run) else { return 0 };
        if (self.busy - own.used).saturating_add(own.cap) <= of {
            // All demands fit; the common case costs no walk over the accounts.
            return own.cap;
        }
        let demand = |(&id, account): (&RunId, &Account)| Demand {
            tenant: account.tenant,
            run: id,
            bytes: if id == run { account.cap } else { account.used },
        };
        let demands = self.accounts.iter().map(demand);
        fair_share(of, demands, &demand((&run, own))).max(own.minimum)
    }

    /// The runs that use more than their share of `of` bytes, and by how much, in descending order. `wants`: a run that
    /// asks for so many bytes more.
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

    /// Whether a run may use `size` more bytes. Up to its minimum it always may, however much others use.
    fn allows(&self, run: RunId, size: u64) -> bool {
        let Some(account) = self.accounts.get(&run) else { return false };
        let used = account.used + size;
        let committed = self.committed - account.committed() + used.max(account.minimum);
        used <= account.minimum || (used <= account.cap && committed <= self.limit)
    }

    /// An idle window of exactly `size` bytes for this writer, of huge pages only if `huge` allows them, and without
    /// bytes of another tenant.
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

    /// Charges a window of this size that is about to be allocated, unless the budget forbids it. Idle windows are
    /// dropped to make room.
    pub(crate) fn reserve(&mut self, run: RunId, size: u64) -> bool {
        if !self.allows(run, size) {
            return false;
        }
        self.charge(run, size);
        true
    }

    /// The most bytes that may be in use: the limit and the overrun.
    pub(crate) fn most(&self) -> u64 {
        self.limit.saturating_add(self.overrun)
    }

    /// Whether a run may use `size` more bytes beyond the budget, because its progress depends on them.
    pub(crate) fn allows_beyond(&self, run: RunId, size: u64) -> bool {
        let within_minimum = self.accounts.get(&run).is_some_and(|account| account.used + size <= account.minimum);
        within_minimum || self.busy + size <= self.most()
    }

    /// Charges bytes to a run, whatever its account says.
    pub(crate) fn charge(&mut self, run: RunId, bytes: u64) {
        let Some(account) = self.accounts.get_mut(&run) else { return };
        self.committed -= account.committed();
        account.used += bytes;
        account.peak = account.peak.max(account.used);
        self.committed += account.committed();
        self.busy += bytes;
        self.trim_idle();
        self.peak = self.peak.max(self.busy + self.idle.bytes());
    }

    /// Gives idle windows back to the system until all bytes in use or idle are within the limit.
    fn trim_idle(&mut self) {
        while self.busy + self.idle.bytes() > self.limit && self.idle.drop_one() {}
    }

    /// The opposite of [`Memory::charge`], for runs that have ended, too.
    pub(crate) fn discharge(&mut self, owner: Owner, bytes: u64) {
        self.freed |= bytes > 0;
        self.busy -= bytes;
        // The run may be over, and another may have been admitted under its id.
        if let Some(account) = self.accounts.get_mut(&owner.run).filter(|account| account.number == owner.number) {
            self.committed -= account.committed();
            account.used -= bytes;
            self.committed += account.committed();
        } else {
            self.lingering -= bytes;
            self.committed -= bytes;
        }
    }

    /// Takes back a window whose bytes are not needed any more.
    pub(crate) fn free(&mut self, window: Arc<WindowMemory>, now: Duration) {
        self.discharge(window.owner, window.size);
        if let Some(window) = self.idle.keep(window) {
            let tenant = window.owner.tenant;
            self.pool(window, Some(tenant), now);
        }
        // If more than the limit is in use, a window that was just freed must not stay idle.
        self.trim_idle();
    }

    fn pool(&mut self, memory: Arc<WindowMemory>, tenant: Option<TenantId>, now: Duration) {
        let is_safe = tenant.is_none_or(|tenant| self.tenants.get(&tenant).is_some_and(|tenant| !tenant.tainted));
        if is_safe && self.busy + self.idle.bytes() + memory.size <= self.limit {
            self.idle.pool(memory, tenant, self.limit, now);
        }
    }

    /// A process begins: from now on it may have windows.
    pub(crate) fn admit(&mut self, writer: ProcessId) {
        self.idle.admit(writer);
    }

    /// A process is gone: others may have the windows that it could write.
    pub(crate) fn retire(&mut self, writer: ProcessId, now: Duration) {
        for window in self.idle.retire(writer) {
            let tenant = window.owner.tenant;
            self.pool(window, Some(tenant), now);
        }
    }

    /// A process may have outlived its run: the windows that it could write are not used again.
    pub(crate) fn abandon(&mut self, writer: ProcessId) {
        drop(self.idle.retire(writer));
    }

    /// Takes a pooled window of a tenant that has no runs any more, to be zeroed for others. It counts as in use until
    /// [`Memory::cleaned`].
    pub(crate) fn take_unclean(&mut self) -> Option<Arc<WindowMemory>> {
        let tenants = &self.tenants;
        let memory = self.idle.take_of(|tenant| !tenants.contains_key(&tenant))?;
        self.lingering += memory.size;
        self.busy += memory.size;
        self.committed += memory.size;
        Some(memory)
    }

    /// A window from [`Memory::take_unclean`] was zeroed, or could not be.
    pub(crate) fn cleaned(&mut self, memory: Arc<WindowMemory>, is_clean: bool, now: Duration) {
        self.lingering -= memory.size;
        self.busy -= memory.size;
        self.committed -= memory.size;
        if is_clean {
            self.pool(memory, None, now);
        }
    }

    /// Pools a window that was backed for a writer which is gone by now, so that it is still zero.
    pub(crate) fn pool_fresh(&mut self, memory: Arc<WindowMemory>, now: Duration) {
        self.discharge(memory.owner, memory.size);
        self.pool(memory, None, now);
    }

    /// Whether this process may have windows.
    pub(crate) fn is_admitted(&self, writer: ProcessId) -> bool {
        self.idle.is_admitted(writer)
    }

    /// Gives pooled windows back to the system that were not used for long.
    pub(crate) fn give_back_old(&mut self, now: Duration) {
        self.idle.drop_old(now);
    }

    /// Bytes of idle windows.
    pub(crate) fn idle(&self) -> u64 {
        self.idle.bytes()
    }
}

#[cfg(test)]
mod tests;
