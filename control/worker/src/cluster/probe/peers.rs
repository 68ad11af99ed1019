//! The end that asks: `dflow doctor --peer`.

use super::report::{PeerRdma, PeerReport, Problem, Rates};
use super::trial::{End, Trial};
use super::{About, Measured, Probing, RELEASE};
use crate::check::SetupError;
use crate::cluster::message::Managed;
use crate::cluster::rdma::RdmaEnd;
use crate::cluster::{ClusterError, Ring};
use crate::options::NodeOptions;
use dflow_transport::Path;
use dflow_transport::quic::{Cause, ConnectError, Connection, Identity, QuicNode, QuicPath, QuicSettings, Validity};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

/// Round trips of which the median is told.
const ROUND_TRIPS: u32 = 21;
/// How long a peer may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a trial of one path may take, there and back.
const TRIAL: Duration = Duration::from_secs(15);
/// The numbers of the two paths.
const QUIC_PATH: u64 = 1;
const RDMA_PATH: u64 = 2;
const DAY: u64 = 24 * 3600;

/// Looks at these nodes, one after the other. `identity`: the directory with this node's identity; `options`: how it uses
/// RDMA, as in a run.
///
/// # Errors
/// If this node cannot be set up; a peer that cannot be used is no error but a report that says so.
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
        let own = days_left(identity.validity());
        let mut reports = Vec::new();
        for (name, address) in peers {
            let any: IpAddr =
                if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let settings = QuicSettings { handshake_timeout: PATIENCE, ..QuicSettings::default() };
            let (node, _) = QuicNode::bind(SocketAddr::new(any, 0), &identity, settings).map_err(ClusterError::from)?;
            let mut report = PeerReport::new(name, *address, own);
            if let Err(problem) = report.examine(&node, options).await {
                report.problem = Some(problem);
            }
            reports.push(report);
        }
        Ok(reports)
    })
}

impl PeerReport {
    async fn examine(&mut self, node: &QuicNode, options: &NodeOptions) -> Result<(), Problem> {
        let connection = self.dial(node).await?;
        self.certificate_days = Some(days_left(connection.validity()));
        let ring = Arc::new(Ring::default());
        connection.set_waker(ring.waker());
        let asking = Asking { connection, ring };
        let about = asking.begin().await.map_err(|reason| self.silent(reason))?;
        self.release = Some(about.release);
        self.slots = Some(about.slots);
        self.round_trip_ns = Some(asking.round_trip().await.map_err(|reason| self.silent(reason))?);
        self.quic = Some(asking.try_quic().await.into());
        self.packet_bytes = Some(asking.connection.stats().packet_size);
        self.rdma = Some(asking.try_rdma(options, about.rdma).await);
        Ok(())
    }

    /// It let this node in, and then said nothing that helps.
    fn silent(&self, reason: String) -> Problem {
        let help = format!("see the log of the worker on {} (DFLOW_LOG=info dflow worker …)", self.node);
        Problem { cause: Cause::Closed.word(), reason, help }
    }

