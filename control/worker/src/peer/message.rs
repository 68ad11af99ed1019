//! The messages of nodes on their management channels.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use super::probing::Probing;
use crate::node::surroundings::Surroundings;
use crate::notice::Remark;
use crate::part::fact_link::Facts;
use crate::part::plan::PlanMessage;
use dflow_transport::Connection;
use dflow_transport::{PathError, PathKind, RunTraffic, Signal};
use rkyv::{Archive, Deserialize, Serialize, rancor};

/// A message between two processes of a cluster.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) enum ManagementMessage {
    /// The first message of each end. `life`: a random number of the process. `number`: that of the first path, by the end
    /// that has dialed.
    Hello { life: u64, number: u64 },
    /// About the path between the two.
    Path(Signal),
    /// About a run.
    Run { run: u128, message: RunMessage },
    /// Not about a run: a probe of what is between the two nodes.
    Probe(Probing),
}

/// A message about a run, between two of its nodes.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) enum RunMessage {
    /// From the driver, first: take part in this run.
    Join(Box<Join>),
    /// The answer to a join: the node takes part, with this many slots.
    Joined {
        slots: u32,
        /// The optional functions whose programs it does not have.
        lacks: Vec<u32>,
    },
    /// Before the answer to a join: the node has no room for the run yet.
    Queued { reason: String },
    /// The answer to a join: the node cannot take part.
    Refused { reason: String },
    /// From the driver, when all nodes have joined: the run begins. `slots`: those of all nodes, by place; `elapsed`: the
    /// nanoseconds since the driver has begun it.
    Begin {
        slots: Vec<u32>,
        elapsed: u64,
        /// The places of the functions that have any, by their index.
        placement: Vec<(u32, Vec<u32>)>,
    },
    /// Between any two nodes of the run.
    Facts(Facts),
    /// To the driver: what its user may want to know.
    Remark(Remark),
    /// To the driver: this node cannot go on with the run together with the node at this place, which may be itself. The run
    /// goes on without that one.
    Unreachable { place: u32, reason: String },
    /// From the driver, at the end: report the links to the later nodes.
    Sum,
    /// The answer to it.
    Summed(Vec<LinkSummary>),
    /// From the driver, last: the run is over.
    Over,
}

/// The link between the node that reports it and another one, for one run.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct LinkSummary {
    /// The place of the other node.
    pub(crate) place: u32,
    /// What of the run has passed.
    pub(crate) traffic: RunTraffic,
    /// The kind of the last path.
    pub(crate) path: Option<PathKind>,
    /// The paths during the run.
    pub(crate) paths: u64,
    /// Violations of the protocol by the other node during the run.
    pub(crate) violations: u64,
    pub(crate) why_not_rdma: Option<String>,
}

/// A node of a run, as the others are told of it.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Participant {
    pub(crate) name: String,
    /// Where it listens; empty for the driver, which is never dialed.
    pub(crate) address: String,
    /// The number of its process.
    pub(crate) life: u64,
}

/// A run to take part in.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Join {
    /// The place of the node that is asked to join.
    pub(crate) place: u32,
    /// All nodes, in the order of their places.
    pub(crate) nodes: Vec<Participant>,
    /// The silence limit in milliseconds.
    pub(crate) silence: u64,
    /// What surrounds the functions of the run.
    pub(crate) surroundings: Surroundings,
    pub(crate) plan: PlanMessage,
}

impl ManagementMessage {
    /// Sends it.
    ///
    /// # Errors
    /// Why it cannot be sent.
    pub(crate) fn send(&self, connection: &Connection) -> Result<(), String> {
        connection.send(self.encode()?).map_err(|error| error.to_string())
    }

    /// The next message, fully validated.
    ///
    /// # Errors
    /// If the received bytes are not a message of this version.
    pub(crate) fn receive(connection: &Connection) -> Result<Option<Self>, String> {
        let Some(bytes) = connection.try_recv() else { return Ok(None) };
        let mut message = Self::decode(&bytes)?;
        if let Self::Run { message: RunMessage::Facts(facts), .. } = &mut message {
            facts.size = bytes.len() as u64;
        }
        Ok(Some(message))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        let bytes = rkyv::to_bytes::<rancor::Failure>(self).map(rkyv::util::AlignedVec::into_vec);
        bytes.map_err(|_| "a message cannot be encoded: there is no memory for it".to_owned())
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        rkyv::from_bytes::<Self, rancor::Failure>(bytes).map_err(|_| {
            format!(
                "{} bytes are not a valid message of this version; install the same release on both nodes",
                bytes.len()
            )
        })
    }
}

