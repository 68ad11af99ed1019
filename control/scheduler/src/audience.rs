//! Which nodes a function's instances concern.

use crate::fact::Audience;
use crate::machine::RunMachine;
use crate::options::Place;
use crate::plan::NodeId;
use std::collections::BTreeSet;

impl RunMachine {
    /// For each node of the graph, the places that must hear of its instances, in order.
    pub(crate) fn audiences(&self) -> Vec<Audience> {
        let everywhere: Audience = (0..self.options.places.len() as Place).collect();
        let come_and_go = self.come_and_go();
        (0..self.plan.nodes.len())
            .map(|node| {
                // The whole run depends on the decision of a switch.
                let decides = self.plan.nodes[node].outputs.iter().any(|output| !output.switches.is_empty());
                if decides { everywhere.clone() } else { self.concerned(node, come_and_go[node]) }
            })
            .collect()
    }

    fn concerned(&self, node: NodeId, comes_and_goes: bool) -> Audience {
        let mut places = BTreeSet::from([0]);
        self.add_neighbours(node, &mut places);
        // Whatever exists because of a part comes and goes with it.
        let mut descendants = BTreeSet::new();
        // An instance that exists because of a part may leave the run, and what exists because of its streams goes when it does.
        let mut pending = vec![(node, !comes_and_goes)];
        while let Some((node, only_discovered)) = pending.pop() {
            let outputs = self.plan.nodes[node].outputs.iter();
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

    /// For each node, whether its instances exist because of parts that are discovered.
    fn come_and_go(&self) -> Vec<bool> {
        let mut known = Vec::with_capacity(self.plan.nodes.len());
        for spec in &self.plan.nodes {
            let mut each = spec.inputs.iter().filter(|input| input.each).flat_map(|input| &input.sources);
            // Producers come before their consumers.
            let comes =
                each.any(|source| self.plan.nodes[source.node].outputs[source.port].discovered() || known[source.node]);
            known.push(comes);
        }
        known
    }

    /// The places of a node, of its producers and of its readers.
    fn add_neighbours(&self, node: NodeId, places: &mut BTreeSet<Place>) {
        let spec = &self.plan.nodes[node];
        let producers = spec.inputs.iter().flat_map(|input| &input.sources).map(|source| source.node);
        let readers = spec.outputs.iter().flat_map(|output| &output.consumers).map(|edge| edge.node);
        for node in std::iter::once(node).chain(producers).chain(readers) {
            places.extend(self.places_of(node));
        }
    }
}
