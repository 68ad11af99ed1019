//! Bare quinn, on which dflow's QUIC path is built, with nothing above it.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::mpsc;

use dflow_transport::identity::Identity;
use dflow_transport::quic::{NodeError, QuicSettings, bare_endpoint, default_endpoint};
use hdrhistogram::Histogram;
use quinn::{Connection, Endpoint};
use tokio::runtime::{Builder, Handle};

use crate::clock::Ticks;
use crate::failure::{Failure, Trying};
use crate::payload::{bytes, bytes_mut, fill, private};
use crate::quic::handed;
use crate::quic::pipe::{GREETING, Pipe, check};
use crate::quic::rendezvous::{Rendezvous, name};
use crate::quic::transfer::{MESSAGE, PART, Party, Times, Transfer, Work, first_word};
use crate::subject::{Card, Role, Side, Subject, Waiting};

/// quinn as dflow tunes it.
pub static TUNED: Bare = Bare {
    name: "quinn-tuned",
    about: "bare quinn with dflow's tuning, TLS and sockets; one thread per side",
    role: Role::Limit,
    endpoint: tuned,
    handed: false,
};

/// The same with encryption on another thread than writing and reading, as it always is between functions, which are
/// processes of their own.
pub static HANDED: Bare = Bare {
    name: "quinn-handed",
    about: "quinn-tuned with a separate thread on each side that writes or reads the words, through 2 MiB of buffers",
    role: Role::Peer,
    endpoint: tuned,
    handed: true,
};

/// quinn with its defaults.
pub static DEFAULTS: Bare = Bare {
    name: "quinn-defaults",
    about: "the same with quinn's defaults",
    role: Role::Peer,
    endpoint: defaults,
    handed: false,
};

fn tuned(address: SocketAddr, peer: IpAddr, identity: &Identity) -> Result<Endpoint, NodeError> {
    bare_endpoint(address, identity, &QuicSettings::default().for_peer(peer))
}

fn defaults(address: SocketAddr, _peer: IpAddr, identity: &Identity) -> Result<Endpoint, NodeError> {
    default_endpoint(address, identity)
}

/// A configuration of quinn.
pub struct Bare {
    name: &'static str,
    about: &'static str,
    role: Role,
    /// Creates an endpoint at this address, for connections with that peer.
    endpoint: fn(SocketAddr, IpAddr, &Identity) -> Result<Endpoint, NodeError>,
    /// Whether a separate thread writes or reads the words of a stream.
    handed: bool,
}

impl Subject for Bare {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: self.role, waiting: Waiting::Sleeping }
    }
}

impl Transfer for Bare {
    fn does(&self, work: Work) -> bool {
        !self.handed || work == Work::Stream
    }

    fn join(&self, work: Work, side: Side, rendezvous: &Rendezvous) -> Result<Box<dyn Party>, Failure> {
        let thread = Thread::start()?;
        let identity = rendezvous.identity(side)?;
        let (own, peer) = (rendezvous.own_address(side), rendezvous.own_address(side.other()).ip());
        let make = self.endpoint;
        let endpoint = thread.run(async move { make(own, peer, &identity).trying("set up quinn") })??;
        let peer = if side == Side::First {
            rendezvous.receive()?
        } else {
            let address = endpoint.local_addr().trying("get the address of a socket")?;
            rendezvous.send(address)?;
            address
        };
        let stage = Stage { endpoint, peer, ticks: Ticks::calibrated() };
        let connection = if work == Work::Connection { None } else { Some(thread.run(stage.clone().meet(side))??) };
        let play = match (work, connection) {
            (Work::Stream | Work::RoundTrip, Some(connection)) => {
                let pipe = Pipe::new(connection, side, if work == Work::Stream { MESSAGE } else { PART });
                let pipe = thread.run(pipe)??;
                if self.handed { Play::Handed(pipe) } else { Play::Pipe(pipe) }
            }
            (_, Some(connection)) => Play::Streams(connection),
            (_, None) => Play::Connections,
        };
        Ok(Box::new(BareParty { thread, stage, play: Some(play), work, side }))
    }
}

/// A thread with an event loop that runs as long as the process, so that packets are also answered between rounds.
struct Thread(Handle);

impl Thread {
    fn start() -> Result<Thread, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().trying("start an event loop")?;
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        Ok(Thread(handle))
    }

    /// Runs a task on the thread and waits for it.
    fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Result<T, Failure> {
        let (say, outcome) = mpsc::sync_channel(1);
        self.0.spawn(async move {
            // If the waiter is gone, the process is about to exit.
            let _ = say.send(task.await);
        });
        outcome.recv().trying("get the result of a task, which has panicked")
    }
}

/// The common part of all measurements.
#[derive(Clone)]
struct Stage {
    endpoint: Endpoint,
    peer: SocketAddr,
    ticks: Ticks,
}

