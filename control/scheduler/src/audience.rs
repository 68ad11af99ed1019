//! Which nodes a function's instances concern.

use crate::fact::Audience;
use crate::options::Place;
use crate::plan::{NodeId, NodeKind, Plan};
use std::collections::BTreeSet;

impl Plan {
    /// For each node of the graph, the places that must hear of its instances, in order.
    pub(crate) fn audiences(&self, places: usize) -> Vec<Audience> {
        let everywhere: Audience = (0..places as Place).collect();
        (0..self.nodes.len())
            .map(|node| {
                // The whole run depends on the decision of a switch.
                let decides = self.nodes[node].outputs.iter().any(|output| !output.switches.is_empty());
                if decides { everywhere.clone() } else { self.concerned(node) }
            })
            .collect()
    }

    fn concerned(&self, node: NodeId) -> Audience {
        let mut places = BTreeSet::from([0]);
        self.add_neighbours(node, &mut places);
        // Whatever exists because of a part comes and goes with it.
        let mut descendants = BTreeSet::new();
        let mut pending = vec![(node, true)];
        while let Some((node, only_discovered)) = pending.pop() {
            let outputs = self.nodes[node].outputs.iter();
            for output in outputs.filter(|output| output.discovered() || !only_discovered) {
                for edge in output.consumers.iter().filter(|edge| edge.each) {
                    if descendants.insert(edge.node) {
                        self.add_neighbours(edge.node, &mut places);
                        pending.push((edge.node, false));
                    }
                }
            }
        }
        places.into_iter().collect()
    }

    /// The places of a node, of its producers and of its readers.
    fn add_neighbours(&self, node: NodeId, places: &mut BTreeSet<Place>) {
        let spec = &self.nodes[node];
        let producers = spec.inputs.iter().flat_map(|input| &input.sources).map(|source| source.node);
        let readers = spec.outputs.iter().flat_map(|output| &output.consumers).map(|edge| edge.node);
        for node in std::iter::once(node).chain(producers).chain(readers) {
            let spec = &self.nodes[node];
            match spec.kind {
                NodeKind::Function(_) if !spec.places.is_empty() => places.extend(&spec.places),
                NodeKind::Function(_) | NodeKind::Input(_) | NodeKind::Sink(_) => _ = places.insert(0),
            }
        }
    }
}
