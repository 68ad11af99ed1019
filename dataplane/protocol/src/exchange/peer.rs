//! Messages of the peer.

use super::outflow::Outflow;
use super::{Action, Exchange, FlowEvent, Path, Violation};
use crate::limits::{MAX_FLOWS, PEER_VERSION};
use crate::wire::{FlowId, PeerMessage, StreamKey};

impl Exchange {
    /// A message of the peer has arrived.
    ///
    /// # Errors
    /// [`Violation`] if it breaks the protocol.
    pub fn receive(&mut self, message: PeerMessage) -> Result<(), Violation> {
        let name = name(&message);
        match (&self.path, &message) {
            (Path::Down, _) => return Ok(()),
            (Path::Silent { .. }, PeerMessage::Begin { .. })
            | (Path::Resuming { .. }, PeerMessage::Subscribe { .. }) => {}
            (Path::Silent { .. }, _) => return Err(Violation::Order { message: name, when: "before it began" }),
            (Path::Resuming { .. }, _) => {
                return Err(Violation::Order { message: name, when: "before all its subscriptions" });
            }
            (Path::Up { .. }, _) => {}
        }
        match message {
            PeerMessage::Begin { version, life, incarnation, flows } => self.begin(version, life, incarnation, flows),
            PeerMessage::Subscribe { flow, stream, received, until } => {
                self.peer_subscribes(flow, stream, received, until)
            }
            PeerMessage::Close { flow, received } => {
                if let Some(mut outflow) = self.known(flow)? {
                    self.turns.remove(outflow.run(), flow);
                    let released = outflow.acknowledge(flow, received);
                    self.unsubscribed(flow, outflow.run());
                    released.map_err(|violation| violation.of(outflow.stream()))?;
                }
                self.send(PeerMessage::Closed { flow });
                Ok(())
            }
            PeerMessage::Closed { flow } => {
                if let Some(run) = self.closing.remove(&flow) {
                    self.drained(flow, run);
                }
                Ok(())
            }
            PeerMessage::Credit { flow, received, until } => self.with_outflow(flow, |outflow, actions| {
                if let Some(upto) = outflow.acknowledge(flow, received)? {
                    actions.push_back(Action::Flow(flow, FlowEvent::Acknowledged(upto)));
                }
                outflow.extend(flow, until)
            }),
            PeerMessage::Grant { flow, grant, until } => self.with_outflow(flow, |outflow, _| {
                outflow.grant(flow, grant)?;
                outflow.extend(flow, until)
            }),
            PeerMessage::Stuck { flow, stuck } => self.with_outflow(flow, |_, actions| {
                actions.push_back(Action::Flow(flow, FlowEvent::Stuck(stuck)));
                Ok(())
            }),
            // The caller copies the bytes of `Inline` and calls `placed`.
            PeerMessage::Inline { .. } | PeerMessage::Ping(_) | PeerMessage::Pong(_) => Ok(()),
            PeerMessage::Finished { flow, length } => {
                if let Some(inflow) = self.incoming.get_mut(&flow) {
                    let stream = inflow.stream();
                    inflow.finish(flow, length).map_err(|violation| violation.of(stream))?;
                    self.arrived(flow);
                }
                Ok(())
            }
            PeerMessage::Aborted { flow, reason } => {
                if self.incoming.contains_key(&flow) {
                    self.event(flow, FlowEvent::Aborted(reason));
                    self.forget(flow);
                }
                Ok(())
            }
        }
    }

    fn begin(&mut self, version: u32, life: u64, theirs: u64, flows: u32) -> Result<(), Violation> {
        let Path::Silent { incarnation } = self.path else {
            return Err(Violation::Order { message: "a beginning", when: "in the middle of a path" });
        };
        if version != PEER_VERSION {
            return Err(Violation::Version { ours: PEER_VERSION, theirs: version });
        }
        if theirs != incarnation {
            return Err(Violation::Order { message: "the beginning of another path", when: "on this one" });
        }
        if flows as usize > MAX_FLOWS {
            return Err(Violation::TooMany { what: "flows", limit: MAX_FLOWS });
        }
        if self.peer_life.replace(life).is_some_and(|before| before != life) {
            // The peer's process was restarted, and its streams are gone with the old one.
            self.last_peer_flow = None;
            for (flow, outflow) in std::mem::take(&mut self.outgoing) {
                self.unsubscribed(flow, outflow.run());
            }
            // Flows that were subscribed since are for the new process.
            let lost: Vec<FlowId> =
                self.incoming.iter().filter(|(_, inflow)| inflow.is_known).map(|(&flow, _)| flow).collect();
            for flow in lost {
                let reason = "the node that has it was restarted".to_owned();
                self.event(flow, FlowEvent::Aborted(reason));
                self.forget(flow);
            }
        }
        self.incoming.values_mut().for_each(|inflow| inflow.is_known = true);
        self.path = Path::Resuming { incarnation, left: flows };
        self.resumed(0);
        Ok(())
    }

