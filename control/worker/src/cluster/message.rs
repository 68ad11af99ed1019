//! What nodes of a run say to each other on their management channels.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use super::probe::Probing;
use crate::order::{Notice, Order};
use dflow_transport::Say;
use dflow_transport::quic::Connection;
use rkyv::{Archive, Deserialize, Serialize, rancor};

/// A message between two nodes of a run.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(super) enum Managed {
    /// From the driver, first: take part in this run.
    Join(Join),
    /// From another node that takes part, first: this is the connection between the two.
    Meet {
        run: u128,
        place: u32,
        incarnation: u64,
    },
    /// The answer to a join: it is done, and these are the node's slots.
    Joined {
        slots: u32,
    },
    /// The answer to a join: it cannot be done.
    Refused {
        reason: String,
    },
    Order(Box<Order>),
    /// About the path between the two.
    Path(Say),
    Notice(Box<Notice>),
    /// From the driver, last: nothing of the run is needed any more.
    Over,
    /// Not about a run, but about what is between the two nodes.
    Probe(Probing),
}

/// A run to take part in.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(super) struct Join {
    pub(super) run: u128,
    /// The place of the node that is asked.
    pub(super) place: u32,
    /// The names and addresses of all nodes, in the order of their places. The driver's address is empty: nobody dials it.
    pub(super) nodes: Vec<(String, String)>,
    /// After so many milliseconds without a sign of life a node is lost.
    pub(super) silence: u64,
}

impl Managed {
    /// Sends it.
    ///
    /// # Errors
    /// Why it cannot be sent.
    pub(super) fn send(&self, connection: &Connection) -> Result<(), String> {
        let bytes = rkyv::to_bytes::<rancor::Error>(self).map_err(|error| error.to_string())?;
        connection.send(bytes.into_vec()).map_err(|error| error.to_string())
    }

    /// The next message that has come, every byte of it checked.
    ///
    /// # Errors
    /// If what has come is no message of this version.
    pub(super) fn receive(connection: &Connection) -> Result<Option<Self>, String> {
        let Some(bytes) = connection.try_recv() else { return Ok(None) };
        rkyv::from_bytes::<Self, rancor::Error>(&bytes)
            .map(Some)
            .map_err(|error| format!("{} bytes that are no message of this version: {error}", bytes.len()))
    }
}
