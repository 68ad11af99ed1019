//! The memory from which bytes are sent: registered once, while anybody uses it.

use crate::chunk::Chunk;
use dflow_shm::Memory;
use dflow_verbs::{Buffer, MemoryError, MemoryRegion, ProtectionDomain, RegionAccess};
use foldhash::fast::FixedState;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory that nobody else has any more is looked for this often.
const SWEEP: Duration = Duration::from_millis(100);

/// Registered memory, by its address.
#[derive(Debug)]
pub(super) struct Sources {
    known: HashMap<usize, Source, FixedState>,
    swept: Instant,
    copying: bool,
}

#[derive(Debug)]
struct Source {
    memory: Arc<Memory>,
    region: MemoryRegion,
}

impl Source {
    /// Whether nobody has the memory but this value and its region.
    fn is_left_alone(&self) -> bool {
        Arc::strong_count(&self.memory) <= 2
    }
}

impl Sources {
    pub(super) fn new() -> Self {
        Self { known: HashMap::default(), swept: Instant::now(), copying: false }
    }

    /// Where a device finds the bytes of a chunk: the registered memory, and the place of the first of them.
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
                    self.sweep();
                    let source = Source { memory: Arc::clone(memory), region: region.clone() };
                    self.known.insert(key(memory), source);
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

    /// Lets go of memory that nobody else has, now and then.
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

/// The value keeps the memory, so that no other has its address.
fn key(memory: &Arc<Memory>) -> usize {
    Arc::as_ptr(memory) as usize
}
