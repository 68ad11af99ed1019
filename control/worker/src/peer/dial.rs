//! Opens a connection to another node and explains a failure, in the same words for `dflow run` and `dflow doctor
//! --peer`.

use super::probing::RELEASE;
use super::problem::Problem;
use dflow_transport::identity::{Standing, Validity};
use dflow_transport::{Cause, ConnectError, Connection, Node};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::UdpSocket;

/// The minimum time for a node to answer, even if the silence limit is shorter: its machine may have just come up and
/// must resolve its route to this one. Also the time for the network to report an unreachable host.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two tries of a node that is waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// A node to be dialed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialed<'a> {
    /// Its name.
    pub(crate) node: &'a str,
    pub(crate) address: SocketAddr,
    /// The validity of this node's certificate.
    pub(crate) own: Validity,
}

impl Dialed<'_> {
    /// Starts opening a connection; the returned future completes when it is open. Where nothing answers, it is tried
    /// again until `wait` is over.
    pub(crate) fn dial(self, node: &Node, wait: Duration) -> impl Future<Output = Result<Connection, Problem>> {
        let (start, mut first) = (Instant::now(), Some(node.connect(self.address, self.node)));
        async move {
            loop {
                let dial = async {
                    match first.take() {
                        Some(first) => first.await,
                        None => node.connect(self.address, self.node).await,
                    }
                };
                match self.try_once(node, dial).await {
                    Err(problem) if problem.cause == Cause::Silence.word() && start.elapsed() < wait => {
                        tracing::debug!(node = self.node, reason = problem.reason, "not there yet");
                        tokio::time::sleep(PAUSE).await;
                    }
                    dialed => return dialed,
                }
            }
        }
    }

    async fn try_once(
        self,
        node: &Node,
        first: impl Future<Output = Result<Connection, ConnectError>>,
    ) -> Result<Connection, Problem> {
        let start = Instant::now();
        let dial = async {
            let mut dialed = first.await;
            while let Err(ConnectError::Failed { cause: Cause::Silence, .. }) = dialed
                && start.elapsed() < PATIENCE
            {
                dialed = node.connect(self.address, self.node).await;
            }
            dialed
        };
        let unreachable = async {
            match hear_back(self.address).await {
                Some(error) => error,
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            dialed = dial => match dialed {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            },
            error = unreachable => return Err(self.unreachable(&error)),
        };
        let reason = error.to_string();
        let cause = match error {
            ConnectError::Failed { cause, .. } => cause,
            ConnectError::Name(_) => Cause::Name,
            ConnectError::Closed => Cause::Closed,
        };
        Err(Problem { cause: cause.word(), reason, help: self.help(cause) })
    }

    /// The network itself has reported the host unreachable.
    fn unreachable(&self, error: &io::Error) -> Problem {
        let (node, address) = (self.node, self.address);
        let (what, help) = if error.kind() == io::ErrorKind::ConnectionRefused {
            let help = format!(
                "start 'dflow worker' on {node}, or give the port that it prints when it starts; a firewall that rejects \
                 packets looks like this, too"
            );
            ("nothing listens on this port, says the machine there".to_owned(), help)
        } else {
            let help = format!("correct the address, or the way to it ('ip route get {}')", address.ip());
            (format!("no packet gets there: {error}"), help)
        };
        let reason = format!("no connection to node {node} at UDP {address}: {what}");
        Problem { cause: Cause::Silence.word(), reason, help }
    }

    /// What to do about it.
    pub(crate) fn help(&self, cause: Cause) -> String {
        let (node, address) = (self.node, self.address);
        match cause {
            Cause::Authority => {
                "both nodes need identities of the same cluster: give this command and the worker directories that one \
                 'dflow cluster create', and 'dflow cluster add' on it, have made"
                    .into()
            }
            Cause::Validity if !matches!(self.own.standing(SystemTime::now()), Standing::Holds(_)) => {
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

/// Probes the network's reaction to a packet to this address. A listening dflow ignores the packet.
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
