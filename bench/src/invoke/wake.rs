//! Waking a waiting process: the limit of the start of a ready program.

use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use dflow_shm::channel;
use serde::{Deserialize, Serialize};

use crate::clock::now;
use crate::failure::{Failure, Trying};
use crate::handoff::{Handoff, bare};
use crate::invoke::{From, Invoke, REST};
use crate::latency::{Recorded, Repeat, histogram};
use crate::payload::{Seen, WORD};
use crate::peers::unix_socket::{connect, listen};
use crate::process::{Actor, Actors, Findings, Round, Task};
use crate::subject::{Card, End, Place, PlaceKeeper, Role, Side, Subject, Waiting};

/// The size of the message that wakes the process, in bytes.
const NOTICE: usize = 64;

/// The process sleeps on a word.
pub static FUTEX: Wake =
    Wake { name: "futex-wake", about: "a process sleeps in futex, and another wakes it", join: join_futex };

/// The process sleeps in a packet socket.
pub static PACKET: Wake = Wake {
    name: "packet-wake",
    about: "a process sleeps in recvmsg on a SOCK_SEQPACKET socket, like a ready function",
    join: join_packets,
};

/// Creates the end of one side.
type Join = fn(Side, &Place) -> Result<Box<dyn End>, Failure>;

/// A way to wake a process.
pub struct Wake {
    name: &'static str,
    about: &'static str,
    join: Join,
}

impl Subject for Wake {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: Role::Limit, waiting: Waiting::Sleeping }
    }
}

impl Invoke for Wake {
    fn from(&self) -> From {
        From::Ready
    }

    fn starts(&self, count: u32) -> Result<Repeat, Failure> {
        let keeper = PlaceKeeper::new(bare::FUTEX.memory(NOTICE))?;
        let task = |side| WakeTask { wake: self.name.into(), side, place: keeper.place().clone() };
        let mut actors = Actors::start(vec![(task(Side::First), None), (task(Side::Second), None)])?;
        let began = SystemTime::now();
        let findings = actors.round(Round { count: count.into(), interval: 0 })?;
        let mut histogram = histogram();
        findings[1].latency.add_to(&mut histogram);
        Ok(Repeat { began, took: began.elapsed().unwrap_or_default(), histogram })
    }
}

/// The task of the waking or of the woken process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WakeTask {
    wake: String,
    side: Side,
    place: Place,
}

impl Task for WakeTask {
    const TOPIC: &str = "wake";

    fn actor(self) -> Result<Box<dyn Actor>, Failure> {
        let wake = [&FUTEX, &PACKET].into_iter().find(|wake| wake.name == self.wake);
        let wake = wake.ok_or_else(|| Failure::new(format!("there is no subject {} for wake-ups", self.wake)))?;
        Ok(Box::new(Player { end: (wake.join)(self.side, &self.place)?, side: self.side }))
    }
}

struct Player {
    end: Box<dyn End>,
    side: Side,
}

impl Actor for Player {
    fn round(&mut self, round: Round) -> Result<Findings, Failure> {
        let began = now();
        let mut histogram = histogram();
        for _ in 0..round.count {
            match self.side {
                Side::First => {
                    std::thread::sleep(REST);
                    self.end.send(now())?;
                }
                Side::Second => {
                    let sent = self.end.receive()?.first;
                    histogram.saturating_record(now().saturating_sub(sent));
                }
            }
        }
        Ok(Findings { began, ended: now(), latency: Recorded::of(&histogram), ..Findings::default() })
    }
}

fn join_futex(side: Side, place: &Place) -> Result<Box<dyn End>, Failure> {
    bare::FUTEX.join(side, place, NOTICE)
}

fn join_packets(side: Side, place: &Place) -> Result<Box<dyn End>, Failure> {
    Ok(Box::new(match side {
        Side::First => {
            let (socket, _) = listen(place)?.accept().trying("accept the other process")?;
            let (ours, theirs) = channel::pair().trying("create a channel")?;
            channel::send(socket.as_fd(), b"channel", &[theirs.as_fd()], true).trying("send a channel")?;
            Packets(ours)
        }
        Side::Second => {
            let (_, mut fds) =
                channel::receive(connect(place)?.as_fd(), &mut [0; NOTICE], true).trying("receive a channel")?;
            Packets(fds.pop().ok_or_else(|| Failure::new("the message had no channel"))?)
        }
    }))
}

struct Packets(OwnedFd);

impl End for Packets {
    fn send(&mut self, first: u64) -> Result<(), Failure> {
        let mut notice = [0; NOTICE];
        notice[..WORD].copy_from_slice(&first.to_ne_bytes());
        channel::send(self.0.as_fd(), &notice, &[], true).trying("send a packet")
    }

    fn receive(&mut self) -> Result<Seen, Failure> {
        let mut notice = [0; NOTICE];
        channel::receive(self.0.as_fd(), &mut notice, true).trying("receive a packet")?;
        Ok(Seen { first: notice.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word)), sum: 0 })
    }
}
