//! Opens connections to other processes, until they answer or no run needs them any more.

use super::NodeHandle;
use crate::peer::hello::hello;
use crate::peer::name::PeerName;
use dflow_carrier::NodeId;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::spawn_local;

/// A dial that the event loop has to begin.
pub(super) struct Dial {
    pub(super) id: NodeId,
    pub(super) name: PeerName,
    pub(super) address: SocketAddr,
    pub(super) number: u64,
    pub(super) pause: Duration,
    pub(super) silence: Duration,
}

/// Why there is no connection after a dial.
struct DialFailed {
    reason: String,
    is_violation: bool,
}

impl NodeHandle {
    /// Begins the dials that are due.
    pub(super) fn begin_dials(&self) {
        let dials = std::mem::take(&mut self.node().peers.dials);
        for dial in dials {
            spawn_local(self.clone().dial(dial));
        }
    }

    async fn dial(self, dial: Dial) {
        tokio::time::sleep(dial.pause).await;
        let result = self.try_dial(&dial).await;
        let mut node = self.node();
        let peers = &mut node.peers;
        let Some(peer) = peers.peers.get_mut(&dial.id) else { return };
        peer.is_dialed = false;
        let Err(failed) = result else { return };
        tracing::warn!(node = dial.name.name, reason = failed.reason, "a node cannot be reached");
        if failed.is_violation {
            return peers.expel(dial.id, &failed.reason);
        }
        if peer.users.is_empty() {
            return peers.forget(dial.id);
        }
        let pause = peer.backoff.disconnected(false, failed.reason);
        peers.dial(dial.id, pause);
    }

    async fn try_dial(&self, dial: &Dial) -> Result<(), DialFailed> {
        let Some(endpoint) = self.node().peers.endpoint.clone() else { return Ok(()) };
        let connection = endpoint
            .connect_within(dial.address, &dial.name.name, dial.silence)
            .await
            .map_err(|error| DialFailed { reason: error.to_string(), is_violation: false })?;
        let life = hello(&connection, self.life(), dial.number)
            .await
            .map_err(|reason| DialFailed { reason, is_violation: connection.violation().is_some() })?;
        if life != dial.name.life {
            let reason = "the process there is not the one that takes part in the run: it was restarted".to_owned();
            return Err(DialFailed { reason, is_violation: false });
        }
        // A violation on it has been dealt with then.
        let connected = self.node().connected(&dial.name, connection, dial.number, true);
        connected.map(|_| ()).map_err(|reason| DialFailed { reason, is_violation: false })
    }
}
