//! The windows that the peer may fill, and the stream bytes that each of its writes has delivered.

use super::sequence::Mark;
use crate::path::{PathError, RemoteWindow};
use dflow_protocol::wire::{FlowId, GrantId};
use dflow_shm::{Landing, Memory, OutOfRoom};
use dflow_verbs::{MemoryError, MemoryRegion, ProtectionDomain, RegionAccess, StableMemory};
use foldhash::fast::FixedState;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The windows of the flows from the peer.
///
/// A write carries its grant and its length. Its stream offset follows from the order: the bytes of a flow are written without
/// gaps, from the offset that this side had at the first grant.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    flows: HashMap<FlowId, Flow, FixedState>,
    grants: HashMap<Mark, FlowId, FixedState>,
}

#[derive(Debug, Default)]
struct Flow {
    /// All bytes below this offset have arrived, over this path or before it.
    next: u64,
    /// In the order of the grants. After a write into one, none follows into those before it.
    windows: VecDeque<Window>,
}

#[derive(Debug)]
struct Window {
    grant: Mark,
    landing: Arc<Landing>,
    /// The offset that had arrived when it was granted, or the window's base if that is further.
    from: u64,
    /// Open to the peer while this exists. `None` in tests without a device.
    region: Option<MemoryRegion>,
}

impl Arrivals {
    /// Opens a window to the peer and returns its address and key.
    pub(super) fn offer(
        &mut self,
        domain: &ProtectionDomain,
        flow: FlowId,
        grant: GrantId,
        landing: &Arc<Landing>,
    ) -> Result<RemoteWindow, MemoryError> {
        let region = match self.registered(flow, landing) {
            Some(region) => region,
            None => {
                let memory: Arc<Memory> = Arc::clone(landing.memory());
                let memory: Arc<dyn StableMemory> = memory;
                let part = extent(landing);
                MemoryRegion::register_part(domain, memory, part, RegionAccess::RemoteWrite)?
            }
        };
        let remote = region.remote().map(|remote| RemoteWindow { address: remote.address, key: remote.key.number() });
        self.open(flow, grant, Arc::clone(landing), Some(region));
        Ok(remote.unwrap_or_default())
    }

    /// Whether an open window has the same name in an immediate.
    pub(super) fn has(&self, grant: GrantId) -> bool {
        self.grants.contains_key(&Mark::from(grant))
    }

    /// The same memory may be granted again, under another number.
    fn registered(&self, flow: FlowId, landing: &Landing) -> Option<MemoryRegion> {
        let windows = &self.flows.get(&flow)?.windows;
        let same = windows.iter().find(|window| {
            Arc::ptr_eq(window.landing.memory(), landing.memory()) && extent(&window.landing) == extent(landing)
        })?;
        same.region.clone()
    }

    fn open(&mut self, flow: FlowId, grant: GrantId, landing: Arc<Landing>, region: Option<MemoryRegion>) {
        let (grant, from) = (Mark::from(grant), landing.room().start);
        self.grants.insert(grant, flow);
        self.flows.entry(flow).or_default().windows.push_back(Window { grant, landing, from, region });
    }

    /// Closes a flow's windows.
    pub(super) fn withdraw(&mut self, flow: FlowId) {
        for window in self.flows.remove(&flow).into_iter().flat_map(|flow| flow.windows) {
            self.grants.remove(&window.grant);
        }
    }

    /// Bytes of a flow have arrived inside a message.
    pub(super) fn came_inline(&mut self, flow: FlowId, end: u64) {
        if let Some(flow) = self.flows.get_mut(&flow) {
            flow.next = flow.next.max(end);
        }
    }

    /// A write of this many bytes has arrived with this grant. Returns the flow and the stream offset of the first byte.
    pub(super) fn came(&mut self, grant: Mark, length: u64) -> Result<(FlowId, u64), PathError> {
        let unknown = || PathError::Protocol(format!("a write into window {grant}, which it was not granted"));
        let &id = self.grants.get(&grant).ok_or_else(unknown)?;
        let flow = self.flows.get_mut(&id).ok_or_else(unknown)?;
        while flow.windows.front().is_some_and(|window| window.grant != grant) {
            if let Some(left) = flow.windows.pop_front() {
                self.grants.remove(&left.grant);
            }
        }
        let window = flow.windows.front().ok_or_else(unknown)?;
        let at = flow.next.max(window.from);
        let end = at.saturating_add(length);
        let room = window.landing.room();
        if end > room.end {
            return Err(OutOfRoom { bytes: at..end, room }.into());
        }
        flow.next = end;
        Ok((id, at))
    }
}

/// The range of a window in its memory.
fn extent(landing: &Landing) -> std::ops::Range<usize> {
    let start = landing.index(landing.base());
    let bytes = if landing.is_ring() { 2 * landing.size() } else { landing.size() };
    start..start + usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_protocol::SegmentId;
    use dflow_shm::{Access, Segment, SegmentKind};

    const FLOW: FlowId = FlowId(3);

    fn mark(grant: u32) -> Mark {
        GrantId(grant).into()
    }

    fn landing(base: u64) -> Arc<Landing> {
        let size = 4096;
        let segment = Segment::create("test", size, SegmentKind::FunctionWritten).expect("a segment");
        let memory = Arc::new(segment.map(Access::Write).expect("a mapping"));
        let window = dflow_protocol::message::Window {
            segment: SegmentId(0),
            segment_offset: 0,
            base,
            size: size as u64,
            ring: false,
        };
        let landing = Landing::new(&window, memory, 0);
        landing.open(base..base + size as u64);
        Arc::new(landing)
    }

    #[test]
    fn the_place_of_a_write_follows_from_those_before_it() {
        let mut arrivals = Arrivals::default();
        arrivals.open(FLOW, GrantId(1), landing(0), None);
        // The bytes inside messages came first.
        arrivals.came_inline(FLOW, 100);
        assert_eq!(arrivals.came(mark(1), 50), Ok((FLOW, 100)));
        // The next window is granted before the last one is full.
        arrivals.open(FLOW, GrantId(2), landing(4096), None);
        assert_eq!(arrivals.came(mark(1), 4096 - 150), Ok((FLOW, 150)));
        assert_eq!(arrivals.came(mark(2), 1), Ok((FLOW, 4096)));
        assert!(arrivals.came(mark(1), 1).is_err_and(|error| error.is_violation()), "it has left that one");
    }

    #[test]
    fn a_new_path_goes_on_where_the_stream_was() {
        let mut arrivals = Arrivals::default();
        let window = landing(1000);
        window.open(3000..4000);
        arrivals.open(FLOW, GrantId(7), window, None);
        assert_eq!(arrivals.came(mark(7), 10), Ok((FLOW, 3000)));
    }

    #[test]
    fn what_is_not_granted_is_a_violation() {
        let mut arrivals = Arrivals::default();
        arrivals.open(FLOW, GrantId(1), landing(0), None);
        assert!(arrivals.came(mark(2), 1).is_err_and(|error| error.is_violation()));
        assert!(matches!(arrivals.came(mark(1), 4097), Err(PathError::OutOfRoom(_))));
        arrivals.withdraw(FLOW);
        assert!(arrivals.came(mark(1), 1).is_err_and(|error| error.is_violation()));
    }
}