/// The description of a violation by a peer.
pub(crate) fn broken(what: &str) -> String {
    PathError::Protocol(what.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::Record;
    use dflow_protocol::{Epoch, InstanceId, StreamId};
    use dflow_scheduler::Fact;
    use dflow_testkit::fuzz::{Random, Verdict, fuzz};

    fn stream(random: &mut Random) -> StreamId {
        StreamId(random.number() as u32)
    }

    fn instance(random: &mut Random) -> InstanceId {
        InstanceId(random.number() as u32)
    }

    fn epoch(random: &mut Random) -> Epoch {
        Epoch(random.number() as u32)
    }

    fn fact(random: &mut Random) -> Fact {
        let (instance, attempt) = (instance(random), random.number() as u32);
        match random.below(4) {
            0 => Fact::Voided { instance, attempt, reason: random.text(30) },
            1 => Fact::Chose { instance, input: 1, winners: random.list(3, stream), is_final: random.flag() },
            2 => Fact::Value { stream: stream(random), epoch: epoch(random), text: random.text(30) },
            _ => Fact::Settled { instance },
        }
    }

    fn remark(random: &mut Random) -> Remark {
        let (instance, attempt) = (instance(random), random.number() as u32);
        match random.below(4) {
            0 => Remark::HeldOpen { instance, attempt, by: random.text(30) },
            1 => Remark::Printed { instance, attempt, bytes: random.bytes(40), lost: random.number() },
            2 => {
                let record = Record {
                    read: random.number(),
                    first_read: random.option(Random::number),
                    max_rss: random.number(),
                    ..Record::default()
                };
                Remark::Ended { instance, attempt, record }
            }
            _ => Remark::Parked { instance, attempt },
        }
    }

    fn of_run(random: &mut Random) -> RunMessage {
        match random.below(10) {
            0 => RunMessage::Join(Box::new(Join {
                place: random.number() as u32,
                nodes: random.list(4, |random| Participant {
                    name: random.text(9),
                    address: random.text(9),
                    life: random.number(),
                }),
                silence: random.number(),
                surroundings: Surroundings::from_pairs(random.list(3, |random| (random.bytes(9), random.bytes(9)))),
                plan: PlanMessage {
                    workflow: random.text(30),
                    workflow_dir: random.bytes(9),
                    params: random.list(3, |random| (random.text(9), random.text(9))),
                    needed: random.list(3, |random| random.number() as u32),
                    optional: random.list(3, |random| random.number() as u32),
                    control_flow: random.flag(),
                    input_parts: random.list(3, |random| random.number() as u32),
                    part_files: random.list(2, |random| random.list(2, |random| random.bytes(9))),
                },
            })),
            1 => RunMessage::Queued { reason: random.text(30) },
            2 => RunMessage::Joined {
                slots: random.number() as u32,
                lacks: random.list(3, |random| random.number() as u32),
            },
            3 => RunMessage::Refused { reason: random.text(30) },
            4 => {
                let (first, heard) = (random.number(), random.number());
                RunMessage::Facts(Facts { first, facts: random.list(3, fact), heard, size: 0 })
            }
            8 => RunMessage::Begin {
                slots: random.list(3, |random| random.number() as u32),
                elapsed: random.number(),
                placement: random.list(3, |random| (random.number() as u32, vec![random.number() as u32])),
            },
            5 => RunMessage::Remark(remark(random)),
            6 => RunMessage::Sum,
            7 => RunMessage::Summed(random.list(3, |random| LinkSummary {
                place: random.number() as u32,
                traffic: RunTraffic { sent: random.number(), received: random.number(), ..RunTraffic::default() },
                path: random.option(|_| PathKind::Quic),
                paths: random.number(),
                violations: random.number(),
                why_not_rdma: random.option(|random| random.text(30)),
            })),
            _ => RunMessage::Over,
        }
    }

    fn managed(random: &mut Random) -> ManagementMessage {
        match random.below(4) {
            0 => ManagementMessage::Hello { life: random.number(), number: random.number() },
            1 => ManagementMessage::Path(Signal::Offer {
                path: random.number(),
                kind: PathKind::Rdma,
                endpoint: random.bytes(40),
            }),
            _ => ManagementMessage::Run { run: u128::from(random.number()), message: of_run(random) },
        }
    }

    #[test]
    fn messages_that_are_almost_sound_are_refused_or_are_others() {
        fuzz(
            |random| managed(random).encode().expect("a sound message"),
            |bytes| {
                let Ok(message) = ManagementMessage::decode(bytes) else { return Verdict::Refused };
                let again = message.encode().expect("what is accepted can be sent");
                assert_eq!(ManagementMessage::decode(&again).as_ref(), Ok(&message));
                Verdict::Accepted
            },
        );
    }
}
