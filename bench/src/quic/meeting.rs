//! How the two processes of a measurement find each other.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dflow_transport::identity::{ClusterCa, Identity};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Trying};
use crate::memory::{PAGE, sleep_while_at_most, wake};
use crate::payload::WORD;
use crate::quic::net::Net;
use crate::subject::{Place, PlaceKeeper, Side};

/// How long the second side may take until it listens.
const LIMIT: Duration = Duration::from_secs(10);

/// How long the certificates of a measurement hold.
const VALIDITY: Duration = Duration::from_secs(3600);

/// Where the port is at which the second side listens; zero before. The last word of the first page: both sides use those
/// before it as they like.
const PORT: usize = PAGE - WORD;

/// What both processes know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Meeting {
    /// A directory, and shared memory.
    pub place: Place,
    /// Where the first side is on the network.
    first: IpAddr,
    /// Where the second side is, which listens.
    second: IpAddr,
    /// The files of the network namespaces of both, if they are not this program's.
    namespaces: Option<[PathBuf; 2]>,
}

/// Keeps a [`Meeting`] in being.
pub struct MeetingKeeper {
    meeting: Meeting,
    // Held for its drop.
    _place: PlaceKeeper,
}

impl MeetingKeeper {
    /// Makes a meeting across a network, with certificates and `memory` bytes of shared memory, a page at least.
    pub fn new(net: &Net, memory: usize) -> Result<MeetingKeeper, Failure> {
        let keeper = PlaceKeeper::new(memory.max(PAGE))?;
        let place = keeper.place().clone();
        let authority = ClusterCa::create("bench").trying("make an authority")?;
        for side in [Side::First, Side::Second] {
            let identity = authority.issue(name(side), VALIDITY).trying("make a certificate")?;
            identity.save(&place.path(name(side))).trying("keep a certificate")?;
        }
        let [first, second] = net.addresses();
        let meeting = Meeting { place, first, second, namespaces: net.namespaces() };
        Ok(MeetingKeeper { meeting, _place: keeper })
    }

    /// The meeting.
    pub fn meeting(&self) -> &Meeting {
        &self.meeting
    }
}

/// The name of a side, in certificates and files.
pub fn name(side: Side) -> &'static str {
    match side {
        Side::First => "first",
        Side::Second => "second",
    }
}

impl Meeting {
    /// Moves this thread, and those that it starts, into the network namespace of a side.
    pub fn enter(&self, side: Side) -> Result<(), Failure> {
        let Some([first, second]) = &self.namespaces else { return Ok(()) };
        let path = if side == Side::First { first } else { second };
        let file = File::open(path).trying(format_args!("open {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .trying(format_args!("enter the network namespace {}", path.display()))
    }

    /// Who a side is.
    pub fn identity(&self, side: Side) -> Result<Identity, Failure> {
        Identity::load(&self.place.path(name(side))).trying("load a certificate")
    }

    /// Where a side binds its sockets.
    pub fn own_address(&self, side: Side) -> SocketAddr {
        SocketAddr::new(if side == Side::First { self.first } else { self.second }, 0)
    }

    /// Tells the first side at which port of its address the second listens.
    pub fn tell(&self, address: SocketAddr) -> Result<(), Failure> {
        let memory = self.place.map()?;
        let word = memory.futex(PORT);
        word.store(address.port().into(), Ordering::Release);
        // Where the second side is a server of its own, both may wait for it.
        wake(word, 2)
    }

    /// Waits until the second side listens; where.
    pub fn hear(&self) -> Result<SocketAddr, Failure> {
        let memory = self.place.map()?;
        let word = memory.futex(PORT);
        let deadline = Instant::now() + LIMIT;
        loop {
            let port = word.load(Ordering::Acquire);
            if port != 0 {
                let port = u16::try_from(port).trying(format_args!("use the port {port}"))?;
                return Ok(SocketAddr::new(self.second, port));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::new(format!("the other side does not listen within {} s", LIMIT.as_secs())));
            }
            sleep_while_at_most(word, 0, left)?;
        }
    }
}
