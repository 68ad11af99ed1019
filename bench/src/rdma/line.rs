//! The line between the two machines of a measurement: TCP, a line of JSON for each message.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Failure, Trying};

/// How long the other machine may take to answer, whatever it is doing.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the other machine may take to come.
const MEETING: Duration = Duration::from_secs(60);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_millis(50);

/// One end of the line.
pub struct Line {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    /// What the other machine has failed with, where something else was expected.
    failed: Option<Failure>,
}

/// What goes over the line.
#[derive(Serialize, Deserialize)]
enum Said {
    Value(Value),
    Failed(Failure),
}

impl Line {
    /// Waits for the other machine to call.
    pub fn listen(address: SocketAddr) -> Result<Line, Failure> {
        let listener = TcpListener::bind(address).trying(format_args!("listen on {address}"))?;
        let (stream, _) = listener.accept().trying("accept the other machine")?;
        Line::new(stream)
    }

    /// Calls the other machine, which may not be up yet.
    pub fn call(address: SocketAddr) -> Result<Line, Failure> {
        let deadline = Instant::now() + MEETING;
        loop {
            match TcpStream::connect(address) {
                Ok(stream) => return Line::new(stream),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error)
                        .trying(format_args!("reach {address}; is 'dflow-bench rdma --listen' running there?"));
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    fn new(stream: TcpStream) -> Result<Line, Failure> {
        stream.set_nodelay(true).trying("set up the line")?;
        let reader = BufReader::new(stream.try_clone().trying("set up the line")?);
        Ok(Line { stream, reader, failed: None })
    }

    /// The address of the other machine.
    pub fn peer(&self) -> Result<SocketAddr, Failure> {
        self.stream.peer_addr().trying("learn the address of the other machine")
    }

    /// The own address towards it.
    pub fn own(&self) -> Result<SocketAddr, Failure> {
        self.stream.local_addr().trying("learn the own address")
    }

    /// Sends a message.
    pub fn tell(&mut self, message: &impl Serialize) -> Result<(), Failure> {
        let value = serde_json::to_value(message).trying("encode a message")?;
        self.say(&Said::Value(value))
    }

    /// Says that this machine cannot go on with what both are doing; the other one fails with it.
    pub fn tell_failure(&mut self, failure: &Failure) -> Result<(), Failure> {
        self.say(&Said::Failed(failure.clone()))
    }

    /// The next message, which must come soon.
    pub fn hear<M: DeserializeOwned>(&mut self) -> Result<M, Failure> {
        match self.soon()? {
            Said::Value(value) => serde_json::from_value(value).trying("decode a message"),
            Said::Failed(failure) => {
                let failure = Failure::new(format!("the other machine: {failure}"));
                self.failed = Some(failure.clone());
                Err(failure)
            }
        }
    }

    /// The outcome of what the other machine was doing, past all that it has said before.
    pub fn outcome<M: DeserializeOwned>(&mut self) -> Result<M, Failure> {
        loop {
            if let Some(failure) = self.failed.take() {
                return Err(failure);
            }
            match self.soon()? {
                Said::Value(value) => {
                    if let Ok(outcome) = serde_json::from_value(value) {
                        return Ok(outcome);
                    }
                }
                Said::Failed(failure) => return Err(Failure::new(format!("the other machine: {failure}"))),
            }
        }
    }

    /// The next order, whenever it comes; `None` when the other machine has ended. What is left of an order that has
    /// failed is passed over.
    pub fn order<M: DeserializeOwned>(&mut self) -> Result<Option<M>, Failure> {
        self.stream.set_read_timeout(None).trying("set up the line")?;
        loop {
            match self.next()? {
                None => return Ok(None),
                Some(Said::Value(value)) => {
                    if let Ok(order) = serde_json::from_value(value) {
                        return Ok(Some(order));
                    }
                }
                Some(Said::Failed(_)) => {}
            }
        }
    }

    /// Sends a message and gets that which the other machine sends at this point.
    pub fn swap<M: Serialize + DeserializeOwned>(&mut self, mine: &M) -> Result<M, Failure> {
        self.tell(mine)?;
        self.hear()
    }

    fn say(&mut self, what: &Said) -> Result<(), Failure> {
        let mut text = serde_json::to_string(what).trying("encode a message")?;
        text.push('\n');
        self.stream.write_all(text.as_bytes()).trying("tell the other machine something")
    }

    fn soon(&mut self) -> Result<Said, Failure> {
        self.stream.set_read_timeout(Some(PATIENCE)).trying("set up the line")?;
        self.next()?.ok_or_else(|| Failure::new("the other machine has ended"))
    }

    fn next(&mut self) -> Result<Option<Said>, Failure> {
        let mut text = String::new();
        match self.reader.read_line(&mut text) {
            Ok(0) => Ok(None),
            Ok(_) => serde_json::from_str(&text).trying("decode a message").map(Some),
            Err(error) => Err(error).trying("hear from the other machine"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_fails_with_ends_the_order_of_both() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let there = std::thread::spawn(move || {
            let mut line = Line::listen(free).unwrap();
            assert_eq!(line.order::<String>().unwrap(), Some("first".into()));
            assert_eq!(line.swap(&2).unwrap(), 1);
            // Both wait for the other's next message, and the other one has failed.
            let failure = line.swap(&()).unwrap_err();
            assert!(failure.to_string().contains("no luck"), "{failure}");
            line.tell_failure(&failure).unwrap();
            assert_eq!(line.order::<String>().unwrap(), Some("second".into()));
            line.tell(&7).unwrap();
            assert_eq!(line.order::<String>().unwrap(), None);
        });
        let mut line = Line::call(free).unwrap();
        line.tell(&"first").unwrap();
        assert_eq!(line.swap(&1).unwrap(), 2);
        line.tell_failure(&Failure::new("no luck")).unwrap();
        line.outcome::<u32>().unwrap_err();
        line.tell(&"second").unwrap();
        assert_eq!(line.outcome::<u32>().unwrap(), 7);
        drop(line);
        there.join().unwrap();
    }
}
