//! What a stream waits for, and which thread watches it.

use crate::runs::RunNumber;
use dflow_protocol::PortId;
use dflow_shm::{PeerWord, Wait};

/// A port: those of different runs may have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Port {
    pub(super) run: RunNumber,
    pub(super) id: PortId,
}

/// What [`dflow_shm::Watchers`] watch for the carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    Port(Port),
    /// The bell of a run.
    Bell(RunNumber),
}

impl Watched {
    /// Stands for the bell where a port's number would be; there are not as many ports.
    const BELL: u32 = u32::MAX;

    /// The name by which the watchers know it.
    pub(super) fn name(self) -> u64 {
        let (run, port) = match self {
            Self::Port(port) => (port.run, port.id.0),
            Self::Bell(run) => (run, Self::BELL),
        };
        u64::from(run.0) << 32 | u64::from(port)
    }

    pub(super) fn named(name: u64) -> Self {
        let (run, port) = (RunNumber((name >> 32) as u32), name as u32);
        if port == Self::BELL { Self::Bell(run) } else { Self::Port(Port { run, id: PortId(port) }) }
    }
}

/// What a port waits for.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) port: Port,
    /// The turn of the last activity.
    pub(super) active: u64,
    /// Watchers watch its word.
    is_watched: bool,
}

impl Watch {
    pub(super) fn new(port: Port) -> Self {
        Self { port, active: 0, is_watched: false }
    }

    /// Records activity.
    pub(super) fn note(&mut self, did: bool, turn: u64) -> bool {
        if did {
            self.active = turn;
        }
        did
    }

    /// Hands the port over to the watchers, unless something has happened to it already. A port that waits for a message of
    /// the store has no word to watch.
    pub(super) fn leave(&mut self, port: &mut dyn Wait, list: &mut Vec<(u64, PeerWord, u64)>) -> bool {
        // Announced before the check: a writer that has not seen the ticket has written before it.
        port.announce();
        if port.ready() {
            port.retract();
            return false;
        }
        if let Some((word, value)) = port.peer_word() {
            self.is_watched = true;
            list.push((Watched::Port(self.port).name(), word, value));
        }
        true
    }

    /// The carrier polls the port again.
    pub(super) fn resume(&mut self, port: Option<&mut dyn Wait>, unwatched: &mut Vec<Port>) {
        if std::mem::take(&mut self.is_watched) {
            unwatched.push(self.port);
        }
        if let Some(port) = port {
            port.retract();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_protocol::limits::MAX_PORTS;

    #[test]
    fn each_port_and_bell_has_a_name_of_its_own() {
        for run in [0, 1, u32::MAX].map(RunNumber) {
            for watched in [0, 1, MAX_PORTS - 1].map(|id| Watched::Port(Port { run, id: PortId(id) })) {
                assert_eq!(Watched::named(watched.name()), watched);
            }
            assert_eq!(Watched::named(Watched::Bell(run).name()), Watched::Bell(run));
        }
    }
}
