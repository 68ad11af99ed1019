//! Bare verbs: what minimal code achieves with the device through the crate `dflow-verbs`. Push: a WRITE, detected by
//! polling memory as in perftest, or by a completion with immediate data as in dflow's path. Pull: a notification, then
//! a READ.

use std::sync::Arc;
use std::time::Duration;

use dflow_transport::rdma::RdmaConfig;
use dflow_verbs::{
    Buffer, Completion, CompletionQueue, Connection, Data, Endpoint, MemoryRegion, Operation, ProtectionDomain,
    QueuePair, QueuePairConfig, ReceiveRequest, RegionAccess, RemoteKey, RemoteMemory, SendOperation, SendRequest,
    Status,
};
use serde::{Deserialize, Serialize};

use super::{Chunks, Machine, Patience, Side, Transfer, Work, timed};
use crate::failure::{Failure, Trying};
use crate::subject::{Card, Role, Subject, Waiting};

/// Maximum number of requests in flight, the same as in perftest.
const DEPTH: u32 = 128;
/// One in this many writes of a stream is signaled.
const REPORTED: u64 = 16;
/// The size of the number at the end of a chunk, in bytes.
const MARK: usize = 8;

/// The subjects to move a chunk with bare verbs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verbs {
    /// Push; the reader polls the last bytes of its memory.
    Write,
    /// Push; the reader gets a completion.
    WriteWithImmediate,
    /// Pull.
    Read,
}

impl Subject for Verbs {
    fn card(&self) -> Card {
        Card {
            name: match self {
                Verbs::Write => "verbs-write",
                Verbs::WriteWithImmediate => "verbs-write-imm",
                Verbs::Read => "verbs-read",
            },
            about: match self {
                Verbs::Write => "bare verbs, pushed: RDMA WRITE; the reader looks at its memory, as in perftest",
                Verbs::WriteWithImmediate => {
                    "bare verbs, push: RDMA WRITE with immediate data; the reader gets a completion"
                }
                Verbs::Read => "bare verbs, pulled: an announcement, then the reader's RDMA READ",
            },
            role: Role::Limit,
            waiting: Waiting::Spinning,
        }
    }
}

impl Transfer for Verbs {
    fn chunks(&self, machine: &mut Machine, work: &Work) -> Result<Option<Box<dyn Chunks>>, Failure> {
        Ok(Some(Box::new(Bare::connect(*self, machine, work.size)?)))
    }

    fn stream(&self, machine: &mut Machine, work: &Work) -> Result<Option<Duration>, Failure> {
        let mut bare = Bare::connect(*self, machine, work.size)?;
        machine.line.swap(&())?;
        let took = match (machine.side, self) {
            (Side::First, Verbs::Read) => timed(|| {
                // All chunks can be read; the other machine reports when it has read them.
                bare.tell()?;
                bare.come(Operation::Receive).map(drop)
            }),
            (Side::First, _) => timed(|| bare.push(work.count)),
            (Side::Second, Verbs::Read) => bare.pull(work.count).map(|()| None),
            (Side::Second, Verbs::WriteWithImmediate) => {
                for _ in 0..work.count {
                    bare.come(Operation::Receive)?;
                }
                Ok(None)
            }
            (Side::Second, Verbs::Write) => Ok(None),
        }?;
        machine.line.swap(&())?;
        Ok(took)
    }
}

/// The data that the two ends exchange in order to connect.
#[derive(Serialize, Deserialize)]
struct Hello {
    endpoint: Vec<u8>,
    /// The memory to which chunks are written, or from which they are read.
    address: u64,
    key: u32,
}

struct Bare {
    method: Verbs,
    // Dropped before the memory that it uses.
    pair: QueuePair,
    completions: CompletionQueue,
    size: usize,
    source: (Arc<Buffer>, MemoryRegion),
    target: (Arc<Buffer>, MemoryRegion),
    remote: RemoteMemory,
    sent: u64,
    received: u64,
    /// Completions that arrived while waiting for others.
    early: Vec<Operation>,
}

impl Bare {
    fn connect(method: Verbs, machine: &mut Machine, size: usize) -> Result<Bare, Failure> {
        let (context, port, gid) = machine.open();
        let domain = ProtectionDomain::new(&context).trying("create a protection domain")?;
        let completions = CompletionQueue::new(&context, 2 * DEPTH, false).trying("create a completion queue")?;
        let reads = method == Verbs::Read;
        let config = QueuePairConfig {
            port,
            gid,
            send_depth: DEPTH,
            receive_depth: DEPTH,
            inline: RdmaConfig::default().inline,
            remote_write: !reads,
            remote_read: reads,
        };
        let pair = QueuePair::new(&domain, &completions, &completions, &config).trying("create a queue pair")?;
        let register = |access| -> Result<_, Failure> {
            let buffer = Arc::new(Buffer::zeroed(size));
            let region = MemoryRegion::register(&domain, Arc::clone(&buffer) as _, access).trying("register memory")?;
            Ok((buffer, region))
        };
        // The peer reads from the source or writes to the target.
        let (source, target) = if reads {
            (register(RegionAccess::RemoteRead)?, register(RegionAccess::Receive)?)
        } else {
            (register(RegionAccess::Source)?, register(RegionAccess::RemoteWrite)?)
        };
        let open = if reads { source.1.remote() } else { target.1.remote() };
        let open = open.ok_or_else(|| Failure::new("the memory has no remote key"))?;
        pair.post_receives(&[ReceiveRequest { id: 0, into: None }; DEPTH as usize]).trying("post receives")?;
        let endpoint = pair.endpoint().to_bytes().to_vec();
        let theirs = machine.line.swap(&Hello { endpoint, address: open.address, key: open.key.number() })?;
        let endpoint = Endpoint::from_bytes(&theirs.endpoint).trying("decode the other machine's endpoint")?;
        pair.connect(&endpoint, &Connection::default()).trying("connect queue pairs")?;
        let remote = RemoteMemory { address: theirs.address, key: RemoteKey::from_number(theirs.key) };
        Ok(Bare { method, pair, completions, size, source, target, remote, sent: 0, received: 0, early: Vec::new() })
    }

