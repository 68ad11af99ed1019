//! A stream of bare quinn in each direction.

use std::ops::Range;

use hdrhistogram::Histogram;
use quinn::{Connection, RecvStream, SendStream};

use crate::clock::Ticks;
use crate::failure::{Failure, Trying};
use crate::payload::{Seen, bytes, bytes_mut, fill, private};
use crate::quic::transfer::{MESSAGE, PART, Times, first_word};
use crate::subject::Side;

/// The first message of both sides of a connection.
pub(super) const GREETING: [u8; 12] = *b"hello, world";

/// Checks the words of a message that begins with `first`.
pub(super) fn check(words: &[u64], first: u64) -> Result<(), Failure> {
    let seen = Seen::reading(words);
    if seen.first != first {
        return Err(Failure::new(format!("the word {} arrived in place of {first}", seen.first)));
    }
    seen.check(size_of_val(words))
}

/// A stream in each direction.
pub(super) struct Pipe {
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
    words: Vec<u64>,
    // Keeps the connection open.
    _connection: Connection,
}

impl Pipe {
    /// Opens it on a connection, for messages of this many bytes.
    pub(super) async fn new(connection: Connection, side: Side, message: usize) -> Result<Pipe, Failure> {
        let (send, receive) = match side {
            Side::First => {
                let (mut send, receive) = connection.open_bi().await.trying("open a stream")?;
                // quinn announces a stream to the other side with its first byte.
                send.write_all(&GREETING).await.trying("greet")?;
                (send, receive)
            }
            Side::Second => {
                let (send, mut receive) = connection.accept_bi().await.trying("accept a stream")?;
                receive.read_exact(&mut [0; GREETING.len()]).await.trying("be greeted")?;
                (send, receive)
            }
        };
        Ok(Pipe { send, receive, words: private(message), _connection: connection })
    }

    async fn write(&mut self, first: u64) -> Result<(), Failure> {
        fill(&mut self.words, first);
        self.send.write_all(bytes(&self.words)).await.trying("write")
    }

    async fn read(&mut self, first: u64) -> Result<(), Failure> {
        self.receive.read_exact(bytes_mut(&mut self.words)).await.trying("read")?;
        check(&self.words, first)
    }

    /// Sends, or receives, the messages with these numbers.
    pub(super) async fn stream(&mut self, side: Side, numbers: Range<u64>) -> Result<(), Failure> {
        for number in numbers {
            match side {
                Side::First => self.write(first_word(number, MESSAGE)).await?,
                Side::Second => self.read(first_word(number, MESSAGE)).await?,
            }
        }
        self.agree(side).await
    }

    /// The reader confirms that it has everything.
    pub(super) async fn agree(&mut self, side: Side) -> Result<(), Failure> {
        match side {
            Side::First => {
                self.receive.read_exact(&mut [0]).await.trying("receive the confirmation that everything has arrived")
            }
            Side::Second => self.send.write_all(&[1]).await.trying("confirm that everything has arrived"),
        }
    }

    /// Messages there and back, one at a time.
    pub(super) async fn trips(
        &mut self,
        side: Side,
        numbers: Range<u64>,
        ticks: Ticks,
    ) -> Result<Histogram<u64>, Failure> {
        let mut times = Times::new(ticks);
        for number in numbers {
            let first = first_word(number, PART);
            if side == Side::First {
                let began = times.begin();
                self.write(first).await?;
                self.read(first).await?;
                times.end(began);
            } else {
                self.read(first).await?;
                self.write(first).await?;
            }
        }
        Ok(times.into_histogram())
    }
}
