//! The conformance suite over the simulated network, and random runs on it.

mod conformance;

use conformance::node::{Layout, Node};
use conformance::world::{Network, World, epoch, stream};
use dflow_protocol::exchange::Order;
use dflow_protocol::limits::MAX_PEER_MESSAGE;
use dflow_protocol::wire::{FlowId, GrantId, PeerMessage, StreamKey};
use dflow_shm::Landing;
use dflow_transport::sim::{SimConfig, SimNet, SimPath};
use dflow_transport::{Chunk, Link, LinkEvent, Path, PathError, PathEvent, PathKind, RemoteWindow};
use proptest::prelude::*;
use std::sync::Arc;
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

/// A stream that one node reads from the other, and again in a new epoch if one of the two crashes before it is read.
struct Wanted {
    number: u32,
    length: u64,
    from: usize,
    layout: Layout,
    epoch: u32,
    flow: Option<FlowId>,
}

impl Wanted {
    fn key(&self) -> StreamKey {
        epoch(self.number, self.epoch)
    }

    fn start(&mut self, world: &mut World<Simulated>) {
        world.nodes[self.from].write(self.key(), self.length);
        let to = 1 - self.from;
        let (node, link) = (&mut world.nodes[to], &mut world.links[to]);
        self.flow = Some(node.read(link, self.key(), self.layout));
    }

    fn is_read(&self, world: &World<Simulated>) -> bool {
        let sink = self.flow.and_then(|flow| world.nodes[1 - self.from].sinks.get(&flow));
        sink.is_some_and(|sink| {
            sink.stream == self.key() && sink.ended == Some(self.length) && sink.read == self.length
        })
    }
}

struct Run {
    world: World<Simulated>,
    wanted: Vec<Wanted>,
    crashes: u64,
    /// The nodes that have heard of the other one.
    acquainted: [bool; 2],
}

impl Run {
    /// Goes on until this holds or an end crashes, which is then the answer.
    fn crash_before(&mut self, holds: impl Fn(&World<Simulated>) -> bool) -> Option<usize> {
        let mut crashed = None;
        self.world.until(|world| {
            for (acquainted, link) in self.acquainted.iter_mut().zip(&world.links) {
                *acquainted |= link.is_up();
            }
            crashed = crashed.or_else(|| world.network.0.take_crash());
            crashed.is_some() || holds(world)
        });
        crashed
    }

    /// Runs until this holds, whichever side crashes in between.
    fn until(&mut self, mut holds: impl FnMut(&World<Simulated>) -> bool) {
        let holds = std::cell::RefCell::new(&mut holds);
        while let Some(side) = self.crash_before(|world| holds.borrow_mut()(world)) {
            self.begin_anew(side);
        }
    }