impl Stage {
    async fn meet(self, side: Side) -> Result<Connection, Failure> {
        match side {
            Side::First => self.dial().await,
            Side::Second => self.accept().await,
        }
    }

    async fn dial(&self) -> Result<Connection, Failure> {
        let connecting = self.endpoint.connect(self.peer, name(Side::Second)).trying("dial")?;
        connecting.await.trying("connect")
    }

    async fn accept(&self) -> Result<Connection, Failure> {
        let incoming = self.endpoint.accept().await.ok_or_else(|| Failure::new("the endpoint is closed"))?;
        incoming.await.trying("accept a connection")
    }

    /// Opens connections one after another. A connection is usable once the other side has answered, because only then
    /// has it accepted the certificate. The greetings have the length of dflow's.
    async fn connections(&self, side: Side, numbers: Range<u64>) -> Result<Option<Histogram<u64>>, Failure> {
        let mut times = Times::new(self.ticks);
        let mut answers = Vec::new();
        for _ in numbers {
            match side {
                Side::First => {
                    let began = times.begin();
                    let connection = self.dial().await?;
                    let (mut send, mut receive) = connection.open_bi().await.trying("open a stream")?;
                    send.write_all(&GREETING).await.trying("greet")?;
                    receive.read_exact(&mut [0; GREETING.len()]).await.trying("be greeted")?;
                    times.end(began);
                    connection.close(0u32.into(), b"");
                }
                Side::Second => answers.push(tokio::spawn(greet(self.accept().await?))),
            }
        }
        for answer in answers {
            answer.await.trying("wait for a task")??;
        }
        Ok((side == Side::First).then(|| times.into_histogram()))
    }
}

/// Answers on a connection until it is closed.
async fn greet(connection: Connection) -> Result<(), Failure> {
    let (mut send, mut receive) = connection.accept_bi().await.trying("accept a stream")?;
    receive.read_exact(&mut [0; GREETING.len()]).await.trying("be greeted")?;
    send.write_all(&GREETING).await.trying("greet")?;
    connection.closed().await;
    Ok(())
}

/// Opens streams one after another: the first side requests a stream and waits for its bytes.
async fn streams(
    connection: &Connection,
    side: Side,
    numbers: Range<u64>,
    ticks: Ticks,
) -> Result<Option<Histogram<u64>>, Failure> {
    let mut times = Times::new(ticks);
    let mut words = private(PART);
    for number in numbers {
        let mut name = [0; size_of::<u64>()];
        match side {
            Side::First => {
                let began = times.begin();
                let mut send = connection.open_uni().await.trying("open a stream")?;
                send.write_all(&number.to_le_bytes()).await.trying("request a stream")?;
                let mut receive = connection.accept_uni().await.trying("accept a stream")?;
                receive.read_exact(bytes_mut(&mut words)).await.trying("read a stream")?;
                times.end(began);
                check(&words, first_word(number, PART))?;
            }
            Side::Second => {
                let mut receive = connection.accept_uni().await.trying("accept a stream")?;
                receive.read_exact(&mut name).await.trying("receive the request for a stream")?;
                let mut send = connection.open_uni().await.trying("open a stream")?;
                fill(&mut words, first_word(u64::from_le_bytes(name), PART));
                send.write_all(bytes(&words)).await.trying("write a stream")?;
            }
        }
    }
    Ok((side == Side::First).then(|| times.into_histogram()))
}

enum Play {
    Pipe(Pipe),
    Handed(Pipe),
    Streams(Connection),
    Connections,
}

struct BareParty {
    thread: Thread,
    stage: Stage,
    /// `None` after a failure.
    play: Option<Play>,
    work: Work,
    side: Side,
}

impl Party for BareParty {
    fn round(&mut self, numbers: Range<u64>) -> Result<Option<Histogram<u64>>, Failure> {
        let mut play = self.play.take().ok_or_else(|| Failure::new("the previous round failed"))?;
        let (stage, work, side) = (self.stage.clone(), self.work, self.side);
        let (play, times) = self.thread.run(async move {
            let times = match &mut play {
                Play::Handed(pipe) => handed::stream(pipe, side, numbers).await.map(|()| None)?,
                Play::Pipe(pipe) if work == Work::Stream => pipe.stream(side, numbers).await.map(|()| None)?,
                Play::Pipe(pipe) => {
                    let times = pipe.trips(side, numbers, stage.ticks).await?;
                    (side == Side::First).then_some(times)
                }
                Play::Streams(connection) => streams(connection, side, numbers, stage.ticks).await?,
                Play::Connections => stage.connections(side, numbers).await?,
            };
            Ok::<_, Failure>((play, times))
        })??;
        self.play = Some(play);
        Ok(times)
    }
}
