//! The asking end of a probe: `dflow doctor --peer`.

use super::report::{PeerRdma, PeerReport, Rates};
use super::trial::{End, Trial};
use crate::error::SetupError;
use crate::options::NodeOptions;
use crate::peer::certificate::load as load_identity;
use crate::peer::dial::Dialed;
use crate::peer::error::ClusterError;
use crate::peer::message::ManagementMessage;
use crate::peer::probing::{About, Measured, Probing};
use crate::peer::problem::Problem;
use crate::peer::spec::ClusterSpec;
use crate::peer::wakeup::Wakeup;
use dflow_transport::identity::{Identity, Standing, Validity};
use dflow_transport::{Cause, Connection, Node, NodeSettings, Path, Provider, rdma_provider};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

/// The number of round trips whose median is reported.
const ROUND_TRIPS: u32 = 21;
/// The time limit of an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time limit of a trial of one path in both directions.
const TRIAL: Duration = Duration::from_secs(15);
/// The numbers of the two paths.
const QUIC_PATH: u64 = 1;
const RDMA_PATH: u64 = 2;
const DAY: u64 = 24 * 3600;

/// Probes these nodes, one after the other. `identity`: the directory with this node's identity; `options`: how this
/// node uses RDMA, as in a run.
///
/// # Errors
/// If this node cannot be set up. A peer that cannot be used is not an error: its report says why.
pub fn examine_peers(
    identity: &std::path::Path,
    peers: &[(String, SocketAddr)],
    options: &NodeOptions,
) -> Result<Vec<PeerReport>, SetupError> {
    let system = |what| move |source| SetupError::System { what, source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start the event loop"))?;
    runtime.block_on(async {
        let identity = Identity::load(identity).map_err(ClusterError::from)?;
        let own = identity.validity();
        let mut reports = Vec::new();
        for (name, address) in peers {
            let any: IpAddr =
                if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let settings = NodeSettings { handshake_timeout: PATIENCE, ..NodeSettings::default() };
            let (node, _) = Node::bind(SocketAddr::new(any, 0), &identity, settings).map_err(ClusterError::from)?;
            let mut report = PeerReport::new(name, *address, days_left(own));
            let dialed = Dialed { node: name, address: *address, own };
            if let Err(problem) = report.examine(&node, dialed, options).await {
                report.problem = Some(problem);
            }
            reports.push(report);
        }
        Ok(reports)
    })
}

/// A node that would take part in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The release of dflow that it runs.
    pub(crate) release: String,
    /// How many instances may compute on it at the same time.
    pub(crate) slots: u32,
}

