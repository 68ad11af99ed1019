//! Redis over a Unix socket: one process sets a key, the other gets it.

use std::any::Any;
use std::sync::atomic::Ordering;

use crate::failure::Failure;
use crate::handoff::Handoff;
use crate::memory::{Mapping, PAGE, sleep_while, wake};
use crate::payload::{Seen, bytes, bytes_mut, fill, private};
use crate::peers::redis::{Client, Server, missing};
use crate::subject::{Card, End, Place, Role, Side, Subject, Waiting};

/// Offsets of the flags of the two directions.
const FLAGS: [usize; 2] = [0, 128];

/// The keys of the two directions.
const KEYS: [&str; 2] = ["there", "back"];

/// A Redis server beside the two processes.
pub struct Redis;

impl Subject for Redis {
    fn card(&self) -> Card {
        Card {
            name: "redis",
            about: "Redis over a Unix socket: one process does SET and wakes the other with a futex, which does GET",
            role: Role::Peer,
            waiting: Waiting::Sleeping,
        }
    }

    fn missing(&self) -> Option<String> {
        missing()
    }

    fn service(&self, place: &Place) -> Result<Option<Box<dyn Any>>, Failure> {
        Ok(Some(Box::new(Server::start(place)?)))
    }
}

impl Handoff for Redis {
    fn memory(&self, _: usize) -> usize {
        PAGE
    }

    fn join(&self, side: Side, place: &Place, size: usize) -> Result<Box<dyn End>, Failure> {
        let (mine, theirs) = match side {
            Side::First => (0, 1),
            Side::Second => (1, 0),
        };
        let client = Client::connect(place)?;
        Ok(Box::new(RedisEnd { client, flags: place.map()?, words: private(size), mine, theirs, sent: 0, received: 0 }))
    }
}

struct RedisEnd {
    client: Client,
    flags: Mapping,
    words: Vec<u64>,
    mine: usize,
    theirs: usize,
    sent: u32,
    received: u32,
}

impl End for RedisEnd {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        fill(&mut self.words, first);
        self.client.set(KEYS[self.mine], bytes(&self.words))?;
        self.sent = self.sent.wrapping_add(1);
        let flag = self.flags.futex(FLAGS[self.mine]);
        flag.store(self.sent, Ordering::Release);
        wake(flag, 1)
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        // Sleeps instead of spinning, because the server needs a core too.
        let flag = self.flags.futex(FLAGS[self.theirs]);
        while flag.load(Ordering::Acquire) == self.received {
            sleep_while(flag, self.received)?;
        }
        self.received = self.received.wrapping_add(1);
        self.client.get(KEYS[self.theirs], bytes_mut(&mut self.words))?;
        Ok(Seen::reading(&self.words))
    }
}
