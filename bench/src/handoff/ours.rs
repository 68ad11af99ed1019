//! dflow: a chunk is written into the stream's window and read there.

use crate::failure::{Failure, Trying};
use crate::handoff::Handoff;
use crate::ours::{Duplex, Ours, idle};
use crate::peers::unix_socket::{connect, listen};
use crate::subject::{End, Place, Side, Waiting};

/// The reader spins on the words.
pub static SPINNING: Ours =
    Ours { name: "dflow", about: "a stream's Writer and Reader, spinning", waiting: Waiting::Spinning };

/// The reader sleeps in futex_waitv.
pub static SLEEPING: Ours =
    Ours { name: "dflow-sleeping", about: "the same, the reader sleeps on its words", waiting: Waiting::Sleeping };

impl Handoff for Ours {
    fn join(&self, side: Side, place: &Place, size: usize) -> Result<Box<dyn End>, Failure> {
        let socket = match side {
            Side::First => listen(place)?.accept().trying("accept the other process")?.0,
            Side::Second => connect(place)?,
        };
        Ok(Box::new(Duplex::join(&socket, idle(self.waiting), size, side == Side::First)?))
    }
}
