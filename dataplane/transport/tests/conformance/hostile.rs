//! Peers that violate the protocol, over every path: they are disconnected and counted, and other peers are not
//! affected.
//!
//! Here is what can be said and written through the end of a path. What a path itself does not let through is sent to
//! each kind of path by a peer that is made of what lies beneath it:
//! - messages that are none, of a wrong length, cut short: `sim.rs`, `quic_peers.rs`, `rdma`;
//! - bytes outside of a window, for one that was withdrawn or is another peer's: `quic_peers.rs`, `rdma`; in the
//!   simulated network bytes go where the window is and nowhere else;
//! - floods: of subscriptions in the protocol's own tests, of messages and connections `quic_peers.rs`, of messages
//!   `rdma`; the simulated network has room for everything.

use super::node::{Layout, Node};
use super::pattern;
use super::world::{Network, World, stream};
use dflow_protocol::exchange::Order;
use dflow_protocol::limits::{ARENA_SLOT, MAX_FLOWS, MAX_INLINE, PEER_VERSION};
use dflow_protocol::wire::{FlowId, Grant, GrantId, PeerMessage, StreamKey};
use dflow_shm::{Access, Segment, SegmentKind};
use dflow_transport::{Chunk, Link, LinkEvent, Path, PathEvent};
use std::sync::Arc;

/// The stream that the attacked node reads from the attacker.
const READ: FlowId = FlowId(1);
/// The stream that the attacker reads, with credit for 1000 bytes.
const WRITTEN: FlowId = FlowId(5);
/// The incarnation of the path between the two.
const INCARNATION: u64 = 1;

/// An attacked node, the end of the path that the attacker has, and two others, between which a stream is on its way.
struct Attack<N> {
    bystanders: World<N>,
    node: Node,
    link: Link,
    hostile: Box<dyn Path>,
    seen: Vec<PathEvent>,
}

impl<N: Network> Attack<N> {
    fn new(network: N) -> Self {
        let mut bystanders = World::new(network);
        bystanders.nodes[0].write(stream(9), 1 << 20).limit = 1 << 19;
        let (reader, to) = (&mut bystanders.nodes[1], &mut bystanders.links[1]);
        reader.read(to, stream(9), Layout::Ring);
        let [attacked, hostile] = bystanders.network.connect_beside();
        let (mut node, mut link) = (Node::default(), Link::new(71));
        link.connect(attacked, INCARNATION);
        node.write(stream(1), 1 << 20);
        assert_eq!(node.read(&mut link, stream(2), Layout::Ring), READ);
        Self { bystanders, node, link, hostile, seen: Vec::new() }
    }

    /// A world with an attacker that has connected correctly and has sent this many bytes of its stream.
    fn begun(network: N, sent: u64) -> Self {
        let mut attack = Self::new(network);
        attack.say(&begin());
        attack.say(&PeerMessage::Subscribe { flow: WRITTEN, stream: stream(1), received: 0, until: 1000 });
        for at in (0..sent).step_by(MAX_INLINE) {
            let bytes = bytes_of(stream(2), at, (sent - at).min(MAX_INLINE as u64));
            attack.say(&PeerMessage::Inline { flow: READ, at, bytes });
        }
        attack.until(|attack| attack.node.sinks[&READ].read == sent);
        attack
    }

    fn say(&mut self, message: &PeerMessage) {
        self.hostile.send(message).expect("a message that can be encoded");
    }

    #[track_caller]
    fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let busy = self.node.work_on_all(&mut self.link) | self.link.step(&mut self.node);
            self.hostile.poll(&mut self.seen);
            if !(self.bystanders.step() | busy) {
                let _ = self.link.settle(&mut self.node);
                assert!(self.bystanders.network.idle(), "nothing moves any more");
            }
        }
    }

    /// The path is closed and the violation counted; the streams wait for the next path. Other nodes are not affected.
    #[track_caller]
    fn assert_cut_off(mut self, what: &dyn std::fmt::Debug) {
        self.until(|attack| attack.link.path_kind().is_none());
        assert!(matches!(self.link.take_events()[..], [LinkEvent::Violated(_)]), "{what:?}");
        assert_eq!(self.link.stats().violations, 1);
        assert!(self.node.sinks.values().all(|sink| sink.aborted.is_none() && sink.ended.is_none()), "{what:?}");
        let others = &mut self.bystanders;
        others.nodes[0].sources.values_mut().for_each(|source| source.limit = u64::MAX);
        others.until_done();
        others.assert_undisturbed();
        assert!(others.links.iter().all(|link| link.stats().violations == 0));
    }
}

