//! When a run is complete. What makes an instance final is never undone, so each is looked at until it is, and then never
//! again.

use crate::machine::RunMachine;
use crate::plan::NodeKind;
use crate::state::{Decision, Status, SwitchState};
use dflow_protocol::InstanceId;

impl RunMachine {
    /// Whether every instance of the run is final. Parts appear only while the instance that discovers them is not, and its
    /// node tells of them before it tells of its end; so none is missing when all that are known are final.
    pub(crate) fn is_complete(&mut self) -> bool {
        while let Some(id) = self.instances.id_at(self.final_until) {
            if !self.is_final(id) {
                return false;
            }
            self.final_until += 1;
        }
        let is_final =
            |switch: &SwitchState| (switch.settled && !switch.unverified) || switch.decision == Decision::Void;
        self.switches.iter().all(is_final)
    }

    /// Whether the instance has ended for good, or will never run.
    fn is_final(&self, id: InstanceId) -> bool {
        let instance = self.instance(id);
        let is_skipped = |node: usize| {
            let node = &self.nodes[node];
            node.status == Status::Skipped && node.status_settled
        };
        let source = instance.each.map(|stream| self.instance(self.stream(stream).instance).node);
        matches!(self.plan.nodes[instance.node].kind, NodeKind::Input(_))
            || is_skipped(instance.node)
            || source.is_some_and(is_skipped)
            || (!instance.present && self.nodes[instance.node].members_settled)
            || (instance.phase.ended() && (instance.settled || instance.dropped))
    }
}
