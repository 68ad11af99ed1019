//! The control connection between the two machines of a measurement: TCP, with a line of JSON per message.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Failure, Trying};

/// The time limit of an answer, longer than any measurement.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for the other machine to listen.
const MEETING: Duration = Duration::from_secs(60);
/// The pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// One end of the control connection.
pub struct Line {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    /// A failure of the other machine, received instead of an expected message.
    failed: Option<Failure>,
}

/// A message on the control connection.
#[derive(Serialize, Deserialize)]
enum Answer {
    Value(Value),
    Failed(Failure),
}

impl Line {
    /// Waits for the other machine to connect.
    pub fn listen(address: SocketAddr) -> Result<Line, Failure> {
        let listener = TcpListener::bind(address).trying(format_args!("listen on {address}"))?;
        let (stream, _) = listener.accept().trying("accept the other machine")?;
        Line::new(stream)
    }

    /// Connects to the other machine, which may not listen yet.
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
        self.stream.peer_addr().trying("get the address of the other machine")
    }

    /// The local address of the connection.
    pub fn own(&self) -> Result<SocketAddr, Failure> {
        self.stream.local_addr().trying("get the local address")
    }

    /// Sends a message.
    pub fn send(&mut self, message: &impl Serialize) -> Result<(), Failure> {
        let value = serde_json::to_value(message).trying("encode a message")?;
        self.say(&Answer::Value(value))
    }

    /// Reports that this machine cannot continue the current order, so that it fails on the other machine too.
    pub fn send_failure(&mut self, failure: &Failure) -> Result<(), Failure> {
        self.say(&Answer::Failed(failure.clone()))
    }

    /// Receives the next message, with a time limit.
    pub fn receive<M: DeserializeOwned>(&mut self) -> Result<M, Failure> {
        match self.soon()? {
            Answer::Value(value) => serde_json::from_value(value).trying("decode a message"),
            Answer::Failed(failure) => {
                let failure = Failure::new(format!("the other machine: {failure}"));
                self.failed = Some(failure.clone());
                Err(failure)
            }
        }
    }

    /// Receives the result of the other machine's part, skipping any earlier messages.
    pub fn outcome<M: DeserializeOwned>(&mut self) -> Result<M, Failure> {
        loop {
            if let Some(failure) = self.failed.take() {
                return Err(failure);
            }
            match self.soon()? {
                Answer::Value(value) => {
                    if let Ok(outcome) = serde_json::from_value(value) {
                        return Ok(outcome);
                    }
                }
                Answer::Failed(failure) => return Err(Failure::new(format!("the other machine: {failure}"))),
            }
        }
    }

    /// Receives the next order, without a time limit; `None` if the other machine has ended. Skips remaining messages
    /// of a failed order.
    pub fn order<M: DeserializeOwned>(&mut self) -> Result<Option<M>, Failure> {
        self.stream.set_read_timeout(None).trying("set up the line")?;
        loop {
            match self.next()? {
                None => return Ok(None),
                Some(Answer::Value(value)) => {
                    if let Ok(order) = serde_json::from_value(value) {
                        return Ok(Some(order));
                    }
                }
                Some(Answer::Failed(_)) => {}
            }
        }
    }

    /// Sends a message and receives the message that the other machine sends at the same point.
    pub fn swap<M: Serialize + DeserializeOwned>(&mut self, mine: &M) -> Result<M, Failure> {
        self.send(mine)?;
        self.receive()
    }

    fn say(&mut self, what: &Answer) -> Result<(), Failure> {
        let mut text = serde_json::to_string(what).trying("encode a message")?;
        text.push('\n');
        self.stream.write_all(text.as_bytes()).trying("send to the other machine")
    }

    fn soon(&mut self) -> Result<Answer, Failure> {
        self.stream.set_read_timeout(Some(PATIENCE)).trying("set up the line")?;
        self.next()?.ok_or_else(|| Failure::new("the other machine has ended"))
    }

    fn next(&mut self) -> Result<Option<Answer>, Failure> {
        let mut text = String::new();
        match self.reader.read_line(&mut text) {
            Ok(0) => Ok(None),
            Ok(_) => serde_json::from_str(&text).trying("decode a message").map(Some),
            Err(error) => Err(error).trying("receive from the other machine"),
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
            // Each side waits for the other's next message, and one of them has failed.
            let failure = line.swap(&()).unwrap_err();
            assert!(failure.to_string().contains("no luck"), "{failure}");
            line.send_failure(&failure).unwrap();
            assert_eq!(line.order::<String>().unwrap(), Some("second".into()));
            line.send(&7).unwrap();
            assert_eq!(line.order::<String>().unwrap(), None);
        });
        let mut line = Line::call(free).unwrap();
        line.send(&"first").unwrap();
        assert_eq!(line.swap(&1).unwrap(), 2);
        line.send_failure(&Failure::new("no luck")).unwrap();
        line.outcome::<u32>().unwrap_err();
        line.send(&"second").unwrap();
        assert_eq!(line.outcome::<u32>().unwrap(), 7);
        drop(line);
        there.join().unwrap();
    }
}