    async fn dial(&self, node: &QuicNode) -> Result<Connection, Problem> {
        let unreachable = async {
            match hear_back(self.address).await {
                Some(error) => error,
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            dialed = node.connect(self.address, &self.node) => match dialed {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            },
            error = unreachable => return Err(self.unreachable(&error)),
        };
        let reason = error.to_string();
        Err(match error {
            ConnectError::Failed { cause, .. } => Problem { cause: cause.word(), reason, help: self.help(cause) },
            ConnectError::Name(_) => Problem { cause: Cause::Name.word(), reason, help: self.help(Cause::Name) },
            ConnectError::Closed => self.silent(reason),
        })
    }

    /// The network itself has said that it does not get there.
    fn unreachable(&self, error: &io::Error) -> Problem {
        let (node, address) = (&self.node, self.address);
        let (reason, help) = if error.kind() == io::ErrorKind::ConnectionRefused {
            let reason =
                format!("nothing listens on its UDP port {}, says the machine {}", address.port(), address.ip());
            let help = format!(
                "start 'dflow worker' on {node}, or give the port that it prints when it starts; a firewall that rejects \
                 packets looks like this, too"
            );
            (reason, help)
        } else {
            let reason = format!("no packet gets to UDP {address}: {error}");
            (reason, format!("correct the address, or the way to it ('ip route get {}')", address.ip()))
        };
        Problem { cause: Cause::Silence.word(), reason, help }
    }

    fn help(&self, cause: Cause) -> String {
        let (node, address) = (&self.node, self.address);
        match cause {
            Cause::Authority => {
                "both nodes need identities of the same cluster: give this command and the worker directories that one \
                 'dflow cluster create', and 'dflow cluster add' on it, have made"
                    .into()
            }
            Cause::Validity if self.own_certificate_days < 0 => {
                "this node's own certificate does not hold: make another with 'dflow cluster add DIR --node NAME', or set \
                 the clock"
                    .into()
            }
            Cause::Validity => format!(
                "make another identity with 'dflow cluster add DIR --node {node}', copy it to {node} and start its worker \
                 again; or set the clocks of both machines"
            ),
            Cause::Name => {
                format!("give the name in the certificate of the node at {address}, or the address of {node}")
            }
            Cause::Certificate => {
                "make another identity with 'dflow cluster add' for whichever node's certificate is refused".into()
            }
            Cause::Version => format!("run the same release of dflow on both nodes (this one has {RELEASE})"),
            Cause::Silence => format!(
                "see that the machine is on and that 'dflow worker' runs there ('ss -lunp | grep {port}'); a firewall has \
                 to let UDP port {port} in on {node} ('nft list ruleset', the cloud's security group), and its answers \
                 back in here",
                port = address.port()
            ),
            Cause::Busy => format!("try again in a moment; {node} has too many connections"),
            Cause::Closed => format!("see the log of the worker on {node} (DFLOW_LOG=info dflow worker …)"),
        }
    }
}

/// What the network says to a packet at this address, if it says something: who listens there ignores it.
async fn hear_back(address: SocketAddr) -> Option<io::Error> {
    let any: IpAddr = if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let probe = async {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(address).await?;
        socket.send(&[0]).await?;
        socket.recv(&mut [0; 16]).await
    };
    tokio::time::timeout(PATIENCE, probe).await.ok()?.err()
}

/// Whole days from now on.
fn days_left(validity: Validity) -> i64 {
    let now = SystemTime::now();
    let days = |seconds: u64| i64::try_from(seconds / DAY).unwrap_or(i64::MAX);
    if now < validity.from {
        return -1;
    }
    match validity.until.duration_since(now) {
        Ok(left) => days(left.as_secs()),
        Err(error) => -1 - days(error.duration().as_secs()),
    }
}

/// A connection to a peer that answers.
struct Asking {
    connection: Connection,
    ring: Arc<Ring>,
}

impl Asking {
    async fn begin(&self) -> Result<About, String> {
        self.say(Probing::Begin)?;
        match self.hear(PATIENCE).await? {
            Probing::About(about) => Ok(about),
            Probing::Busy(reason) => Err(reason),
            _ => Err(UNEXPECTED.to_owned()),
        }
    }

    /// The median of some.
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
        Ok(times.get(times.len() / 2).map_or(0, |time| crate::run::nanos(*time)))
    }

    async fn try_quic(&self) -> Result<Rates, String> {
        self.say(Probing::Quic(QUIC_PATH))?;
        match self.hear(PATIENCE).await? {
            Probing::QuicBegun => {}
            _ => return Err(UNEXPECTED.to_owned()),
        }
        let trial = Trial::new();
        let path = QuicPath::new(&self.connection, QUIC_PATH, trial.waker()).map_err(|error| error.to_string())?;
        self.try_path(trial, Box::new(path), QUIC_PATH).await
    }

    async fn try_rdma(&self, options: &NodeOptions, there: Result<(String, String), String>) -> PeerRdma {
        let mut own = RdmaEnd::new(options.rdma.clone(), options.rdma_idle);
        let here = own.describe(self.connection.address().ip());
        let result = match (&here, &there) {
            (Ok(_), Ok(_)) => self.connect_rdma(&mut own).await,
            (Err(reason), _) => Err(format!("this node has none: {reason}")),
            (_, Err(reason)) => Err(format!("{} has none: {reason}", self.connection.peer())),
        };
        let split = |end: Result<(String, String), String>| end.ok().unzip();
        let ((device_here, windows_here), (device_there, windows_there)) = (split(here), split(there));
        PeerRdma { trial: result.into(), device_here, device_there, windows_here, windows_there }
    }

    async fn connect_rdma(&self, own: &mut RdmaEnd) -> Result<Rates, String> {
        let trial = Trial::new();
        let endpoint = own.prepare(self.connection.address().ip(), trial.waker())?;
        self.say(Probing::Rdma(RDMA_PATH, endpoint))?;
        let theirs = match self.hear(PATIENCE).await? {
            Probing::RdmaConnected(theirs) => theirs?,
            _ => return Err(UNEXPECTED.to_owned()),
        };
        let path = own.connect(&theirs)?;
        self.say(Probing::RdmaBegun)?;
        self.try_path(trial, path, RDMA_PATH).await.map_err(|reason| {
            format!(
                "both queue pairs were connected, but bytes did not come through: {reason}; see that a firewall lets UDP \
                 port 4791 (RoCEv2) through both ways, and that both ports have the same MTU"
            )
        })
    }

    /// Bytes from there, then bytes there.
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
        Managed::Probe(probing).send(&self.connection)
    }

    async fn hear(&self, patience: Duration) -> Result<Probing, String> {
        let next = async {
            loop {
                match Managed::receive(&self.connection)? {
                    Some(Managed::Probe(probing)) => return Ok(probing),
                    Some(_) => return Err(UNEXPECTED.to_owned()),
                    None => {}
                }
                if let Some(reason) = self.connection.closed() {
                    return Err(reason);
                }
                self.ring.rung().await;
            }
        };
        tokio::time::timeout(patience, next).await.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
    }
}

const UNEXPECTED: &str = "it answered with something else";
