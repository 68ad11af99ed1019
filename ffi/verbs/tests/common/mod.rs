//! Shared by the tests on a real device.

use dflow_verbs::{
    Buffer, Completion, CompletionQueue, Context, Devices, GidEntry, MemoryRegion, ProtectionDomain, QueuePair,
    QueuePairConfig, RegionAccess,
};
use std::env;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longer than any operation takes, including retries.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An address of the virtual machine.
pub fn address(name: &str) -> IpAddr {
    let value = env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this test through scripts/soft-roce"));
    value.parse().expect("an address")
}

/// One end of a connection, with everything that it needs.
pub struct Side {
    // Dropped in this order.
    pub pair: QueuePair,
    pub completions: CompletionQueue,
    pub domain: ProtectionDomain,
    pub context: Context,
}

/// The device with the address of rdma0.
pub fn open() -> (Context, u8, GidEntry) {
    Devices::list().expect("devices").open_towards(address("DFLOW_VM_PEER")).expect("the device of the route")
}

impl Side {
    pub fn new(depth: u32) -> Self {
        let (context, port, gid) = open();
        Self::on(context, port, gid, depth)
    }

    pub fn on(context: Context, port: u8, gid: GidEntry, depth: u32) -> Self {
        let domain = ProtectionDomain::new(&context).expect("a domain");
        let completions = CompletionQueue::new(&context, depth * 2, true).expect("a completion queue");
        let config = QueuePairConfig {
            port,
            gid,
            send_depth: depth,
            receive_depth: depth,
            inline: 64,
            remote_write: true,
            remote_read: true,
        };
        let pair = QueuePair::new(&domain, &completions, &completions, &config).expect("a queue pair");
        Self { pair, completions, domain, context }
    }

    pub fn region(&self, length: usize, access: RegionAccess) -> (Arc<Buffer>, MemoryRegion) {
        let buffer = Arc::new(Buffer::zeroed(length));
        let region = MemoryRegion::register(&self.domain, buffer.clone(), access).expect("a region");
        (buffer, region)
    }

    /// The next completion.
    pub fn next(&self) -> Completion {
        self.next_within(PATIENCE).expect("a completion in time")
    }

    /// Sleeps until it arrives, as an event-driven user does.
    pub fn next_within(&self, patience: Duration) -> Option<Completion> {
        let deadline = Instant::now() + patience;
        let mut one = [Completion::default()];
        loop {
            self.completions.arm().expect("armed");
            if self.completions.poll(&mut one).expect("polled") == 1 {
                return Some(one[0]);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            self.completions.wait(Some(left)).expect("waited");
        }
    }
}

/// Bytes that differ at each position and for each seed.
pub fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed)).collect()
}

pub fn bytes(buffer: &Buffer, range: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = vec![0; range.len()];
    buffer.read(range.start, &mut bytes);
    bytes
}