fn begin() -> PeerMessage {
    PeerMessage::Begin { version: PEER_VERSION, life: 9, incarnation: INCARNATION, flows: 1 }
}

fn bytes_of(stream: StreamKey, at: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    pattern::fill(stream, at, &mut bytes);
    bytes
}

pub fn a_peer_that_breaks_the_rules_is_cut_off<N: Network>(mut make: impl FnMut() -> N) {
    let (flow, stream) = (WRITTEN, stream(1));
    let grant = Grant { id: GrantId(1), base: 0, size: 4096, ring: true, address: 0, key: 0 };
    let nonsense = [
        begin(),
        PeerMessage::Subscribe { flow, stream, received: 0, until: 10 },
        PeerMessage::Subscribe { flow: FlowId(4), stream, received: 0, until: 10 },
        PeerMessage::Credit { flow, received: 0, until: 10 },
        PeerMessage::Credit { flow, received: 1 << 40, until: 1 << 41 },
        PeerMessage::Credit { flow: FlowId(6), received: 0, until: 1 },
        PeerMessage::Grant { flow: FlowId(77), grant, until: 1 },
        PeerMessage::Close { flow: FlowId(1000), received: 0 },
        // Of the flow that the attacked side reads and of which 300 bytes have come.
        PeerMessage::Inline { flow: READ, at: ARENA_SLOT, bytes: vec![1] },
        PeerMessage::Inline { flow: READ, at: 0, bytes: vec![1] },
        PeerMessage::Finished { flow: READ, length: 3 },
    ];
    for message in nonsense {
        let mut attack = Attack::begun(make(), 300);
        attack.say(&message);
        attack.assert_cut_off(&message);
    }
}

pub fn a_peer_that_begins_badly_is_cut_off<N: Network>(mut make: impl FnMut() -> N) {
    let begin = |version, incarnation, flows| PeerMessage::Begin { version, life: 9, incarnation, flows };
    let early = PeerMessage::Credit { flow: WRITTEN, received: 0, until: 1 };
    let beginnings = [
        vec![early.clone()],
        // One of its two subscriptions is missing.
        vec![
            begin(PEER_VERSION, INCARNATION, 2),
            PeerMessage::Subscribe { flow: WRITTEN, stream: stream(1), received: 0, until: 1000 },
            early,
        ],
        vec![begin(PEER_VERSION + 1, INCARNATION, 0)],
        vec![begin(PEER_VERSION, INCARNATION + 1, 0)],
        vec![begin(PEER_VERSION, INCARNATION, MAX_FLOWS as u32 + 1)],
    ];
    for messages in beginnings {
        let mut attack = Attack::new(make());
        messages.iter().for_each(|message| attack.say(message));
        attack.assert_cut_off(&messages);
    }
}

/// The reader has stopped and its window is full, so that further bytes would overwrite unread ones.
pub fn bytes_past_the_credit_are_cut_off(network: impl Network) {
    let mut attack = Attack::begun(network, ARENA_SLOT);
    attack.node.sinks.get_mut(&READ).expect("it is read").limit = ARENA_SLOT;
    let granted = |event: &PathEvent| match event {
        PathEvent::Message(PeerMessage::Grant { flow: READ, grant, until }) => Some((*grant, *until)),
        _ => None,
    };
    attack.until(|attack| attack.seen.iter().any(|event| granted(event).is_some()));
    let (grant, until) = attack.seen.iter().find_map(granted).expect("just seen");
    let mut at = ARENA_SLOT;
    while at < until {
        at += attack.write(grant, at, (until - at).min(32 * 1024));
    }
    attack.until(|attack| attack.node.sinks[&READ].arrived == until);
    attack.write(grant, at, 100);
    attack.assert_cut_off(&"bytes past the credit");
}

impl<N: Network> Attack<N> {
    /// Writes bytes of its stream to their place; how many.
    fn write(&mut self, grant: Grant, at: u64, length: u64) -> u64 {
        self.until(|attack| attack.hostile.has_room());
        let segment = Segment::create("hostile", length as usize, SegmentKind::FunctionWritten).expect("memory");
        let bytes = bytes_of(stream(2), at, length);
        assert_eq!(rustix::io::pwrite(&segment, &bytes, 0).expect("written"), bytes.len());
        let memory = Arc::new(segment.map(Access::Write).expect("a mapping"));
        let order = Order { flow: READ, grant: Some(grant), at, most: length };
        self.hostile.write(&order, Chunk::new(memory, 0..length as usize)).expect("it is there");
        length
    }
}