    /// Waits for the completion of a request of this kind, and reposts a completed receive.
    fn come(&mut self, wanted: Operation) -> Result<(), Failure> {
        let mut patience = Patience::new();
        loop {
            if let Some(at) = self.early.iter().position(|early| *early == wanted) {
                self.early.swap_remove(at);
                return Ok(());
            }
            self.look()?;
            patience.check()?;
        }
    }

    /// Polls for completions.
    fn look(&mut self) -> Result<(), Failure> {
        let mut done = [Completion::default(); 16];
        let count = self.completions.poll(&mut done).trying("poll completions")?;
        for completion in &done[..count] {
            if completion.status != Status::Success {
                return Err(Failure::new(format!("a request has failed: {}", completion.status)));
            }
            if completion.operation == Operation::Receive {
                self.pair.post_receives(&[ReceiveRequest { id: 0, into: None }]).trying("post a receive")?;
            }
            self.early.push(completion.operation);
        }
        Ok(())
    }

    fn write(&mut self, signaled: bool) -> Result<(), Failure> {
        let slice = self.source.1.slice(0..self.size).trying("use memory")?;
        let inline = self.size <= self.pair.max_inline();
        let operation = match self.method {
            Verbs::Write | Verbs::Read => SendOperation::Write(self.remote),
            Verbs::WriteWithImmediate => SendOperation::WriteWithImmediate(self.remote, 0),
        };
        let data = if inline { Data::InlineMemory(slice) } else { Data::Memory(slice) };
        self.pair.post(&[SendRequest { id: 0, operation, data, signaled }]).trying("post a write")
    }

    /// Sends a notification to the other machine.
    fn tell(&mut self) -> Result<(), Failure> {
        self.pair
            .post(&[SendRequest { id: 0, operation: SendOperation::Send, data: Data::Empty, signaled: true }])
            .trying("post a message")?;
        self.come(Operation::Send)
    }

    /// Writes this many chunks, and waits until all are acknowledged.
    fn push(&mut self, count: u64) -> Result<(), Failure> {
        for number in 1..=count {
            while self.pair.free_sends() == 0 {
                self.come(Operation::Write)?;
            }
            self.write(number % REPORTED == 0 || number == count)?;
        }
        let mut patience = Patience::new();
        while self.pair.free_sends() < DEPTH as usize {
            self.look()?;
            patience.check()?;
        }
        Ok(())
    }

    /// Reads this many chunks after the notification, and confirms that they have arrived.
    fn pull(&mut self, count: u64) -> Result<(), Failure> {
        self.come(Operation::Receive)?;
        let (mut posted, mut done) = (0, 0);
        while done < count {
            while posted < count && self.pair.free_sends() > 1 {
                self.read()?;
                posted += 1;
            }
            self.come(Operation::Read)?;
            done += 1;
        }
        self.tell()
    }

    fn read(&mut self) -> Result<(), Failure> {
        let slice = self.target.1.slice(0..self.size).trying("use memory")?;
        self.pair.read(0, slice, self.remote).trying("post a read")
    }

    fn mark(&self) -> u64 {
        let mut mark = [0; MARK];
        self.target.0.read(self.size - MARK, &mut mark);
        u64::from_le_bytes(mark)
    }
}

impl Chunks for Bare {
    fn send(&mut self) -> Result<(), Failure> {
        self.sent += 1;
        self.source.0.write(self.size - MARK, &self.sent.to_le_bytes());
        if self.method == Verbs::Read {
            return self.tell();
        }
        self.write(true)?;
        self.come(Operation::Write)
    }

    fn receive(&mut self) -> Result<(), Failure> {
        self.received += 1;
        match self.method {
            Verbs::Write => {
                let mut patience = Patience::new();
                while self.mark() != self.received {
                    patience.check()?;
                }
                return Ok(());
            }
            Verbs::WriteWithImmediate => self.come(Operation::Receive)?,
            Verbs::Read => {
                self.come(Operation::Receive)?;
                self.read()?;
                self.come(Operation::Read)?;
            }
        }
        if self.mark() == self.received { Ok(()) } else { Err(Failure::new("a chunk is not the one that was sent")) }
    }
}
