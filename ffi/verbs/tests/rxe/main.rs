//! The verbs on a real device, between two queue pairs on one machine. `scripts/soft-roce` creates the device.

#[path = "../common/mod.rs"]
mod common;

mod devices;
mod lifetimes;
mod limits;
mod movement;
mod refusals;
mod windows;

use common::Side;
use dflow_verbs::{Completion, Connection, Endpoint, MemoryRegion, RemoteMemory, Status};

const DEPTH: u32 = 32;

/// Two connected ends.
fn connected() -> (Side, Side) {
    let (one, two) = (Side::new(DEPTH), Side::new(DEPTH));
    connect(&one, &two, &Connection::default());
    (one, two)
}

fn connect(one: &Side, two: &Side, connection: &Connection) {
    // Encoded and decoded, as between two machines.
    let over_the_wire = |endpoint: Endpoint| Endpoint::from_bytes(&endpoint.to_bytes()).expect("an endpoint");
    one.pair.connect(&over_the_wire(two.pair.endpoint()), connection).expect("connected");
    two.pair.connect(&over_the_wire(one.pair.endpoint()), connection).expect("connected");
}

fn remote(region: &MemoryRegion) -> RemoteMemory {
    region.remote().expect("open to peers")
}

impl Side {
    /// The next completion, which must be the success of this request.
    fn succeed(&self, id: u64) -> Completion {
        let completion = self.next();
        assert_eq!((completion.id, completion.status), (id, Status::Success), "{completion:?}");
        completion
    }
}
