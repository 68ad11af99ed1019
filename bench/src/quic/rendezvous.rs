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

/// How long the second side may take to listen.
const LIMIT: Duration = Duration::from_secs(10);

/// The validity of the certificates of a measurement.
const VALIDITY: Duration = Duration::from_secs(3600);

/// Offset of the port on which the second side listens; zero before it listens. It is the last word of the first page,
/// of which both sides may use the rest.
const PORT: usize = PAGE - WORD;

/// The information common to both processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rendezvous {
    /// A directory, and shared memory.
    pub place: Place,
    /// The address of the first side.
    first: IpAddr,
    /// The address of the second side, which listens.
    second: IpAddr,
    /// The namespace files of both sides, if they are not in this program's network namespace.
    namespaces: Option<[PathBuf; 2]>,
}

/// The owner of a [`Rendezvous`], which is removed when this value is dropped.
pub struct RendezvousKeeper {
    rendezvous: Rendezvous,
    // Removed on drop.
    _place: PlaceKeeper,
}

impl RendezvousKeeper {
    /// Creates a rendezvous on a network, with certificates and `memory` bytes of shared memory, at least a page.
    pub fn new(net: &Net, memory: usize) -> Result<RendezvousKeeper, Failure> {
        let keeper = PlaceKeeper::new(memory.max(PAGE))?;
        let place = keeper.place().clone();
        let authority = ClusterCa::create("bench").trying("create a certificate authority")?;
        for side in [Side::First, Side::Second] {
            let identity = authority.issue(name(side), VALIDITY).trying("issue a certificate")?;
            identity.save(&place.path(name(side))).trying("save a certificate")?;
        }
        let [first, second] = net.addresses();
        let rendezvous = Rendezvous { place, first, second, namespaces: net.namespaces() };
        Ok(RendezvousKeeper { rendezvous, _place: keeper })
    }

    /// The rendezvous.
    pub fn rendezvous(&self) -> &Rendezvous {
        &self.rendezvous
    }
}

/// The name of a side, in certificates and files.
pub fn name(side: Side) -> &'static str {
    match side {
        Side::First => "first",
        Side::Second => "second",
    }
}

impl Rendezvous {
    /// Moves this thread, and threads that it starts later, to the network namespace of a side.
    pub fn enter(&self, side: Side) -> Result<(), Failure> {
        let Some([first, second]) = &self.namespaces else { return Ok(()) };
        let path = if side == Side::First { first } else { second };
        let file = File::open(path).trying(format_args!("open {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .trying(format_args!("enter the network namespace {}", path.display()))
    }

    /// The identity of a side.
    pub fn identity(&self, side: Side) -> Result<Identity, Failure> {
        Identity::load(&self.place.path(name(side))).trying("load a certificate")
    }

    /// The address to which a side binds its sockets.
    pub fn own_address(&self, side: Side) -> SocketAddr {
        SocketAddr::new(if side == Side::First { self.first } else { self.second }, 0)
    }

    /// Publishes the port on which the second side listens.
    pub fn send(&self, address: SocketAddr) -> Result<(), Failure> {
        let memory = self.place.map()?;
        let word = memory.futex(PORT);
        word.store(address.port().into(), Ordering::Release);
        // If the second side is a separate server, both processes may wait for it.
        wake(word, 2)
    }

    /// Waits until the second side listens. Returns its address.
    pub fn receive(&self) -> Result<SocketAddr, Failure> {
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
                return Err(Failure::new(format!("the other side did not listen within {} s", LIMIT.as_secs())));
            }
            sleep_while_at_most(word, 0, left)?;
        }
    }
}
