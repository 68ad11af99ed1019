//! The other nodes of a run, as seen by the node that drives it.

use super::backlog::Backlog;
use super::dial::Dialed;
use super::message::{Join, LinkSummary, ManagementMessage, broken};
use super::probe::Problem;
use super::route::Route;
use super::{ClusterError, ClusterSpec, Wakeup, certificate};
use crate::check::{Checked, RunSpec};
use crate::node::Guest;
use crate::nodes::Place;
use crate::options::NodeOptions;
use crate::order::{Notice, Order};
use crate::placement;
use crate::program::Wanted;
use crate::surroundings::Surroundings;
use dflow_protocol::RunId;
use dflow_transport::quic::MAX_MANAGEMENT_MESSAGE;
use dflow_transport::{Cause, Connection, Node, NodeSettings};
use dflow_workflow::FunctionId;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time limit for nodes to answer that they take part.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time limit for nodes to report their links at the end of a run.
const SUMMING: Duration = Duration::from_secs(1);
/// How many bytes of programs a node is asked for before a run begins.
const MAX_PROGRAM_BYTES: usize = MAX_MANAGEMENT_MESSAGE / 4;
/// The number of the first path between two nodes.
pub(super) const FIRST_PATH: u64 = 1;

/// The other nodes of a run. Dropping it ends the run there.
pub(crate) struct Members {
    members: Vec<Member>,
    wakeup: Arc<Wakeup>,
    /// Serves the connections.
    _node: Node,
}

struct Member {
    name: String,
    /// The connection, until the carrier exists.
    connection: Option<Connection>,
    route: Option<Route>,
    /// Orders that wait for room on the connection.
    backlog: Backlog,
    /// Its slots, once it has joined.
    slots: u32,
    /// It has no room for the run yet.
    queued: bool,
    lost: bool,
    /// Its links to the nodes after it in the list, known once the run is over.
    routes: Option<Vec<LinkSummary>>,
}

/// What the other nodes are told of a run before they take part in it.
pub(crate) struct Invitation {
    surroundings: Surroundings,
    /// For each of them the programs that it has to have, each with a function that it is of.
    programs: Vec<Vec<(String, Wanted)>>,
}

impl Invitation {
    pub(crate) fn of(spec: &RunSpec, checked: &Checked) -> Self {
        let count = spec.cluster.as_ref().map_or(0, |cluster| cluster.nodes.len());
        let mut programs: Vec<BTreeMap<&Wanted, &str>> = vec![BTreeMap::new(); count];
        let places = placement::places(spec);
        for (id, (function, wanted)) in (0..).map(FunctionId).zip(spec.workflow.functions.iter().zip(&checked.wanted)) {
            for &place in places.get(&id).into_iter().flatten().filter(|place| **place > 0) {
                if let Some(programs) = programs.get_mut(place as usize - 1) {
                    programs.entry(wanted).or_insert(&function.name);
                }
            }
        }
        let of_node = |programs: BTreeMap<&Wanted, &str>| {
            let mut bytes = 0;
            // What does not fit into the message is looked for when it is needed.
            let fits = |(wanted, function): &(&Wanted, &str)| {
                bytes += wanted.size() + function.len();
                bytes <= MAX_PROGRAM_BYTES
            };
            programs.into_iter().take_while(fits).map(|(wanted, name)| (name.to_owned(), wanted.clone())).collect()
        };
        let programs = programs.into_iter().map(of_node).collect();
        Self { surroundings: checked.surroundings.clone(), programs }
    }
}

/// A notice from a member, or its loss.
pub(crate) enum News {
    Notice(Notice),
    /// The node is lost.
    Lost {
        node: String,
        reason: String,
    },
}

