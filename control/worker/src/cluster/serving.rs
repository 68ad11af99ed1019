//! What all sessions of a worker share.

use crate::metrics::{self, Ledger};
use crate::node::NodeHandle;
use crate::options::NodeOptions;
use dflow_transport::Node;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::sync::watch;

/// What all sessions of a node share.
pub(super) struct Serving {
    pub(super) node: Rc<Node>,
    /// Its store, launcher, slots and connections.
    pub(super) resources: NodeHandle,
    /// The longest silence that it accepts.
    pub(super) silence: Duration,
    pub(super) certificate_until: SystemTime,
    pub(super) options: NodeOptions,
    /// Connections of nodes that look at this one.
    pub(super) probes: Cell<usize>,
    /// Runs that it takes part in.
    pub(super) sessions: Cell<usize>,
    /// One of them is over.
    pub(super) ended: Notify,
    /// Why the node is to end, once it is.
    pub(super) stopping: watch::Receiver<Option<String>>,
    /// What has been counted.
    pub(super) ledger: RefCell<Ledger>,
}

impl Serving {
    /// The text of a scrape.
    pub(super) fn metrics(&self) -> String {
        let mut ledger = self.ledger.borrow_mut();
        self.resources.take_gone_peers().into_iter().for_each(|(name, counts)| ledger.peer_gone(&name, &counts));
        ledger.render(&metrics::Node {
            name: self.options.node.as_str(),
            slots: self.options.slots.max(1),
            memory: self.resources.memory(),
            counters: self.node.counters(),
            certificate_until: self.certificate_until,
            peers: self.resources.peer_samples(),
        })
    }
}
