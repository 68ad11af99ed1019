//! Bare verbs: what the device and our interface to it give to the barest code. Pushed: a WRITE, noticed in memory as
//! perftest does it, or by a completion with an immediate as our path does it. Pulled: an announcement, then a READ.

use std::sync::Arc;
use std::time::Duration;

use dflow_transport::rdma::RdmaConfig;
use dflow_verbs::{
    Buffer, Completion, CompletionQueue, Connection, Data, Endpoint, MemoryRegion, Operation, ProtectionDomain,
    QueuePair, QueuePairConfig, ReceiveRequest, RegionAccess, RemoteKey, RemoteMemory, SendOperation, SendRequest,
    Status,
};
use serde::{Deserialize, Serialize};

use super::{Chunks, Ground, Patience, Side, Way, Work, timed};
use crate::failure::{Failure, Trying};
use crate::subject::{Card, Role, Subject, Waiting};

/// Requests that may be in flight, as many as perftest has.
const DEPTH: u32 = 128;
/// One in so many writes of a stream is reported.
const REPORTED: u64 = 16;
/// The bytes at the end of a chunk that say which it is.
const MARK: usize = 8;

/// A way to move a chunk with bare verbs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verbs {
    /// Pushed; the reader looks at the last bytes of its memory.
    Write,
    /// Pushed; the reader gets a completion.
    WriteWithImmediate,
    /// Pulled.
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
                    "bare verbs, pushed: RDMA WRITE with an immediate; the reader gets a completion"
                }
                Verbs::Read => "bare verbs, pulled: an announcement, then the reader's RDMA READ",
            },
            role: Role::Limit,
            waiting: Waiting::Spinning,
        }
    }
}

impl Way for Verbs {
    fn chunks(&self, ground: &mut Ground, work: &Work) -> Result<Option<Box<dyn Chunks>>, Failure> {
        Ok(Some(Box::new(Bare::connect(*self, ground, work.size)?)))
    }

    fn stream(&self, ground: &mut Ground, work: &Work) -> Result<Option<Duration>, Failure> {
        let mut bare = Bare::connect(*self, ground, work.size)?;
        ground.line.swap(&())?;
        let took = match (ground.side, self) {
            (Side::First, Verbs::Read) => timed(|| {
                // All of it is there; the other machine says when it has it.
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
        ground.line.swap(&())?;
        Ok(took)
    }
}

/// What the two ends tell each other.
#[derive(Serialize, Deserialize)]
struct Hello {
    endpoint: Vec<u8>,
    /// Where chunks are written to, or read from.
    address: u64,
    key: u32,
}

struct Bare {
    way: Verbs,
    // Before the memory that it uses.
    pair: QueuePair,
    completions: CompletionQueue,
    size: usize,
    source: (Arc<Buffer>, MemoryRegion),
    target: (Arc<Buffer>, MemoryRegion),
    remote: RemoteMemory,
    sent: u64,
    received: u64,
    /// Completions that came while others were waited for.
    early: Vec<Operation>,
}

impl Bare {
    fn connect(way: Verbs, ground: &mut Ground, size: usize) -> Result<Bare, Failure> {
        let (context, port, gid) = ground.open();
        let domain = ProtectionDomain::new(&context).trying("make a protection domain")?;
        let completions = CompletionQueue::new(&context, 2 * DEPTH, false).trying("make a completion queue")?;
        let reads = way == Verbs::Read;
        let config = QueuePairConfig {
            port,
            gid,
            send_depth: DEPTH,
            receive_depth: DEPTH,
            inline: RdmaConfig::default().inline,
            remote_write: !reads,
            remote_read: reads,
        };
        let pair = QueuePair::new(&domain, &completions, &completions, &config).trying("make a queue pair")?;
        let register = |access| -> Result<_, Failure> {
            let buffer = Arc::new(Buffer::zeroed(size));
            let region = MemoryRegion::register(&domain, Arc::clone(&buffer) as _, access).trying("register memory")?;
            Ok((buffer, region))
        };
        // The peer reads from the source, or writes into the target.
        let (source, target) = if reads {
            (register(RegionAccess::RemoteRead)?, register(RegionAccess::Receive)?)
        } else {
            (register(RegionAccess::Source)?, register(RegionAccess::RemoteWrite)?)
        };
        let open = if reads { source.1.remote() } else { target.1.remote() };
        let open = open.ok_or_else(|| Failure::new("the memory has no remote key"))?;
        pair.post_receives(&[ReceiveRequest { id: 0, into: None }; DEPTH as usize]).trying("post receives")?;
        let endpoint = pair.endpoint().to_bytes().to_vec();
        let theirs = ground.line.swap(&Hello { endpoint, address: open.address, key: open.key.number() })?;
        let endpoint = Endpoint::from_bytes(&theirs.endpoint).trying("understand the other machine")?;
        pair.connect(&endpoint, &Connection::default()).trying("connect queue pairs")?;
        let remote = RemoteMemory { address: theirs.address, key: RemoteKey::from_number(theirs.key) };
        Ok(Bare { way, pair, completions, size, source, target, remote, sent: 0, received: 0, early: Vec::new() })
    }

    /// Waits for the end of a request of this kind, and posts a receive again where it was one.
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

    /// Takes what has completed.
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
        let operation = match self.way {
            Verbs::Write | Verbs::Read => SendOperation::Write(self.remote),
            Verbs::WriteWithImmediate => SendOperation::WriteWithImmediate(self.remote, 0),
        };
        let data = if inline { Data::InlineMemory(slice) } else { Data::Memory(slice) };
        self.pair.post(&[SendRequest { id: 0, operation, data, signaled }]).trying("post a write")
    }

    /// Tells the other machine that there is something.
    fn tell(&mut self) -> Result<(), Failure> {
        self.pair
            .post(&[SendRequest { id: 0, operation: SendOperation::Send, data: Data::Empty, signaled: true }])
            .trying("post a message")?;
        self.come(Operation::Send)
    }

    /// Writes so many chunks, and waits until the device has them all acknowledged.
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

    /// Reads so many chunks when they are announced, and says when they are there.
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
        if self.way == Verbs::Read {
            return self.tell();
        }
        self.write(true)?;
        self.come(Operation::Write)
    }

    fn receive(&mut self) -> Result<(), Failure> {
        self.received += 1;
        match self.way {
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
