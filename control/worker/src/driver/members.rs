//! The other nodes of a run, as seen by the node that drives it.

use super::placement::Demand;
use crate::node::surroundings::Surroundings;
use crate::node::{Guest, Letter, Mail, NodeHandle, NodeId};
use crate::notice::Remark;
use crate::part::fact_link::{FactLinks, Facts};
use crate::part::plan::PlanMessage;
use crate::peer::certificate;
use crate::peer::dial::Dialed;
use crate::peer::error::ClusterError;
use crate::peer::hello::hello;
use crate::peer::message::{Join, LinkSummary, Participant, RunMessage};
use crate::peer::name::PeerName;
use crate::peer::problem::Problem;
use crate::peer::spec::{ClusterSpec, MAX_SILENCE};
use crate::report::CoordinationReport;
use crate::time::nanos;
use dflow_scheduler::planner::Placement;
use dflow_scheduler::{Fact, Place};
use dflow_transport::{Cause, Node, NodeSettings};
use dflow_workflow::FunctionId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The time limit for nodes to answer that they take part.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time limit for nodes to report their links at the end of a run.
const SUMMING: Duration = Duration::from_secs(1);

/// The other nodes of a run. Dropping it ends the run there.
pub(crate) struct Members {
    members: Vec<Member>,
    mail: Mail,
    links: FactLinks,
    coordination: CoordinationReport,
}

/// A node that a run needs.
enum Contact<D> {
    /// There is a connection already.
    Known((NodeId, u64)),
    Dialed(D),
}

struct Member {
    name: String,
    /// Its process.
    id: NodeId,
    /// Its slots, once it has joined.
    slots: u32,
    /// The functions that it was asked for whose programs it does not have.
    lacks: Vec<u32>,
    /// It has no room for the run yet.
    queued: bool,
    lost: bool,
    /// Its links to the nodes after it in the list, known once the run is over.
    routes: Option<Vec<LinkSummary>>,
}

/// What the other nodes are told of a run before they take part in it.
pub(crate) struct Invitation {
    pub(crate) surroundings: Surroundings,
    pub(crate) plan: PlanMessage,
    pub(crate) demand: Demand,
}

/// What a member has said, or its loss.
pub(crate) enum News {
    Facts(Place, Vec<Fact>),
    Remark(Place, Remark),
    /// The node is lost.
    Lost {
        node: String,
        place: Place,
        reason: String,
    },
}

impl Members {
    /// Connects to every node and asks it to take part in the run of this guest. `note` is told what the user should know
    /// meanwhile.
    ///
    /// # Errors
    /// If one of them cannot be reached or refuses.
    pub(crate) async fn join(
        spec: &ClusterSpec,
        own_name: &str,
        (resources, host): (&NodeHandle, &mut Guest),
        invitation: Invitation,
        mut note: impl FnMut(String),
    ) -> Result<Self, ClusterError> {
        invitation.plan.check_size()?;
        let identity = certificate::load(&spec.identity)?;
        let is_v6 = spec.nodes.iter().any(|(_, address)| address.is_ipv6());
        let any = if is_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        // One run after the other, so that two that begin at once share a connection.
        let turn = resources.turn_to_dial();
        let turn = turn.lock().await;
        let node = match resources.endpoint() {
            Some(node) => node,
            None => {
                let settings = NodeSettings { idle_timeout: spec.silence, ..NodeSettings::default() };
                let (node, _) = Node::bind(SocketAddr::new(any, 0), &identity, settings)?;
                let node = Rc::new(node);
                resources.set_endpoint(Rc::clone(&node), MAX_SILENCE, None);
                node
            }
        };
        let refused = |name: &str, reason: String| ClusterError::Refused { node: name.to_owned(), reason };
        let run = host.run();
        let mail = resources.open_mail(run).ok_or_else(|| refused(own_name, "the run is here already".to_owned()))?;
        let own = identity.validity();
        // All are dialed at once.
        let mut contacts = Vec::new();
        for (name, address) in &spec.nodes {
            contacts.push(match resources.connected_to(name, *address) {
                Some(known) => Contact::Known(known),
                None => Contact::Dialed(Dialed { node: name, address: *address, own }.dial(&node, spec.wait)),
            });
        }
        let mut joined = Self {
            members: Vec::new(),
            mail,
            links: FactLinks::default(),
            coordination: CoordinationReport::default(),
        };
        let mut nodes = vec![Participant { name: own_name.to_owned(), address: String::new(), life: resources.life() }];
        for ((place, (name, address)), contact) in (1..).zip(&spec.nodes).zip(contacts) {
            let (id, life) = match contact {
                Contact::Known(known) => known,
                Contact::Dialed(dial) => {
                    let unreachable = |problem| ClusterError::Unreachable(advise_waiting(problem, spec.wait));
                    let connection = dial.await.map_err(unreachable)?;
                    let refused = |reason| refused(name, reason);
                    let path = resources.next_path(name);
                    let life = hello(&connection, resources.life(), path).await.map_err(refused)?;
                    let peer = PeerName { name: name.clone(), life };
                    let id = resources.connected(&peer, connection, path, true).map_err(refused)?;
                    resources.listens_at(id, *address);
                    (id, life)
                }
            };
            if !joined.mail.need(id, spec.silence) {
                return Err(refused(name, "its connection was lost before the run began".to_owned()));
            }
            host.set_place(place, id);
            nodes.push(Participant { name: name.clone(), address: address.to_string(), life });
            let (name, lacks, routes) = (name.clone(), Vec::new(), None);
            let member = Member { name, id, slots: 0, lacks, queued: false, lost: false, routes };
            joined.members.push(member);
        }
        drop(turn);
        host.carry().map_err(|reason| refused(own_name, reason))?;
        for (place, member) in (1..).zip(&joined.members) {
            let join = Join {
                place,
                nodes: nodes.clone(),
                silence: u64::try_from(spec.silence.as_millis()).unwrap_or(u64::MAX),
                surroundings: invitation.surroundings.clone(),
                plan: PlanMessage {
                    needed: invitation.demand.needed_at(place),
                    optional: invitation.demand.movable.iter().map(|function| function.0).collect(),
                    ..invitation.plan.clone()
                },
            };
            joined.mail.send(member.id, RunMessage::Join(Box::new(join)));
        }
        joined.wait_for_answers(&mut note).await?;
        Ok(joined)
    }