    fn peer_subscribes(&mut self, flow: FlowId, stream: StreamKey, received: u64, until: u64) -> Result<(), Violation> {
        if let Some(outflow) = self.outgoing.get_mut(&flow) {
            let carried = outflow.stream();
            let resumed = outflow.resume(flow, stream, received, until);
            if let Some(upto) = resumed.map_err(|violation| violation.of(carried))? {
                self.event(flow, FlowEvent::Acknowledged(upto));
            }
        } else {
            if self.last_peer_flow.is_some_and(|last| flow <= last) {
                let expected = "a number that it has not used before".to_owned();
                return Err(Violation::value(flow, "a subscription", flow.0, expected));
            }
            if self.outgoing.len() >= MAX_FLOWS {
                return Err(Violation::TooMany { what: "flows", limit: MAX_FLOWS });
            }
            self.last_peer_flow = Some(flow);
            self.outgoing.insert(flow, Outflow::new(stream, received, until));
            self.traffic.note(stream.run(), |run| run.streams_out += 1);
            self.event(flow, FlowEvent::Subscribed { stream, from: received });
        }
        self.tell_outcome(flow);
        self.schedule(flow);
        self.resumed(1);
        Ok(())
    }

    /// This many more of the peer's subscriptions have arrived. After the last one, flows that were not among them are over.
    fn resumed(&mut self, more: u32) {
        let Path::Resuming { incarnation, left } = self.path else { return };
        let left = left.saturating_sub(more);
        self.path = Path::Resuming { incarnation, left };
        if left > 0 {
            return;
        }
        self.path = Path::Up { incarnation };
        let over: Vec<FlowId> =
            self.outgoing.iter().filter(|(_, outflow)| !outflow.is_resumed()).map(|(&flow, _)| flow).collect();
        for flow in over {
            if let Some(outflow) = self.outgoing.remove(&flow) {
                self.unsubscribed(flow, outflow.run());
            }
        }
    }
}