    /// Restarts the node of a side that has crashed, without its previous state. Unread bytes are written again.
    fn begin_anew(&mut self, side: usize) {
        self.crashes += 1;
        let survivor = 1 - side;
        let is_survivor_acquainted = self.acquainted[survivor];
        self.acquainted[side] = false;
        let world = &mut self.world;
        world.nodes[side] = Node::default();
        world.links[side] = Link::new(100 + self.crashes);
        // The survivor may hear of the new life before it has noticed the end of the old one.
        if self.crashes.is_multiple_of(2) {
            world.until(|world| world.links[survivor].path_kind().is_none());
        }
        world.connect();
        // Subscriptions that it sends before it knows of the restart are meant for the previous incarnation.
        if let Some(other) = self.crash_before(|world| world.links[survivor].is_up()) {
            return self.begin_anew(other);
        }
        for wanted in &mut self.wanted {
            if wanted.is_read(&self.world) {
                continue;
            }
            let (node, link) = (&mut self.world.nodes[survivor], &mut self.world.links[survivor]);
            if let Some((&flow, sink)) = node.sinks.iter().find(|(_, sink)| sink.stream == wanted.key()) {
                // A peer that never knew the previous incarnation takes the new one for it.
                assert!(sink.aborted.is_some() || !is_survivor_acquainted, "{} waits forever", sink.stream);
                node.close(link, flow);
            }
            wanted.epoch += 1;
            wanted.start(&mut self.world);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_byte_arrives_once(
        seed in any::<u64>(),
        lengths in proptest::collection::vec(0u64..600_000, 1..6),
        delay in 0u64..200,
        loss_per_mille in 0u64..200,
        duplicate_per_mille in 0u64..300,
        packet in prop_oneof![Just(0u64), 100u64..20_000],
        in_flight in 4096u64..1 << 20,
        cuts in proptest::collection::vec(1u64..2000, 0..5),
        crashes in 0u32..4,
        lifetime in 0u64..6000,
    ) {
        let config = SimConfig {
            delay: (1, 1 + delay),
            loss_per_mille,
            resend_after: 300,
            duplicate_per_mille,
            packet,
            bandwidth: 0,
            in_flight,
            crashes,
            lifetime: (0, lifetime),
        };
        let mut world = World::new(Simulated(SimNet::new(seed, config)));
        let mut wanted: Vec<Wanted> = (0..).zip(&lengths).map(|(number, &length)| {
            let layout = if seed >> number & 1 == 0 { Layout::Ring } else { Layout::Extents };
            Wanted { number, length, from: number as usize % 2, layout, epoch: 1, flow: None }
        }).collect();
        wanted.iter_mut().for_each(|wanted| wanted.start(&mut world));
        let mut run = Run { world, wanted, crashes: 0, acquainted: [false; 2] };
        for steps in cuts {
            let mut left = steps;
            run.until(|world| {
                left = left.saturating_sub(1);
                left == 0 || world.nodes.iter().all(Node::is_done)
            });
            // Either side may use its end of the new path before the other has noticed anything.
            run.world.network.cut();
            run.world.connect();
        }
        run.until(|world| world.nodes.iter().all(Node::is_done));
        for wanted in &run.wanted {
            prop_assert!(wanted.is_read(&run.world), "stream {} is not there", wanted.number);
        }
        let restarted = Some("the node that has it was restarted");
        for sink in run.world.nodes.iter().flat_map(|node| node.sinks.values()) {
            prop_assert!(sink.aborted.is_none() || (run.crashes > 0 && sink.aborted.as_deref() == restarted));
        }
        let violation = |event: &&LinkEvent| matches!(event, LinkEvent::Violated(_));
        prop_assert_eq!(run.world.events.iter().flatten().find(violation), None);
    }
}

/// Both ends of a connection over a network without delays and losses.
fn ends(config: SimConfig) -> (SimNet, [SimPath; 2]) {
    let net = SimNet::new(1, SimConfig { delay: (1, 1), loss_per_mille: 0, ..config });
    let paths = net.connect();
    (net, paths)
}

fn pings(path: &mut SimPath) -> Vec<u64> {
    let mut events = Vec::new();
    path.poll(&mut events);
    let number = |event: &PathEvent| {
        if let PathEvent::Message(PeerMessage::Ping(number)) = event { Some(*number) } else { None }
    };
    events.iter().filter_map(number).collect()
}

#[test]
fn duplicated_packets_arrive_once() {
    let (net, [mut one, mut other]) = ends(SimConfig { duplicate_per_mille: 1000, ..SimConfig::default() });
    (0..100).for_each(|number| one.send(&PeerMessage::Ping(number)).expect("it is there"));
    let mut arrivals = 0;
    while net.advance() {
        arrivals += 1;
    }
    assert_eq!(arrivals, 1, "all of them at the same tick");
    assert_eq!(pings(&mut other), (0..100).collect::<Vec<_>>());
}

#[test]
fn messages_that_are_none_are_violations() {
    let whole = PeerMessage::Inline { flow: FlowId(1), at: 0, bytes: vec![1; 100] }.encode().expect("sound");
    let longer = [&whole[..], &[0; MAX_PEER_MESSAGE]].concat();
    for bytes in [vec![], vec![0; 40], vec![0xa5; MAX_PEER_MESSAGE + 1], longer] {
        let (net, [mut attacked, mut hostile]) = ends(SimConfig::default());
        let [mut one, mut other] = net.connect();
        hostile.send_bytes(bytes.clone());
        one.send(&PeerMessage::Ping(7)).expect("it is there");
        while net.advance() {}
        let mut events = Vec::new();
        attacked.poll(&mut events);
        assert!(
            matches!(&events[..], [PathEvent::Lost(error)] if error.is_violation()),
            "{} bytes: {events:?}",
            bytes.len()
        );
        assert_eq!(pings(&mut other), [7]);
    }
}

#[test]
fn a_crashed_end_is_gone_and_its_sent_bytes_arrive() {
    let config = SimConfig { crashes: 1, lifetime: (1, 1), ..SimConfig::default() };
    let (net, mut paths) = ends(config);
    // Both are sent before the crash. The one to the crashing end is lost.
    paths.iter_mut().for_each(|path| path.send(&PeerMessage::Ping(7)).expect("it is there"));
    assert_eq!(net.take_crash(), None);
    while net.advance() {}
    let crashed = net.take_crash().expect("one was foreseen");
    assert_eq!(net.take_crash(), None);
    assert!(pings(&mut paths[crashed]).is_empty());
    assert!(!paths[crashed].has_room());
    let mut events = Vec::new();
    paths[1 - crashed].poll(&mut events);
    assert!(
        matches!(&events[..], [PathEvent::Message(PeerMessage::Ping(7)), PathEvent::Lost(error)] if !error.is_violation()),
        "{events:?}"
    );
    // It was the last one.
    drop(paths);
    let [mut one, mut other] = net.connect();
    one.send(&PeerMessage::Ping(8)).expect("it is there");
    while net.advance() {}
    assert_eq!((pings(&mut other), net.take_crash()), (vec![8], None));
}

/// A path whose node runs out of a resource, such as lockable memory, after this many windows or writes.
struct Starved {
    path: SimPath,
    offers: u32,
    writes: u32,
}

fn take(left: &mut u32, what: &str) -> Result<(), PathError> {
    *left = left.checked_sub(1).ok_or_else(|| PathError::Resource(format!("cannot register {what}")))?;
    Ok(())
}

impl Path for Starved {
    fn kind(&self) -> PathKind {
        self.path.kind()
    }

    fn send(&mut self, message: &PeerMessage) -> Result<(), PathError> {
        self.path.send(message)
    }

    fn offer(&mut self, flow: FlowId, grant: GrantId, landing: &Arc<Landing>) -> Result<RemoteWindow, PathError> {
        take(&mut self.offers, "a window")?;
        self.path.offer(flow, grant, landing)
    }

    fn withdraw(&mut self, flow: FlowId) {
        self.path.withdraw(flow);
    }

    fn has_room(&self) -> bool {
        self.path.has_room()
    }

    fn write(&mut self, order: &Order, chunk: Chunk) -> Result<(), PathError> {
        take(&mut self.writes, "what is to be sent")?;
        self.path.write(order, chunk)
    }

    fn finish(&mut self, flow: FlowId) {
        self.path.finish(flow);
    }

    fn poll(&mut self, events: &mut Vec<PathEvent>) {
        self.path.poll(events);
    }
}

/// If a node lacks a resource, only the path ends: streams continue over the next one, and no peer is blamed.
#[test]
fn a_node_that_runs_out_of_a_resource_in_mid_stream_continues_over_the_next_path() {
    for (offers, writes, side) in [(3, u32::MAX, 1), (0, u32::MAX, 1), (u32::MAX, 7, 0), (u32::MAX, 0, 0)] {
        let mut world = World::new(Simulated(SimNet::new(1, SimConfig::default())));
        let paths = world.network.0.connect();
        let starved = paths.map(|path| Box::new(Starved { path, offers, writes }));
        world.links.iter_mut().zip(starved).for_each(|(link, path)| link.connect(path, 99));
        let length = 3 << 20;
        for number in 1..=2 {
            world.nodes[0].write(stream(number), length);
            let (node, link) = (&mut world.nodes[1], &mut world.links[1]);
            node.read(link, stream(number), Layout::Extents);
        }
        world.until(|world| world.links.iter().all(|link| link.path_kind().is_none()));
        assert!(!world.nodes[1].is_done(), "it was in the middle");
        let lacks = |event: &LinkEvent| matches!(event, LinkEvent::PathLost(PathError::Resource(_)));
        assert!(matches!(&world.events[side][..], [event] if lacks(event)), "{:?}", world.events);
        assert!(
            matches!(&world.events[1 - side][..], [LinkEvent::PathLost(PathError::Lost { .. })]),
            "{:?}",
            world.events
        );
        world.connect();
        world.until_done();
        let sinks = world.nodes[1].sinks.values();
        assert!(sinks.into_iter().all(|sink| sink.ended == Some(length) && sink.aborted.is_none()));
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
    // The other end finds the question first.
    step(&mut world, 1 - early);
    world.until_done();
    world.rest();
    world.assert_undisturbed();
    assert!(world.links.iter().all(dflow_transport::Link::is_up));
}