impl Members {
    /// Connects to every node and asks it to take part in the run.
    ///
    /// # Errors
    /// If one of them cannot be reached or refuses.
    pub(crate) async fn join(
        spec: &ClusterSpec,
        own_name: &str,
        run: RunId,
        invitation: Invitation,
        mut note: impl FnMut(String),
    ) -> Result<Self, ClusterError> {
        let identity = certificate::load(&spec.identity)?;
        let is_v6 = spec.nodes.iter().any(|(_, address)| address.is_ipv6());
        let any = if is_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let settings = NodeSettings { idle_timeout: spec.silence, ..NodeSettings::default() };
        let (node, _) = Node::bind(SocketAddr::new(any, 0), &identity, settings)?;
        let wakeup = Arc::new(Wakeup::default());
        let mut nodes = vec![(own_name.to_owned(), String::new())];
        nodes.extend(spec.nodes.iter().map(|(name, address)| (name.clone(), address.to_string())));
        let own = identity.validity();
        let dialed = spec.nodes.iter().map(|(node, address)| Dialed { node, address: *address, own });
        let dials: Vec<_> = dialed.map(|dialed| dialed.dial(&node, spec.wait)).collect();
        let mut members = Vec::new();
        for ((name, _), dial) in spec.nodes.iter().zip(dials) {
            let connection =
                dial.await.map_err(|problem| ClusterError::Unreachable(advise_waiting(problem, spec.wait)))?;
            connection.set_waker(wakeup.waker());
            let place = u32::try_from(members.len() + 1).unwrap_or(u32::MAX);
            let silence = u64::try_from(spec.silence.as_millis()).unwrap_or(u64::MAX);
            let join = Join {
                run: run.0,
                place,
                nodes: nodes.clone(),
                silence,
                surroundings: invitation.surroundings.clone(),
                programs: invitation.programs.get(members.len()).cloned().unwrap_or_default(),
            };
            let refused = |reason| ClusterError::Refused { node: name.clone(), reason };
            ManagementMessage::Join(join).send(&connection).map_err(refused)?;
            members.push(Member {
                name: name.clone(),
                connection: Some(connection),
                route: None,
                backlog: Backlog::default(),
                slots: 0,
                queued: false,
                lost: false,
                routes: None,
            });
        }
        let mut joined = Self { members, wakeup, _node: node };
        joined.wait_for_answers(&mut note).await?;
        Ok(joined)
    }

    async fn wait_for_answers(&mut self, note: &mut impl FnMut(String)) -> Result<(), ClusterError> {
        let late = Instant::now() + PATIENCE;
        let mut waiting = true;
        while waiting {
            waiting = false;
            // Messages of nodes that have answered already are read once the run has begun.
            for member in self.members.iter_mut().filter(|member| member.slots == 0) {
                let refused = |reason| ClusterError::Refused { node: member.name.clone(), reason };
                let Some(connection) = &member.connection else { continue };
                let violated = |what: &str| {
                    connection.violated(&broken(what));
                    refused(broken(what))
                };
                match ManagementMessage::receive(connection).map_err(|what| violated(&what))? {
                    Some(ManagementMessage::Joined { slots }) => member.slots = slots.max(1),
                    Some(ManagementMessage::Queued { reason }) => {
                        note(format!("waiting for node {}: {reason}", member.name));
                        member.queued = true;
                    }
                    Some(ManagementMessage::Refused { reason }) => return Err(refused(reason)),
                    Some(_) => return Err(violated("it sent an unexpected answer")),
                    None => match connection.closed() {
                        Some(reason) => return Err(refused(reason)),
                        None => waiting = true,
                    },
                }
                waiting |= member.slots == 0;
            }
            if waiting {
                // A node that has no room for the run yet has said so, and is waited for.
                let silent = self.members.iter().find(|member| member.slots == 0 && !member.queued);
                tokio::select! {
                    () = self.wakeup.woken() => {}
                    () = tokio::time::sleep_until(late.into()), if silent.is_some() => {
                        let node = silent.map(|member| member.name.clone()).unwrap_or_default();
                        return Err(ClusterError::Refused { node, reason: format!("no answer within {PATIENCE:?}") });
                    }
                }
            }
        }
        Ok(())
    }