fn name(message: &PeerMessage) -> &'static str {
    match message {
        PeerMessage::Begin { .. } => "a beginning",
        PeerMessage::Subscribe { .. } => "a subscription",
        PeerMessage::Close { .. } => "the end of a subscription",
        PeerMessage::Closed { .. } => "the answer to the end of a subscription",
        PeerMessage::Credit { .. } => "credit",
        PeerMessage::Grant { .. } => "a grant",
        PeerMessage::Stuck { .. } => "a note on its readers",
        PeerMessage::Inline { .. } => "bytes",
        PeerMessage::Finished { .. } => "the end of a stream",
        PeerMessage::Aborted { .. } => "the failure of a stream",
        PeerMessage::Ping(_) | PeerMessage::Pong(_) => "a sign of life",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::TooManyFlows;
    use crate::{Epoch, RunId, StreamId};

    fn subscription(flow: u64) -> PeerMessage {
        let stream = StreamKey::new(RunId(1), StreamId(flow as u32), Epoch(1));
        PeerMessage::Subscribe { flow: FlowId(flow), stream, received: 0, until: 0 }
    }

    #[test]
    fn a_flood_of_subscriptions_ends_at_the_limit() {
        let most = MAX_FLOWS as u64;
        let mut exchange = Exchange::new(1);
        exchange.path_up(1);
        let begin = PeerMessage::Begin { version: PEER_VERSION, life: 2, incarnation: 1, flows: MAX_FLOWS as u32 / 2 };
        exchange.receive(begin).expect("a beginning");
        for flow in 1..=most {
            exchange.receive(subscription(flow)).expect("so many there may be");
        }
        let refused = exchange.receive(subscription(most + 1));
        assert_eq!(refused, Err(Violation::TooMany { what: "flows", limit: MAX_FLOWS }));
        let refused = exchange.receive(subscription(most + 2));
        assert!(refused.is_err(), "nor is there room for the next one");
        // When one has ended there is room for another.
        exchange.receive(PeerMessage::Close { flow: FlowId(7), received: 0 }).expect("it is read no more");
        exchange.receive(subscription(most + 1)).expect("there is room");
    }

    #[test]
    fn a_beginning_of_another_version_or_with_too_many_flows_is_refused() {
        let begin = |version, flows| {
            let mut exchange = Exchange::new(1);
            exchange.path_up(1);
            let outcome = exchange.receive(PeerMessage::Begin { version, life: 2, incarnation: 1, flows });
            assert_eq!(exchange.is_up(), outcome.is_ok());
            outcome
        };
        assert_eq!(begin(PEER_VERSION, 0), Ok(()));
        for theirs in [0, PEER_VERSION + 1, u32::MAX] {
            let violation = begin(theirs, 0).expect_err("another version");
            assert_eq!(violation, Violation::Version { ours: PEER_VERSION, theirs });
            let words = [format!("version {theirs} "), format!("this node {PEER_VERSION};")];
            assert!(words.iter().all(|word| violation.to_string().contains(word)), "{violation}");
        }
        let too_many = Violation::TooMany { what: "flows", limit: MAX_FLOWS };
        assert_eq!(begin(PEER_VERSION, MAX_FLOWS as u32 + 1), Err(too_many));
    }

    #[test]
    fn a_run_that_floods_the_link_leaves_room_for_others() {
        let mut exchange = Exchange::new(1);
        let mut subscribe = |run: u128| -> usize {
            for count in 0.. {
                let stream = StreamKey::new(RunId(run), StreamId(count as u32), Epoch(1));
                if let Err(TooManyFlows { run, .. }) = exchange.subscribe(stream, 0) {
                    assert_eq!(run, count);
                    return count;
                }
            }
            unreachable!("there is a limit")
        };
        assert_eq!(subscribe(1), MAX_FLOWS / 2);
        assert_eq!(subscribe(2), MAX_FLOWS / 4, "half of what is left");
        assert_eq!(subscribe(3), MAX_FLOWS / 8);
    }

    #[test]
    fn a_restarted_peer_ends_only_what_its_old_process_had() {
        let begin = |life, incarnation| PeerMessage::Begin { version: PEER_VERSION, life, incarnation, flows: 0 };
        let stream = |id| StreamKey::new(RunId(1), StreamId(id), Epoch(1));
        let mut exchange = Exchange::new(1);
        let early = exchange.subscribe(stream(1), 0).expect("room");
        exchange.path_up(1);
        exchange.receive(begin(7, 1)).expect("a beginning");
        let old = exchange.subscribe(stream(2), 0).expect("room");
        exchange.path_down();
        let between = exchange.subscribe(stream(3), 0).expect("room");
        exchange.path_up(2);
        let new = exchange.subscribe(stream(4), 0).expect("room");
        while exchange.next_action().is_some() {}
        exchange.receive(begin(8, 2)).expect("another process");
        let mut aborted = Vec::new();
        while let Some(action) = exchange.next_action() {
            if let Action::Flow(flow, FlowEvent::Aborted(_)) = action {
                aborted.push(flow);
            }
        }
        assert_eq!(aborted, [early, old]);
        assert!([between, new].iter().all(|flow| exchange.incoming.contains_key(flow)));
        // They are flows of the new process from now on.
        exchange.path_up(3);
        exchange.receive(begin(9, 3)).expect("yet another process");
        assert!(exchange.incoming.is_empty());
    }

    #[test]
    fn a_violation_names_the_stream_and_its_run() {
        let mut exchange = Exchange::new(1);
        exchange.path_up(1);
        let begin = PeerMessage::Begin { version: PEER_VERSION, life: 2, incarnation: 1, flows: 0 };
        exchange.receive(begin).expect("a beginning");
        let flow = FlowId(5);
        let stream = StreamKey::new(RunId(0xabc), StreamId(3), Epoch(1));
        exchange.receive(PeerMessage::Subscribe { flow, stream, received: 0, until: 0 }).expect("a subscription");
        for message in [PeerMessage::Credit { flow, received: 7, until: 7 }, PeerMessage::Close { flow, received: 7 }] {
            let violation = exchange.receive(message).expect_err("nothing was sent").to_string();
            assert!(violation.contains(&format!("flow 5 ({stream}): 7")), "{violation}");
        }
        let stream = StreamKey::new(RunId(0xdef), StreamId(4), Epoch(2));
        let flow = exchange.subscribe(stream, 10).expect("room");
        let violation = exchange.placed(flow, 0, 11).expect_err("past the credit").to_string();
        assert!(violation.contains(&stream.to_string()), "{violation}");
    }
}
