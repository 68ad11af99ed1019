//! dflow: one window, mapped by all readers.

use crate::failure::{Failure, Trying};
use crate::fanout::{Fanout, Shape};
use crate::ours::{Ours, Own, Receiver, Sender, idle, window_for};
use crate::peers::unix_socket::{connect, listen};
use crate::subject::{End, Place, Waiting};

/// A stream with many readers.
pub static SLEEPING: Ours = Ours {
    name: "dflow",
    about: "one stream, its window mapped by all readers, which sleep on the writer's word",
    waiting: Waiting::Sleeping,
};

impl Fanout for Ours {
    fn writer(&self, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure> {
        let mut sender = Sender::new(Own::new(idle(self.waiting))?, window_for(shape.message), shape.message)?;
        let listener = listen(place)?;
        for _ in 0..shape.readers {
            let (socket, _) = listener.accept().trying("accept a reader")?;
            sender.meet(&socket)?;
        }
        Ok(Box::new(sender))
    }

    fn reader(&self, _: usize, place: &Place, shape: Shape) -> Result<Box<dyn End>, Failure> {
        Ok(Box::new(Receiver::meet(Own::new(idle(self.waiting))?, &connect(place)?, shape.message)?))
    }
}
