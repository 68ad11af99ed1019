//! Candidates of a k-of-n choice. A function that is read only by fan-ins with `need` runs a race against the other
//! sources of these fan-ins. If it fails for good before it was chosen, the run continues without it. The run fails
//! only when too few candidates are left for a fan-in.

use crate::fact::Fact;
use crate::machine::RunMachine;
use crate::plan::{InputPort, NodeId};
use crate::restart::cut;
use crate::state::{Closed, Phase, Status};
use dflow_protocol::InstanceId;
use dflow_workflow::Gate;
use std::sync::Arc;

/// Maximum number of failed candidates that a reason names.
const MAX_NAMED: usize = 5;

impl RunMachine {
    /// Takes an instance that has failed for good out of the race. Returns false if the run cannot do without it: it
    /// has other readers or none at all, or it has been chosen and the choice is final.
    pub(crate) fn lose(&mut self, id: InstanceId, reason: &str) -> bool {
        if !self.may_lose(id) {
            return false;
        }
        self.tell(id, || Fact::Lost { instance: id, reason: reason.to_owned() });
        self.mark_lost(id, reason);
        // A killed instance ends when its process is dead.
        if self.instance(id).phase == Phase::Idle {
            self.end_unread(id);
        }
        true
    }

    /// The run continues without the instance.
    pub(crate) fn mark_lost(&mut self, id: InstanceId, reason: &str) {
        let plan = Arc::clone(&self.plan);
        let node = self.instance(id).node;
        let why = format!("`{}` failed: {reason}", self.name(id));
        let instance = self.instance_mut(id);
        instance.lost = Some(cut(reason.to_owned()));
        instance.dropped = true;
        self.abort_outputs(id, &why);
        for stream in self.streams_of(id) {
            for place in 0..self.stream(stream).subscriptions.len() {
                let subscription = &self.stream(stream).subscriptions[place];
                let (consumer, input) = (subscription.consumer, subscription.input);
                self.close(stream, place, Closed::Lost);
                self.mark_input(consumer, input);
            }
        }
        self.mark_settled(id);
        self.retire(id, Closed::Lost);
        self.todo
            .nodes
            .extend(plan.nodes[node].outputs.iter().flat_map(|output| &output.consumers).map(|edge| edge.node));
    }

    /// Whether an instance in its last attempt may still drop out of the race: it is chosen when its streams are whole,
    /// but their contents are valid only if it also ends successfully.
    pub(crate) fn is_proven_by_its_end(&self, node: NodeId) -> bool {
        let outputs = &self.plan.nodes[node].outputs;
        let mut gates =
            outputs.iter().flat_map(|output| &output.consumers).map(|edge| self.reader(edge.node, edge.input).gate);
        self.plan.nodes[node].races && gates.all(Gate::needs_whole_stream)
    }

    /// Why a fan-in cannot get the streams that it needs if only this many are left.
    pub(crate) fn why_too_few(&self, reader: InstanceId, port: &InputPort, need: usize, left: usize) -> String {
        let function = self.name(reader);
        let sources = port.sources.iter().flat_map(|source| &self.nodes[source.node].instances);
        let lost = sources.filter_map(|id| Some((*id, self.instance(*id).lost.as_ref()?)));
        let mut reasons: Vec<String> =
            lost.map(|(id, reason)| format!("`{}` failed: {reason}", self.name(id))).collect();
        if reasons.is_empty() {
            return format!(
                "an input of `{function}` needs {need} streams, and there are {left}; lower `need` or add sources"
            );
        }
        let more = reasons.len().saturating_sub(MAX_NAMED);
        reasons.truncate(MAX_NAMED);
        if more > 0 {
            reasons.push(format!("and {more} more failed"));
        }
        let (streams, are) = (if need == 1 { "stream" } else { "streams" }, if left == 1 { "is" } else { "are" });
        format!("an input of `{function}` needs {need} {streams}, and {left} {are} left: {}", reasons.join("; "))
    }

    fn may_lose(&self, id: InstanceId) -> bool {
        let node = self.instance(id).node;
        let readers = self.plan.nodes[node].outputs.iter().flat_map(|output| &output.consumers);
        let mut wanted = readers.filter(|edge| {
            let reader = &self.nodes[edge.node];
            !(reader.status == Status::Skipped && reader.status_settled)
        });
        let chosen = self.streams_of(id).into_iter().any(|stream| {
            self.stream(stream).subscriptions.iter().any(|subscription| {
                let input = &self.instance(subscription.consumer).inputs[subscription.input];
                input.choice_settled && input.winners.contains(&stream)
            })
        });
        self.plan.nodes[node].races && wanted.next().is_some() && !chosen
    }

    fn reader(&self, node: NodeId, input: usize) -> &InputPort {
        &self.plan.nodes[node].inputs[input]
    }
}