    async fn wait_for_answers(&mut self, note: &mut impl FnMut(String)) -> Result<(), ClusterError> {
        let late = Instant::now() + PATIENCE;
        loop {
            while let Some(letter) = self.mail.next() {
                let id = letter.from();
                let Some(member) = self.members.iter_mut().find(|member| member.id == id) else { continue };
                let refused = |reason| ClusterError::Refused { node: member.name.clone(), reason };
                match letter {
                    Letter::Message(_, RunMessage::Joined { slots, lacks }) => {
                        (member.slots, member.lacks) = (slots.max(1), lacks);
                    }
                    Letter::Message(_, RunMessage::Queued { reason }) => {
                        note(format!("waiting for node {}: {reason}", member.name));
                        member.queued = true;
                    }
                    Letter::Message(_, RunMessage::Refused { reason })
                    | Letter::Lost(_, reason)
                    | Letter::Expelled(_, reason) => return Err(refused(reason)),
                    Letter::Connected(_) => {}
                    Letter::Message(..) => {
                        let what = "it sent an unexpected answer";
                        self.mail.violated(id, what);
                        return Err(refused(what.to_owned()));
                    }
                }
            }
            if self.members.iter().all(|member| member.slots > 0) {
                return Ok(());
            }
            // A node that has no room for the run yet has said so, and is waited for.
            let silent = self.members.iter().find(|member| member.slots == 0 && !member.queued);
            tokio::select! {
                () = self.mail.changed() => {}
                () = tokio::time::sleep_until(late.into()), if silent.is_some() => {
                    let node = silent.map(|member| member.name.clone()).unwrap_or_default();
                    return Err(ClusterError::Refused { node, reason: format!("no answer within {PATIENCE:?}") });
                }
            }
        }
    }