/// Connects to the nodes of a run, all at once as a run does, and asks each for its release and slots. Nothing is started
/// on them.
///
/// # Errors
/// If this node cannot be set up, or the first node that cannot be reached or does not answer.
pub(crate) fn reach(cluster: &ClusterSpec) -> Result<Vec<Reached>, SetupError> {
    let system = |what| move |source| SetupError::System { what, source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start the event loop"))?;
    let reached = runtime.block_on(async {
        let identity = load_identity(&cluster.identity)?;
        let own = identity.validity();
        let any: IpAddr = if cluster.nodes.iter().any(|(_, address)| address.is_ipv6()) {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let settings = NodeSettings { handshake_timeout: PATIENCE, ..NodeSettings::default() };
        let (node, _) = Node::bind(SocketAddr::new(any, 0), &identity, settings)?;
        let dialed = cluster.nodes.iter().map(|(name, address)| Dialed { node: name, address: *address, own });
        // Every dial starts here, so that several silent nodes cost the patience of one.
        let dials: Vec<_> = dialed.map(|dialed| (dialed, dialed.dial(&node, Duration::ZERO))).collect();
        let mut reached = Vec::new();
        for (dialed, dial) in dials {
            let asking = Asking::new(dial.await.map_err(ClusterError::Unreachable)?);
            let about = asking.begin().await.map_err(|reason| ClusterError::Unreachable(dialed.no_answer(reason)))?;
            reached.push(Reached { release: about.release, slots: about.slots });
        }
        Ok::<_, ClusterError>(reached)
    });
    Ok(reached?)
}

impl Dialed<'_> {
    /// The peer accepted this node and then gave no usable answer.
    fn no_answer(self, reason: String) -> Problem {
        Problem { cause: Cause::Closed.word(), reason, help: self.help(Cause::Closed) }
    }
}

impl PeerReport {
    async fn examine(&mut self, node: &Node, dialed: Dialed<'_>, options: &NodeOptions) -> Result<(), Problem> {
        let connection = dialed.dial(node, Duration::ZERO).await?;
        let silent = |reason| dialed.no_answer(reason);
        self.certificate_days = Some(days_left(connection.validity()));
        let asking = Asking::new(connection);
        let about = asking.begin().await.map_err(silent)?;
        self.release = Some(about.release);
        self.slots = Some(about.slots);
        self.round_trip_ns = Some(asking.round_trip().await.map_err(silent)?);
        self.quic = Some(asking.try_quic().await.into());
        self.packet_bytes = Some(asking.connection.stats().packet_size);
        self.rdma = Some(asking.try_rdma(options, about.rdma).await);
        Ok(())
    }
}

/// Whole days from now.
fn days_left(validity: Validity) -> i64 {
    let days = |time: Duration| i64::try_from(time.as_secs() / DAY).unwrap_or(i64::MAX);
    match validity.standing(SystemTime::now()) {
        Standing::Early(_) => -1,
        Standing::Holds(left) => days(left),
        Standing::Expired(since) => -1 - days(since),
    }
}

/// A connection to a peer that answers.
struct Asking {
    connection: Connection,
    wakeup: Arc<Wakeup>,
}

impl Asking {
    fn new(connection: Connection) -> Self {
        let wakeup = Arc::new(Wakeup::default());
        connection.set_waker(wakeup.waker());
        Self { connection, wakeup }
    }

    async fn begin(&self) -> Result<About, String> {
        self.say(Probing::Begin)?;
        match self.hear(PATIENCE).await? {
            Probing::About(about) => Ok(about),
            Probing::Busy(reason) => Err(reason),
            _ => Err(UNEXPECTED.to_owned()),
        }
    }

    /// The median of the given times.
    async fn round_trip(&self) -> Result<u64, String> {
        let mut times = Vec::new();
        for number in 0..ROUND_TRIPS {
            let start = Instant::now();
            self.say(Probing::Ping(number))?;
            match self.hear(PATIENCE).await? {
                Probing::Pong(answer) if answer == number => times.push(start.elapsed()),
                _ => return Err(UNEXPECTED.to_owned()),
            }
        }
        times.sort_unstable();
        Ok(times.get(times.len() / 2).map_or(0, |time| crate::time::nanos(*time)))
    }

    async fn try_quic(&self) -> Result<Rates, String> {
        self.say(Probing::Quic(QUIC_PATH))?;
        match self.hear(PATIENCE).await? {
            Probing::QuicBegun => {}
            _ => return Err(UNEXPECTED.to_owned()),
        }
        let trial = Trial::new();
        let path = self.connection.path(QUIC_PATH, trial.waker()).map_err(|error| error.to_string())?;
        self.try_path(trial, path, QUIC_PATH).await
    }

    async fn try_rdma(&self, options: &NodeOptions, there: Result<(String, String), String>) -> PeerRdma {
        let mut own = rdma_provider(self.connection.address().ip(), &options.paths());
        let here = super::describe(own.as_mut());
        let result = match (&here, &there) {
            (Ok(_), Ok(_)) => self.connect_rdma(own.as_mut()).await,
            (Err(reason), _) => Err(format!("this node has none: {reason}")),
            (_, Err(reason)) => Err(format!("{} has none: {reason}", self.connection.peer())),
        };
        let split = |end: Result<(String, String), String>| end.ok().unzip();
        let ((device_here, windows_here), (device_there, windows_there)) = (split(here), split(there));
        PeerRdma { trial: result.into(), device_here, device_there, windows_here, windows_there }
    }

    async fn connect_rdma(&self, own: &mut dyn Provider) -> Result<Rates, String> {
        let trial = Trial::new();
        let endpoint = own.prepare(trial.waker()).map_err(|error| error.to_string())?;
        self.say(Probing::Rdma(RDMA_PATH, endpoint))?;
        let theirs = match self.hear(PATIENCE).await? {
            Probing::RdmaConnected(theirs) => theirs?,
            _ => return Err(UNEXPECTED.to_owned()),
        };
        let path = own.connect(&theirs).map_err(|error| error.to_string())?;
        self.say(Probing::RdmaBegun)?;
        self.try_path(trial, path, RDMA_PATH).await.map_err(|reason| {
            format!(
                "both queue pairs were connected, but bytes did not come through: {reason}; see that a firewall lets UDP \
                 port 4791 (RoCEv2) through both routes, and that both ports have the same MTU"
            )
        })
    }

    /// Transfers bytes from the peer, then to it.
    async fn try_path(&self, mut trial: Trial, path: Box<dyn Path>, number: u64) -> Result<Rates, String> {
        let (arrived, arriving) = oneshot::channel();
        let report = move |result| {
            let _ = arrived.send(result);
        };
        trial.run(path, number, End::Asks, report)?;
        let late = |_| format!("it took longer than {TRIAL:?}");
        let gone = |_| "the trial ended without a result".to_owned();
        let here: Measured = tokio::time::timeout(TRIAL, arriving).await.map_err(late)?.map_err(gone)??;
        match self.hear(TRIAL).await? {
            Probing::Received(there) => Ok(Rates { to_peer: there?.rate(), from_peer: here.rate() }),
            _ => Err(UNEXPECTED.to_owned()),
        }
    }

    fn say(&self, probing: Probing) -> Result<(), String> {
        ManagementMessage::Probe(probing).send(&self.connection)
    }

    async fn hear(&self, patience: Duration) -> Result<Probing, String> {
        let next = async {
            loop {
                match ManagementMessage::receive(&self.connection)? {
                    Some(ManagementMessage::Probe(probing)) => return Ok(probing),
                    // Each end first identifies itself.
                    Some(ManagementMessage::Hello { .. }) => continue,
                    Some(_) => return Err(UNEXPECTED.to_owned()),
                    None => {}
                }
                if let Some(reason) = self.connection.closed() {
                    return Err(reason);
                }
                self.wakeup.woken().await;
            }
        };
        tokio::time::timeout(patience, next).await.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
    }
}

const UNEXPECTED: &str = "it sent an unexpected answer";
