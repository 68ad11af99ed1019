//! dflow: a stream through a ring, or through a window as long as itself.

use crate::failure::{Failure, Trying};
use crate::ours::{Ours, Own, Receiver, Sender, idle};
use crate::peers::unix_socket::{connect, listen};
use crate::stream::{Layout, Stream};
use crate::subject::{End, Place, Side, Waiting};

/// Both ends spin on the words.
pub static SPINNING: Ours =
    Ours { name: "dflow", about: "a stream's Writer and Reader, spinning", waiting: Waiting::Spinning };

/// Waiting ends sleep in futex_waitv.
pub static SLEEPING: Ours =
    Ours { name: "dflow-sleeping", about: "the same, waiting ends sleep", waiting: Waiting::Sleeping };

impl Stream for Ours {
    fn can_keep(&self) -> bool {
        self.waiting == Waiting::Spinning
    }

    fn join(&self, side: Side, place: &Place, layout: Layout) -> Result<Box<dyn End>, Failure> {
        let own = Own::new(idle(self.waiting))?;
        Ok(match side {
            Side::First => {
                let mut sender = Sender::new(own, layout.window, layout.message)?;
                let (socket, _) = listen(place)?.accept().trying("accept the other process")?;
                sender.meet(&socket)?;
                Box::new(sender)
            }
            Side::Second => Box::new(Receiver::meet(own, &connect(place)?, layout.message)?),
        })
    }
}
