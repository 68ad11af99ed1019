//! The memory from which bytes are sent. It is registered once while it is in use, if possible before there are bytes to send.

use crate::chunk::Chunk;
use dflow_shm::Memory;
use dflow_verbs::{Buffer, MemoryError, MemoryRegion, ProtectionDomain, RegionAccess};
use foldhash::fast::FixedState;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often memory is sought that is no longer used elsewhere.
const SWEEP: Duration = Duration::from_millis(100);

/// The most memories that wait for registration; others are registered with their first chunk.
const MAX_AHEAD: usize = 4096;

/// Registered memory, by its address.
#[derive(Debug)]
pub(super) struct Sources {
    known: HashMap<usize, Source, FixedState>,
    /// Announced memory, not registered yet.
    ahead: VecDeque<Weak<Memory>>,
    /// The number of regions that were registered only when their first chunk was sent.
    late: u64,
    swept: Instant,
    copying: bool,
}

#[derive(Debug)]
struct Source {
    memory: Arc<Memory>,
    region: MemoryRegion,
}

impl Source {
    /// Whether only this value and its region hold the memory.
    fn is_left_alone(&self) -> bool {
        Arc::strong_count(&self.memory) <= 2
    }
}

impl Sources {
    pub(super) fn new() -> Self {
        Self { known: HashMap::default(), ahead: VecDeque::new(), late: 0, swept: Instant::now(), copying: false }
    }

    /// Announces memory.
    pub(super) fn expect(&mut self, memory: &Arc<Memory>) {
        if !self.copying && self.ahead.len() < MAX_AHEAD && !self.known.contains_key(&key(memory)) {
            self.ahead.push_back(Arc::downgrade(memory));
        }
    }

    /// Whether announced memory waits for registration.
    pub(super) fn is_behind(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Registers one of the announced memories. Only one: each takes long enough to delay everything else.
    pub(super) fn prepare(&mut self, domain: &ProtectionDomain) {
        let news = |memory: Arc<Memory>| (!self.known.contains_key(&key(&memory))).then_some(memory);
        let Some(memory) =
            std::iter::from_fn(|| self.ahead.pop_front()).find_map(|memory| memory.upgrade().and_then(news))
        else {
            return;
        };
        match MemoryRegion::register(domain, Arc::clone(&memory) as _, RegionAccess::Source) {
            Ok(region) => self.keep(&memory, region),
            // Not an error yet: the first chunk tries again, and reports a failure to its caller.
            Err(error) => tracing::debug!(%error, "memory could not be registered ahead"),
        }
    }

    /// The number of regions that were registered only when their first chunk was sent.
    pub(super) fn late(&self) -> u64 {
        self.late
    }

    fn keep(&mut self, memory: &Arc<Memory>, region: MemoryRegion) {
        self.sweep();
        self.known.insert(key(memory), Source { memory: Arc::clone(memory), region });
    }

    /// The region of a chunk, and the index of its first byte in it.
    pub(super) fn region(
        &mut self,
        domain: &ProtectionDomain,
        chunk: &Chunk,
    ) -> Result<(MemoryRegion, usize), MemoryError> {
        let memory = chunk.memory();
        if let Some(source) = self.known.get(&key(memory)) {
            return Ok((source.region.clone(), chunk.start()));
        }
        match MemoryRegion::register(domain, Arc::clone(memory) as _, RegionAccess::Source) {
            Ok(region) => {
                if !chunk.is_passing() {
                    self.late += 1;
                    tracing::trace!(late = self.late, "memory is registered with its first chunk");
                    self.keep(memory, region.clone());
                }
                Ok((region, chunk.start()))
            }
            Err(MemoryError::KernelWantsWritable) => self.copied(domain, chunk),
            Err(error) => Err(error),
        }
    }

    /// Linux before 6.2 registers no memory that this process may only read.
    fn copied(&mut self, domain: &ProtectionDomain, chunk: &Chunk) -> Result<(MemoryRegion, usize), MemoryError> {
        if !std::mem::replace(&mut self.copying, true) {
            tracing::warn!("streams are copied before RDMA sends them: {}", MemoryError::KernelWantsWritable);
        }
        let buffer = Buffer::zeroed(chunk.len().max(1));
        buffer.write(0, &chunk.to_vec());
        Ok((MemoryRegion::register(domain, Arc::new(buffer), RegionAccess::Source)?, 0))
    }

    /// At intervals, unregisters memory that is no longer used elsewhere.
    pub(super) fn rest(&mut self) {
        if !self.known.is_empty() && self.swept.elapsed() >= SWEEP {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        self.swept = Instant::now();
        self.known.retain(|_, source| !source.is_left_alone());
    }
}

/// Holds the memory, so that no other memory gets its address while it is the key.
fn key(memory: &Arc<Memory>) -> usize {
    Arc::as_ptr(memory) as usize
}
