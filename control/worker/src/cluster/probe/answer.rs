//! The answering end of a probe: a worker.

use super::trial::{End, Trial};
use crate::options::NodeOptions;
use crate::peer::message::{ManagementMessage, broken};
use crate::peer::probing::{About, Measured, Probing, RELEASE};
use crate::peer::wakeup::Wakeup;
use dflow_transport::{Connection, Path, Provider, ProviderError, rdma_provider};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Concurrent probes of a node. Each takes a few megabytes, and they disturb each other's measurements.
pub(crate) const MAX_PROBES: usize = 2;
/// A probe that takes longer is aborted.
const LONGEST: Duration = Duration::from_secs(60);

/// Answers until the asking end closes the connection. `has_room`: fewer than [`MAX_PROBES`] are in progress.
pub(crate) async fn answer(options: &NodeOptions, connection: Connection, wakeup: &Wakeup, has_room: bool) {
    if !has_room {
        let reason = format!("{MAX_PROBES} other probes of this node are in progress; try again in a moment");
        let _ = ManagementMessage::Probe(Probing::Busy(reason)).send(&connection);
        // The asking end closes the connection once it has read this.
        let closed = async {
            while connection.closed().is_none() {
                wakeup.woken().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
        return;
    }
    tracing::info!(peer = connection.peer(), "a node probes this one");
    let rdma = rdma_provider(connection.address().ip(), &options.paths());
    let mut answering = Answering { rdma, number: 0, next: None, trial: None };
    let result = tokio::time::timeout(LONGEST, answering.serve(options, &connection, wakeup)).await;
    if let Ok(Err(reason)) = result {
        // After a violation the connection is closed already.
        connection.close(&reason);
    }
}

struct Answering {
    rdma: Box<dyn Provider>,
    /// The number of the last path.
    number: u64,
    /// This end must not send over the path before the asking end has connected its own.
    next: Option<(Trial, Box<dyn Path>, u64)>,
    trial: Option<Trial>,
}

type Results = UnboundedSender<Result<Measured, String>>;

impl Answering {
    async fn serve(&mut self, options: &NodeOptions, connection: &Connection, wakeup: &Wakeup) -> Result<(), String> {
        let (results, mut arriving) = unbounded_channel();
        let about =
            About { release: RELEASE.to_owned(), slots: options.slots, rdma: super::describe(self.rdma.as_mut()) };
        ManagementMessage::Probe(Probing::About(about)).send(connection)?;
        loop {
            let violated = |what: &String| connection.violated(&broken(what));
            while let Some(message) = ManagementMessage::receive(connection).inspect_err(violated)? {
                let ManagementMessage::Probe(probing) = message else {
                    return Err("it began with a probe and continued with a different message".to_owned())
                        .inspect_err(violated);
                };
                if let Some(answer) = self.heard(probing, connection, &results)? {
                    ManagementMessage::Probe(answer).send(connection)?;
                }
            }
            if connection.closed().is_some() {
                return Ok(());
            }
            tokio::select! {
                () = wakeup.woken() => {}
                Some(result) = arriving.recv() => ManagementMessage::Probe(Probing::Received(result)).send(connection)?,
            }
        }
    }

    fn heard(
        &mut self,
        probing: Probing,
        connection: &Connection,
        results: &Results,
    ) -> Result<Option<Probing>, String> {
        let answer = match probing {
            Probing::Ping(number) => Probing::Pong(number),
            Probing::Quic(number) => {
                let trial = self.fresh(number)?;
                let path = connection.path(number, trial.waker()).map_err(|error| error.to_string())?;
                self.begin(trial, path, number, results);
                Probing::QuicBegun
            }
            Probing::Rdma(number, endpoint) => {
                let trial = self.fresh(number)?;
                let connected = self.connect(trial, number, &endpoint).map_err(|error| error.to_string());
                Probing::RdmaConnected(connected)
            }
            Probing::RdmaBegun => {
                let (trial, path, number) = self.next.take().ok_or("it began a path that does not exist")?;
                self.begin(trial, path, number, results);
                return Ok(None);
            }
            Probing::Begin
            | Probing::About(_)
            | Probing::Busy(_)
            | Probing::Pong(_)
            | Probing::QuicBegun
            | Probing::RdmaConnected(_)
            | Probing::Received(_) => return Err("it sent a message that only the answering end may send".to_owned()),
        };
        Ok(Some(answer))
    }

    /// Connects an endpoint of this node to the asking end's; returns what that end needs to connect in turn.
    fn connect(&mut self, trial: Trial, number: u64, endpoint: &[u8]) -> Result<Vec<u8>, ProviderError> {
        let own = self.rdma.prepare(trial.waker())?;
        self.next = Some((trial, self.rdma.connect(endpoint)?, number));
        Ok(own)
    }

    /// The previous path is closed.
    fn fresh(&mut self, number: u64) -> Result<Trial, String> {
        if number <= self.number {
            return Err("the numbers of paths go up".to_owned());
        }
        self.number = number;
        (self.trial, self.next) = (None, None);
        Ok(Trial::new())
    }

    fn begin(&mut self, mut trial: Trial, path: Box<dyn Path>, number: u64, results: &Results) {
        let arrived = results.clone();
        let report = move |result| {
            // The asking end may be gone.
            let _ = arrived.send(result);
        };
        if let Err(reason) = trial.run(path, number, End::Answers, report) {
            let _ = results.send(Err(reason));
        }
        self.trial = Some(trial);
    }
}
