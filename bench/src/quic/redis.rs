//! Redis over TCP: the writer sets keys, and the reader gets them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::Failure;
use crate::memory::{Mapping, PAGE, sleep_while, wake};
use crate::payload::{Seen, bytes, bytes_mut, fill, private};
use crate::peers::redis::{Client, Server, missing};
use crate::quic::bulk::{self, Bulk};
use crate::quic::iperf::free_port;
use crate::quic::net::Net;
use crate::quic::rendezvous::{Rendezvous, RendezvousKeeper};
use crate::quic::transfer::{Ends, Party, Transfer, Work};
use crate::subject::{Card, End, Role, Side, Subject, Waiting};

/// The size of a value in bytes.
const VALUE: usize = 1 << 20;

/// Maximum number of unread values.
const AHEAD: u32 = 4;

/// Offsets of the counts of set and of read values, each in its own cache line.
const SET: usize = 0;
const GOT: usize = 128;

/// A Redis server on the reader's node.
pub struct Redis;

impl Subject for Redis {
    fn card(&self) -> Card {
        Card {
            name: "redis",
            about: "Redis on the reader's node, over TCP: SET by one, GET by the other, values of 1 MiB, up to four \
                ahead",
            role: Role::Peer,
            waiting: Waiting::Sleeping,
        }
    }

    fn missing(&self) -> Option<String> {
        missing()
    }
}

impl Transfer for Redis {
    fn does(&self, work: Work) -> bool {
        work == Work::Stream
    }

    fn join(&self, work: Work, side: Side, rendezvous: &Rendezvous) -> Result<Box<dyn Party>, Failure> {
        let client = Client::connect_at(rendezvous.receive()?)?;
        let end = RedisEnd { client, memory: rendezvous.place.map()?, words: private(VALUE), count: 0 };
        Ok(Box::new(Ends::new(end, work, side, VALUE)))
    }

    fn stream(&self, net: &Net, bytes: u64) -> Result<Bulk, Failure> {
        let keeper = RendezvousKeeper::new(net, PAGE)?;
        let rendezvous = keeper.rendezvous();
        let [_, address] = net.addresses();
        let address = SocketAddr::new(address, free_port(address, net)?);
        let server = Server::start_at(address, &rendezvous.place, |program| net.command(Side::Second, program))?;
        rendezvous.send(address)?;
        let before = server.processor_time()?;
        let bulk = bulk::carry_between(self.card().name, VALUE, &[rendezvous], bytes)?;
        // The server's processor time includes the bytes sent before the measurement.
        let all = bulk.bytes as f64 * (1.0 + 1.0 / bulk::WARM_UP as f64);
        let server = (server.processor_time()? - before) as f64 * bulk.bytes as f64 / all;
        Ok(Bulk { cpu: bulk.cpu + server, ..bulk })
    }
}

struct RedisEnd {
    client: Client,
    memory: Mapping,
    words: Vec<u64>,
    /// The number of values that this side has set or got.
    count: u32,
}

impl RedisEnd {
    fn key(&self) -> String {
        format!("value-{}", self.count % AHEAD)
    }

    /// Publishes that this side has processed one more value.
    fn done(&mut self, word: usize) -> Result<(), Failure> {
        self.count = self.count.wrapping_add(1);
        let word = self.memory.futex(word);
        word.store(self.count, Ordering::Release);
        wake(word, 1)
    }
}

/// Sleeps until the other side's count differs from this one.
fn wait_while(word: &AtomicU32, count: u32) -> Result<(), Failure> {
    while word.load(Ordering::Acquire) == count {
        sleep_while(word, count)?;
    }
    Ok(())
}

impl End for RedisEnd {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        fill(&mut self.words, first);
        wait_while(self.memory.futex(GOT), self.count.wrapping_sub(AHEAD))?;
        self.client.set(&self.key(), bytes(&self.words))?;
        self.done(SET)
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        wait_while(self.memory.futex(SET), self.count)?;
        self.client.get(&self.key(), bytes_mut(&mut self.words))?;
        let seen = Seen::reading(&self.words);
        self.done(GOT)?;
        Ok(seen)
    }
}