    /// The slots of each member.
    pub(crate) fn slots(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.slots).collect()
    }

    /// Connects the carrier of this node with those of the members.
    ///
    /// # Errors
    /// If a connection has been lost already.
    pub(crate) fn connect_carrier(&mut self, host: &Guest, options: &NodeOptions) -> Result<(), ClusterError> {
        for (place, member) in (1..).zip(&mut self.members) {
            if let Some(connection) = member.connection.take() {
                let route = Route::begin(connection, place, true, options, FIRST_PATH, host);
                let refused = |(_, reason)| ClusterError::Refused { node: member.name.clone(), reason };
                member.route = Some(route.map_err(refused)?);
            }
        }
        Ok(())
    }

    /// Replaces lost paths, and offers RDMA when it is due.
    pub(crate) fn tend(&mut self, host: &mut Guest) {
        for (place, number, event) in host.take_lost_paths() {
            if let Some(route) = self.members.get_mut(place as usize - 1).and_then(|member| member.route.as_mut()) {
                route.lost(host, number, &event);
            }
        }
        for route in self.members.iter_mut().filter_map(|member| member.route.as_mut()) {
            route.tick(host);
        }
    }

    /// Why the path to a member is not by RDMA.
    pub(crate) fn why_not_rdma(&self, place: Place) -> Option<String> {
        self.members.get(place as usize - 1)?.route.as_ref()?.why_not_rdma()
    }

    /// Stops expecting anything from this member.
    pub(crate) fn leave(&mut self, place: Place) {
        if let Some(member) = self.members.get_mut(place as usize - 1) {
            member.lost = true;
        }
    }

    /// Asks the members at the end of the run for their links to each other. A member that does not answer in time is
    /// left out.
    pub(crate) async fn sum_up(&mut self) {
        for member in self.members.iter_mut().filter(|member| !member.lost) {
            if let Some(route) = &member.route {
                // A member that cannot be asked counts as one that does not answer.
                member.backlog.send(&ManagementMessage::Sum, &route.connection);
            }
        }
        let until = Instant::now() + SUMMING;
        while self.members.iter_mut().any(|member| member.is_summing(until)) {
            tokio::select! {
                () = self.wakeup.woken() => {}
                () = tokio::time::sleep_until(until.into()) => return,
            }
        }
    }

    /// The links between the members, each with the place of the member that reports it.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (Place, &LinkSummary)> {
        let said = (1..).zip(&self.members);
        said.flat_map(|(place, member)| member.routes.iter().flatten().map(move |route| (place, route)))
    }

    /// Gives an order to a member. A failure to do so shows up as news.
    pub(crate) fn order(&mut self, place: Place, order: Order) {
        if let Some(Member { route: Some(route), backlog, .. }) = self.members.get_mut(place as usize - 1) {
            backlog.send(&ManagementMessage::Order(Box::new(order)), &route.connection);
        }
    }

    /// Waits until there may be news.
    pub(crate) async fn changed(&self) {
        self.wakeup.woken().await;
    }

    /// The news since the last call.
    pub(crate) fn take_news(&mut self, host: &Guest) -> Vec<News> {
        let mut news = Vec::new();
        for member in &mut self.members {
            let Some(route) = &mut member.route else { continue };
            member.backlog.flush(&route.connection);
            let problem = loop {
                let what = match ManagementMessage::receive(&route.connection) {
                    Ok(Some(ManagementMessage::Notice(mut notice))) => {
                        if let Notice::Failed { reason } = &mut *notice {
                            *reason = format!("node {}: {reason}", member.name);
                        }
                        news.push(News::Notice(*notice));
                        continue;
                    }
                    Ok(Some(ManagementMessage::Path(signal))) => {
                        route.heard(host, signal);
                        continue;
                    }
                    Ok(Some(_)) => "it sent a message that only the driver of a run may send".to_owned(),
                    Ok(None) => break route.connection.closed(),
                    Err(reason) => reason,
                };
                route.connection.violated(&broken(&what));
                break route.connection.closed();
            };
            if let Some(reason) = problem
                && !std::mem::replace(&mut member.lost, true)
            {
                route.connection.close("the run is over");
                news.push(News::Lost { node: member.name.clone(), reason });
            }
        }
        news
    }
}

/// A worker that does not answer may just be starting.
fn advise_waiting(mut problem: Problem, wait: Duration) -> Problem {
    if problem.cause == Cause::Silence.word() {
        problem.help += &if wait.is_zero() {
            "; to wait for a worker that is still starting: --wait 30s".to_owned()
        } else {
            format!("; it was waited for {wait:?} (--wait)")
        };
    }
    problem
}

impl Member {
    /// Whether the member's report is still outstanding. A member that sends other messages until then is ignored from
    /// then on.
    fn is_summing(&mut self, until: Instant) -> bool {
        let Some(route) = self.route.as_ref().filter(|_| !self.lost && self.routes.is_none()) else { return false };
        self.backlog.flush(&route.connection);
        loop {
            match ManagementMessage::receive(&route.connection) {
                Ok(Some(ManagementMessage::Summed(routes))) => self.routes = Some(routes),
                // The run is over; all other messages are ignored.
                Ok(Some(_)) if Instant::now() < until => continue,
                Ok(None) if route.connection.closed().is_none() => return true,
                Ok(_) | Err(_) => {}
            }
            return false;
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for route in self.members.iter().filter_map(|member| member.route.as_ref()) {
            // A node that cannot be told notices it when the connection closes.
            let _ = ManagementMessage::Over.send(&route.connection);
        }
    }
}
