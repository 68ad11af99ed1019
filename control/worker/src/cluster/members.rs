//! The other nodes of a run, as the node that drives it has them.

use super::message::{Join, Managed};
use super::{ClusterError, ClusterSpec, Ring};
use crate::host::Host;
use crate::nodes::Place;
use crate::order::{Notice, Order};
use dflow_carrier::{Command, NodeId};
use dflow_protocol::RunId;
use dflow_transport::quic::{Connection, Identity, QuicNode, QuicPath, QuicSettings};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long nodes may take to answer that they take part.
const PATIENCE: Duration = Duration::from_secs(10);
/// The number of the first path between two nodes.
pub(super) const FIRST_PATH: u64 = 1;

/// The other nodes of a run. Dropping it ends the run there.
pub(crate) struct Members {
    members: Vec<Member>,
    ring: Arc<Ring>,
    /// Serves the connections.
    _node: QuicNode,
}

struct Member {
    name: String,
    connection: Connection,
    slots: u32,
    lost: bool,
}

/// Something that a member says, or that became of it.
pub(crate) enum News {
    Notice(Notice),
    /// The node is gone.
    Lost {
        node: String,
        reason: String,
    },
}

impl Members {
    /// Connects with every node and has it take part in the run.
    ///
    /// # Errors
    /// If one of them cannot be reached or refuses.
    pub(crate) async fn join(spec: &ClusterSpec, own_name: &str, run: RunId) -> Result<Self, ClusterError> {
        let identity = Identity::load(&spec.identity)?;
        let is_v6 = spec.nodes.iter().any(|(_, address)| address.is_ipv6());
        let any = if is_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let settings = QuicSettings { idle_timeout: spec.silence, ..QuicSettings::default() };
        let (node, _) = QuicNode::bind(SocketAddr::new(any, 0), &identity, settings)?;
        let ring = Arc::new(Ring::default());
        let mut nodes = vec![(own_name.to_owned(), String::new())];
        nodes.extend(spec.nodes.iter().map(|(name, address)| (name.clone(), address.to_string())));
        let dials: Vec<_> = spec.nodes.iter().map(|(name, address)| node.connect(*address, name)).collect();
        let mut members = Vec::new();
        for ((name, _), dial) in spec.nodes.iter().zip(dials) {
            let connection = dial.await?;
            connection.set_waker(ring.waker());
            let place = u32::try_from(members.len() + 1).unwrap_or(u32::MAX);
            let silence = u64::try_from(spec.silence.as_millis()).unwrap_or(u64::MAX);
            let join = Join { run: run.0, place, nodes: nodes.clone(), silence };
            let refused = |reason| ClusterError::Refused { node: name.clone(), reason };
            Managed::Join(join).send(&connection).map_err(refused)?;
            members.push(Member { name: name.clone(), connection, slots: 0, lost: false });
        }
        let mut joined = Self { members, ring, _node: node };
        joined.wait_for_answers().await?;
        Ok(joined)
    }

    async fn wait_for_answers(&mut self) -> Result<(), ClusterError> {
        let late = tokio::time::sleep(PATIENCE);
        tokio::pin!(late);
        let mut waiting = true;
        while waiting {
            waiting = false;
            for member in &mut self.members {
                let refused = |reason| ClusterError::Refused { node: member.name.clone(), reason };
                match Managed::receive(&member.connection).map_err(refused)? {
                    Some(Managed::Joined { slots }) => member.slots = slots,
                    Some(Managed::Refused { reason }) => return Err(refused(reason)),
                    Some(_) => return Err(refused("it answered with something else".into())),
                    None if member.slots > 0 => {}
                    None => match member.connection.closed() {
                        Some(reason) => return Err(refused(reason)),
                        None => waiting = true,
                    },
                }
                waiting |= member.slots == 0;
            }
            if waiting {
                tokio::select! {
                    () = self.ring.rung() => {}
                    () = &mut late => {
                        let silent = self.members.iter().find(|member| member.slots == 0);
                        let node = silent.map(|member| member.name.clone()).unwrap_or_default();
                        return Err(ClusterError::Refused { node, reason: format!("no answer within {PATIENCE:?}") });
                    }
                }
            }
        }
        Ok(())
    }

    /// Instances that may compute at the same time on the members together.
    pub(crate) fn slots(&self) -> u32 {
        self.members.iter().map(|member| member.slots).fold(0, u32::saturating_add)
    }

    /// Connects the carrier of this node with those of the members.
    ///
    /// # Errors
    /// If a connection has been lost already.
    pub(crate) fn connect_carrier(&self, host: &Host) -> Result<(), ClusterError> {
        let Some(carrier) = host.carrier() else { return Ok(()) };
        for (place, member) in (1..).zip(&self.members) {
            let path = QuicPath::new(&member.connection, FIRST_PATH, carrier.waker())
                .map_err(|error| ClusterError::Refused { node: member.name.clone(), reason: error.to_string() })?;
            carrier.tell(Command::Connect(NodeId(place), Box::new(path), FIRST_PATH));
        }
        Ok(())
    }

    /// Gives an order to a member. That it cannot be given is news.
    pub(crate) fn order(&self, place: Place, order: Order) {
        if let Some(member) = self.members.get(place as usize - 1)
            && let Err(reason) = Managed::Order(Box::new(order)).send(&member.connection)
        {
            // Closed, so that the member is found to be lost, for this reason.
            member.connection.close(&reason);
        }
    }

    /// Waits until there may be news.
    pub(crate) async fn changed(&self) {
        self.ring.rung().await;
    }

    /// What has come since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        for member in &mut self.members {
            let problem = loop {
                match Managed::receive(&member.connection) {
                    Ok(Some(Managed::Notice(notice))) => news.push(News::Notice(*notice)),
                    Ok(Some(_)) => break Some("it said what only the driver of a run says".to_owned()),
                    Ok(None) => break member.connection.closed(),
                    Err(reason) => break Some(reason),
                }
            };
            if let Some(reason) = problem
                && !std::mem::replace(&mut member.lost, true)
            {
                member.connection.close("the run is over");
                news.push(News::Lost { node: member.name.clone(), reason });
            }
        }
        news
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for member in &self.members {
            // A node that is not told notices it by itself: the connection closes.
            let _ = Managed::Over.send(&member.connection);
        }
    }
}
