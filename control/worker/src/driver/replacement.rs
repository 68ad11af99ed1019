//! Where functions run whose node is lost.

use crate::spec::RunSpec;
use dflow_scheduler::Place;
use dflow_scheduler::planner::Placement;
use dflow_workflow::FunctionId;
use std::collections::{BTreeMap, BTreeSet};

/// The places of the functions that had one which is lost.
#[derive(Debug, Default)]
pub(crate) struct Replacements {
    lost: BTreeSet<Place>,
    lists: BTreeMap<FunctionId, Vec<Place>>,
    /// How often each place has stood in for a lost one.
    load: BTreeMap<Place, u64>,
}

impl Replacements {
    /// Whether the node at this place is lost.
    pub(crate) fn is_lost(&self, place: Place) -> bool {
        self.lost.contains(&place)
    }

    /// A node is lost. Returns the new lists of the functions that had it in theirs: in its stead, the nodes that may run the
    /// function take turns, in proportion to their slots. A function that the user has placed stays on the nodes that the user
    /// has named; if none of them is left, its list is empty. `has`: whether a node has the program of a function.
    pub(crate) fn lose(
        &mut self,
        place: Place,
        spec: &RunSpec,
        placement: &Placement,
        slots: &[u32],
        has: impl Fn(Place, FunctionId) -> bool,
    ) -> Vec<(FunctionId, Vec<Place>)> {
        self.lost.insert(place);
        let mut changed = Vec::new();
        for id in (0..spec.workflow.functions.len() as u32).map(FunctionId) {
            let mut list = match self.lists.get(&id) {
                Some(list) => list.clone(),
                None => placement.places_of(id).to_vec(),
            };
            if !list.contains(&place) {
                continue;
            }
            let chosen = self.chosen(spec, id);
            let may_run = |place: &Place| {
                let is_chosen = chosen.as_ref().is_none_or(|chosen| chosen.contains(place));
                is_chosen && !self.lost.contains(place) && has(*place, id)
            };
            let able: Vec<Place> = (0..slots.len() as Place).filter(may_run).collect();
            for entry in &mut list {
                if self.lost.contains(entry)
                    && let Some(other) = self.next(&able, slots)
                {
                    *entry = other;
                }
            }
            if able.is_empty() {
                list.clear();
            } else {
                self.lists.insert(id, list.clone());
            }
            changed.push((id, list));
        }
        changed
    }

    /// The places that the user has chosen for a function.
    fn chosen(&self, spec: &RunSpec, id: FunctionId) -> Option<BTreeSet<Place>> {
        let cluster = spec.cluster.as_ref()?;
        let names = cluster.placement.get(&spec.workflow.function(id).name)?;
        let nodes = std::iter::once(&spec.options.node).chain(cluster.nodes.iter().map(|(name, _)| name));
        Some((0..).zip(nodes).filter(|(_, node)| names.contains(node)).map(|(place, _)| place).collect())
    }

    /// The place among these that has stood in least for its slots.
    fn next(&mut self, able: &[Place], slots: &[u32]) -> Option<Place> {
        let load = |place: &Place| {
            let load = self.load.get(place).copied().unwrap_or_default() + 1;
            (load * 1000 / u64::from(slots[*place as usize].max(1)), *place)
        };
        let place = able.iter().copied().min_by_key(load)?;
        *self.load.entry(place).or_default() += 1;
        Some(place)
    }
}
