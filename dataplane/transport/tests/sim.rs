//! The conformance suite over the simulated network, and random runs on it.

mod conformance;

use conformance::node::{Layout, Node};
use conformance::world::{Network, World, stream};
use dflow_transport::Path;
use dflow_transport::sim::{SimConfig, SimNet};
use proptest::prelude::*;
use std::time::{Duration, Instant};

struct Simulated(SimNet);

impl Network for Simulated {
    fn connect(&mut self) -> [Box<dyn Path>; 2] {
        self.0.connect().map(|path| Box::new(path) as Box<dyn Path>)
    }

    fn cut(&mut self) {
        self.0.cut();
    }

    fn idle(&mut self) -> bool {
        self.0.advance()
    }

    fn large(&self) -> u64 {
        1 << 30
    }
}

conformance!(Simulated(SimNet::new(1, SimConfig::default())));

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_byte_arrives_once(
        seed in any::<u64>(),
        lengths in proptest::collection::vec(0u64..600_000, 1..6),
        delay in 0u64..200,
        loss in 0u64..200,
        packet in prop_oneof![Just(0u64), 100u64..20_000],
        in_flight in 4096u64..1 << 20,
        cuts in proptest::collection::vec(1u64..2000, 0..5),
    ) {
        let config = SimConfig { delay: (1, 1 + delay), loss_per_mille: loss, resend_after: 300, packet, bandwidth: 0, in_flight };
        let mut world = World::new(Simulated(SimNet::new(seed, config)));
        for (number, &length) in (0..).zip(&lengths) {
            let (from, to) = (number as usize % 2, 1 - number as usize % 2);
            let layout = if seed >> number & 1 == 0 { Layout::Ring } else { Layout::Extents };
            world.nodes[from].write(stream(number), length);
            let (node, link) = (&mut world.nodes[to], &mut world.links[to]);
            node.read(link, stream(number), layout);
        }
        for steps in cuts {
            let mut left = steps;
            world.until(|world| {
                left = left.saturating_sub(1);
                left == 0 || world.nodes.iter().all(Node::is_done)
            });
            // Either side may use its end of the new path before the other has noticed anything.
            world.network.cut();
            world.connect();
        }
        world.until_done();
        for node in &world.nodes {
            prop_assert!(node.sinks.values().all(|sink| sink.aborted.is_none()));
        }
    }
}

/// One end may come to its end of a new path long after the other has begun to ask for a sign of life.
#[test]
fn a_sign_of_life_is_not_given_before_the_path_has_begun() {
    let limit = Duration::from_secs(1);
    let mut world = World::new(Simulated(SimNet::new(1, SimConfig::default())));
    let early = 0;
    let step = |world: &mut World<Simulated>, side: usize| {
        let (node, link) = (&mut world.nodes[side], &mut world.links[side]);
        link.step(node);
        world.events[side].extend(link.take_events());
    };
    step(&mut world, early);
    world.links[early].tick(Instant::now() + limit / 2, limit);
    while world.network.idle() {}
    // What the other end finds first is the question.
    step(&mut world, 1 - early);
    world.until_done();
    world.rest();
    world.assert_undisturbed();
    assert!(world.links.iter().all(dflow_transport::Link::is_up));
}
