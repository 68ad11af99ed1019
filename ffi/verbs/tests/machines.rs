//! The verbs between two machines. `scripts/soft-roce` starts this on both, and they exchange data through a shared
//! directory. It is a single test because its parts need both ends at the same time and in the same order.

mod common;

use common::{PATIENCE, Side, address, bytes, pattern};
use dflow_verbs::{
    AsyncEvent, Connection, Data, Endpoint, PortState, ReceiveRequest, RegionAccess, RemoteKey, RemoteMemory, Status,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// How far the other machine may lag behind.
const MEETING: Duration = Duration::from_secs(60);

struct Meeting {
    folder: PathBuf,
    node: u8,
}

impl Meeting {
    fn new() -> Self {
        let node = env::var("DFLOW_VM_NODE").expect("run this test through scripts/soft-roce");
        let folder = env::var_os("DFLOW_VM_EXCHANGE").expect("run this test through scripts/soft-roce");
        Self { folder: folder.into(), node: node.parse().expect("1 or 2") }
    }

    /// Publishes data for the other machine under a name, and returns what the other has published under it.
    fn meet(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let place = |node: u8| self.folder.join(format!("{name}-{node}"));
        let part = self.folder.join(format!("{name}-{}.part", self.node));
        fs::write(&part, bytes).expect("written");
        fs::rename(part, place(self.node)).expect("renamed");
        let deadline = Instant::now() + MEETING;
        loop {
            if let Ok(bytes) = fs::read(place(3 - self.node)) {
                return bytes;
            }
            assert!(Instant::now() < deadline, "the other machine did not reach '{name}'");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn connected(meeting: &Meeting, name: &str) -> Side {
    let side = Side::new(16);
    let peer = meeting.meet(name, &side.pair.endpoint().to_bytes());
    let peer = Endpoint::from_bytes(&peer).expect("an endpoint");
    assert_eq!(peer.gid.to_ip(), address("DFLOW_VM_PEER"), "the peer's GID is that of its rdma0");
    assert_eq!(side.pair.endpoint().gid.to_ip(), address("DFLOW_VM_ADDRESS"));
    side.pair.connect(&peer, &Connection { timeout: 12, retries: 4, ..Connection::default() }).expect("connected");
    side
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip");
    assert!(status.success(), "ip {arguments:?}");
}

fn event(side: &Side, wanted: AsyncEvent) {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        while let Some(event) = side.context.next_event().expect("read") {
            if event == wanted {
                return;
            }
            seen.push(event);
        }
        let left =
            deadline.checked_duration_since(Instant::now()).unwrap_or_else(|| panic!("{wanted:?}: only {seen:?}"));
        let timeout = Timespec::try_from(left).expect("short");
        let mut descriptors = [PollFd::new(&side.context, PollFlags::IN)];
        rustix::event::poll(&mut descriptors, Some(&timeout)).expect("polled");
    }
}

#[test]
fn two_machines() {
    let meeting = Meeting::new();
    let side = connected(&meeting, "first");
    let (target, into) = side.region(1 << 20, RegionAccess::RemoteWrite);
    let (source, from) = side.region(1 << 20, RegionAccess::Source);
    source.write(0, &pattern(meeting.node, 1 << 20));
    side.pair.post_receives(&[ReceiveRequest { id: 1, into: None }]).expect("posted");
    let place = into.remote().expect("open to peers");
    let grant = [place.address.to_le_bytes().as_slice(), &place.key.number().to_le_bytes()].concat();
    let grant = meeting.meet("grant", &grant);
    let place = RemoteMemory {
        address: u64::from_le_bytes(grant[..8].try_into().expect("8 bytes")),
        key: RemoteKey::from_number(u32::from_le_bytes(grant[8..].try_into().expect("4 bytes"))),
    };

    // Both write to each other at the same time.
    let data = Data::Memory(from.slice(0..1 << 20).expect("within"));
    side.pair.write_with_immediate(2, data, place, u32::from(meeting.node), true).expect("posted");
    let mut done = [side.next(), side.next()];
    done.sort_by_key(|completion| completion.id);
    assert_eq!((done[0].id, done[0].status, done[0].bytes), (1, Status::Success, 1 << 20), "{done:?}");
    assert_eq!(done[0].immediate, Some(u32::from(3 - meeting.node)));
    assert_eq!((done[1].id, done[1].status), (2, Status::Success), "{done:?}");
    assert_eq!(bytes(&target, 0..1 << 20), pattern(3 - meeting.node, 1 << 20));
    meeting.meet("written", &[]);

    // The first machine loses its link: it sees that as an event, the second as a failed request.
    if meeting.node == 1 {
        ip(&["link", "set", "rdma0", "down"]);
        event(&side, AsyncEvent::PortError(1));
        assert_ne!(side.context.port(1).expect("a port").state, PortState::Active);
        meeting.meet("down", &[]);
        meeting.meet("lost", &[]);
        ip(&["link", "set", "rdma0", "up"]);
        event(&side, AsyncEvent::PortActive(1));
        assert_eq!(side.context.port(1).expect("a port").state, PortState::Active);
    } else {
        meeting.meet("down", &[]);
        side.pair.write(3, Data::Inline(b"lost"), place, true).expect("posted");
        assert_eq!(side.next().status, Status::RetryExceeded);
        meeting.meet("lost", &[]);
    }
    meeting.meet("up", &[]);
    drop((source, target, from, into));
    drop(side);

    // A new connection works.
    let side = connected(&meeting, "second");
    let (inbox, receive) = side.region(64, RegionAccess::Receive);
    side.pair
        .post_receives(&[ReceiveRequest { id: 1, into: Some(receive.slice(0..64).expect("within")) }])
        .expect("posted");
    meeting.meet("ready", &[]);
    side.pair.send(2, Data::Inline(&[meeting.node; 5]), true).expect("posted");
    let mut done = [side.next(), side.next()];
    done.sort_by_key(|completion| completion.id);
    assert!(done.iter().all(|completion| completion.status == Status::Success), "{done:?}");
    assert_eq!(bytes(&inbox, 0..5), [3 - meeting.node; 5]);
    meeting.meet("end", &[]);
}