    /// The slots of each member.
    pub(crate) fn slots(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.slots).collect()
    }

    /// Whether all of them have the program of a function, as far as they were asked for it.
    pub(crate) fn all_have(&self, function: FunctionId) -> bool {
        self.members.iter().all(|member| !member.lacks.contains(&function.0))
    }

    /// Stops expecting anything from this member.
    pub(crate) fn leave(&mut self, place: Place) {
        if let Some(member) = self.members.get_mut(place as usize - 1) {
            member.lost = true;
            self.links.forget(place);
        }
    }

    /// Asks the members at the end of the run for their links to each other, and this node for its own. A member that does
    /// not answer in time is left out.
    pub(crate) async fn sum_up(&mut self, host: &mut Guest) {
        host.sum();
        let mut is_summed = false;
        for member in self.members.iter().filter(|member| !member.lost) {
            self.mail.send(member.id, RunMessage::Sum);
        }
        let until = Instant::now() + SUMMING;
        loop {
            // The run is over; all other letters are ignored.
            while let Some(letter) = self.mail.next() {
                match letter {
                    Letter::Message(id, RunMessage::Summed(routes)) => {
                        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
                            member.routes = Some(routes);
                        }
                    }
                    Letter::Message(..) | Letter::Connected(_) => {}
                    Letter::Lost(id, _) | Letter::Expelled(id, _) => {
                        self.members.iter_mut().filter(|member| member.id == id).for_each(|member| member.lost = true);
                    }
                }
            }
            is_summed |= host.has_summed();
            if is_summed && self.members.iter().all(|member| member.lost || member.routes.is_some()) {
                return;
            }
            tokio::select! {
                () = self.mail.changed() => {}
                () = host.changed() => {}
                () = tokio::time::sleep_until(until.into()) => return,
            }
        }
    }

    /// The links between the members, each with the place of the member that reports it.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (Place, &LinkSummary)> {
        let said = (1..).zip(&self.members);
        said.flat_map(|(place, member)| member.routes.iter().flatten().map(move |route| (place, route)))
    }

    /// Every member has joined: they begin. `slots`: those of all nodes, by place; `elapsed`: how long the run has lasted here.
    pub(crate) fn begin(&mut self, slots: &[u32], elapsed: Duration, placement: &Placement) {
        let placement: Vec<_> = placement.iter().map(|(function, places)| (function.0, places.to_vec())).collect();
        for member in &self.members {
            let (slots, elapsed, placement) = (slots.to_vec(), nanos(elapsed), placement.clone());
            self.mail.send(member.id, RunMessage::Begin { slots, elapsed, placement });
        }
    }

    /// What the members have told this node.
    pub(crate) fn coordination(&self) -> CoordinationReport {
        self.coordination
    }

    /// Whether a member has the program of a function, as far as it was asked for it.
    pub(crate) fn has(&self, place: Place, function: FunctionId) -> bool {
        let member = (place as usize).checked_sub(1).and_then(|index| self.members.get(index));
        member.is_none_or(|member| !member.lost && !member.lacks.contains(&function.0))
    }

    /// The places of all members.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + use<> {
        1..self.members.len() as Place + 1
    }

    /// Tells a member something. It is sent with the next [`Members::flush`].
    pub(crate) fn tell(&mut self, place: Place, fact: Fact) {
        if let Some(member) = self.members.get(place as usize - 1).filter(|member| !member.lost)
            && !self.links.tell(place, fact)
        {
            self.mail.violated(member.id, "it does not acknowledge what it is told");
        }
    }

    /// Sends what is to be told.
    pub(crate) fn flush(&mut self) {
        let (members, mail) = (&self.members, &self.mail);
        self.links.flush(|place, facts| send_facts(members, mail, place, facts));
    }

    /// To be called now and then.
    pub(crate) fn tick(&mut self) {
        let (members, mail) = (&self.members, &self.mail);
        self.links.acknowledge(|place, facts| send_facts(members, mail, place, facts));
    }

    /// Waits until there may be news.
    pub(crate) async fn changed(&self) {
        self.mail.changed().await;
    }

    /// The news since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        while let Some(letter) = self.mail.next() {
            let id = letter.from();
            let Some((place, member)) = (1..).zip(&mut self.members).find(|(_, member)| member.id == id) else {
                continue;
            };
            if member.lost {
                // It may have been cut off for a while, and not know.
                self.mail.send(id, RunMessage::Over);
                continue;
            }
            match letter {
                Letter::Message(_, RunMessage::Remark(remark)) => news.push(News::Remark(place, remark)),
                Letter::Message(_, RunMessage::Facts(facts)) => {
                    self.coordination.messages += 1;
                    self.coordination.bytes += facts.size;
                    match self.links.receive(place, facts) {
                        Ok(facts) => {
                            self.coordination.facts += facts.len() as u64;
                            news.push(News::Facts(place, facts));
                        }
                        Err(what) => self.mail.violated(id, what),
                    }
                }
                Letter::Message(_, RunMessage::Unreachable { place: other, reason }) => {
                    // One of two that cannot reach each other has to go. That the driver cannot be reached, it hears from nobody
                    // but a node that is on its way out.
                    let is_about_itself = other == 0 || other == place;
                    let (lost, reason) = match is_about_itself {
                        true => (place, reason),
                        false => (other, format!("node {} cannot go on with it: {reason}", member.name)),
                    };
                    news.extend(self.evict(lost, reason));
                }
                Letter::Message(..) => {
                    self.mail.violated(id, "it sent a message that only the driver of a run may send");
                }
                Letter::Connected(_) => self.links.reconnected(place),
                Letter::Lost(_, reason) | Letter::Expelled(_, reason) => news.extend(self.evict(place, reason)),
            }
        }
        news
    }

    /// The run goes on without this member.
    fn evict(&mut self, place: Place, reason: String) -> Option<News> {
        let member = self.members.get_mut((place as usize).checked_sub(1)?)?;
        if std::mem::replace(&mut member.lost, true) {
            return None;
        }
        self.links.forget(place);
        self.mail.send(member.id, RunMessage::Over);
        Some(News::Lost { node: member.name.clone(), place, reason })
    }
}

fn send_facts(members: &[Member], mail: &Mail, place: Place, facts: Facts) {
    if let Some(member) = members.get(place as usize - 1) {
        mail.send(member.id, RunMessage::Facts(facts));
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

impl Drop for Members {
    fn drop(&mut self) {
        // A node that cannot be told notices it when the connection closes.
        self.members.iter().for_each(|member| self.mail.send(member.id, RunMessage::Over));
    }
}
