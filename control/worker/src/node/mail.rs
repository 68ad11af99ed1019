//! What other processes send to the runs on a node.

use super::NodeHandle;
use crate::peer::message::{ManagementMessage, RunMessage};
use crate::peer::name::PeerName;
use dflow_carrier::NodeId;
use dflow_protocol::RunId;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Something that reaches a run from another process.
#[derive(Debug)]
pub(crate) enum Letter {
    Message(NodeId, RunMessage),
    /// There is a new connection. What was sent on the one before may not have arrived.
    Connected(NodeId),
    /// The connection is lost.
    Lost(NodeId, String),
    /// The process has violated the protocol.
    Expelled(NodeId, String),
}

impl Letter {
    /// The process that it is from.
    pub(crate) fn from(&self) -> NodeId {
        let (Self::Message(id, _) | Self::Connected(id) | Self::Lost(id, _) | Self::Expelled(id, _)) = self;
        *id
    }
}

/// What other processes send to a run on this node. Dropping it ends the run's need of their connections.
pub(crate) struct Mail {
    node: NodeHandle,
    run: RunId,
    news: Rc<Notify>,
}

/// A mailbox.
pub(super) struct MailState {
    pub(super) letters: VecDeque<Letter>,
    pub(super) news: Rc<Notify>,
}

impl NodeHandle {
    /// Opens the mailbox of a run; `None` if it has one already.
    pub(crate) fn open_mail(&self, run: RunId) -> Option<Mail> {
        let mut node = self.node();
        if node.peers.mail.contains_key(&run) {
            return None;
        }
        let news = Rc::new(Notify::new());
        node.peers.mail.insert(run, MailState { letters: VecDeque::new(), news: Rc::clone(&news) });
        Some(Mail { node: self.clone(), run, news })
    }
}

impl Mail {
    /// Waits until there may be letters.
    pub(crate) async fn changed(&self) {
        self.news.notified().await;
    }

    /// The next letter.
    pub(crate) fn next(&self) -> Option<Letter> {
        self.node.node().peers.mail.get_mut(&self.run)?.letters.pop_front()
    }

    /// Needs the process of this number, with which there was a connection. It is lost after this silence. False if it is lost
    /// already: then no letter says so.
    #[must_use]
    pub(crate) fn need(&self, id: NodeId, silence: Duration) -> bool {
        let mut node = self.node.node();
        node.peers.is_connected(id) && node.peers.need(self.run, id, silence)
    }

    /// Needs the process that listens there. `dials`: this end opens the connection, if there is none.
    ///
    /// # Errors
    /// If the process has violated the protocol.
    pub(crate) fn need_at(
        &self,
        name: &PeerName,
        address: SocketAddr,
        dials: bool,
        silence: Duration,
    ) -> Result<NodeId, String> {
        let mut node = self.node.node();
        if let Some(what) = node.peers.violation(name) {
            return Err(what.to_owned());
        }
        let id = node.peers.id_of(name);
        node.peers.need(self.run, id, silence);
        if dials && let Some(peer) = node.peers.peers.get_mut(&id) {
            peer.address = Some(address);
            node.peers.dial(id, Duration::ZERO);
        }
        Ok(id)
    }

    /// Sends a message about the run to a process.
    pub(crate) fn send(&self, id: NodeId, message: RunMessage) {
        self.node.node().send(id, &ManagementMessage::Run { run: self.run.0, message });
    }

    /// Whether a message to this process would go at once.
    pub(crate) fn has_room(&self, id: NodeId) -> bool {
        let node = self.node.node();
        let peer = node.peers.peers.get(&id);
        peer.and_then(|peer| Some(peer.backlog.has_room(&peer.route.as_ref()?.connection))).unwrap_or(false)
    }

    /// A process has violated the protocol.
    pub(crate) fn violated(&self, id: NodeId, what: &str) {
        self.node.node().violated(id, what);
    }

    /// Whether there is a connection that has lasted for a while, and otherwise why not, if that is known.
    pub(crate) fn is_connected(&self, id: NodeId) -> Result<(), Option<String>> {
        let node = self.node.node();
        let Some(peer) = node.peers.peers.get(&id) else { return Err(None) };
        match &peer.route {
            Some(route) if route.has_settled() => Ok(()),
            _ => Err(peer.backoff.reason()),
        }
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        let mut node = self.node.node();
        node.peers.mail.remove(&self.run);
        node.release_peers(self.run);
    }
}
