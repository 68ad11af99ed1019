//! The findings of a probe, for programs and as text.

use crate::doctor::{Finding, Health};
use crate::peer::certificate::SOON_DAYS;
use crate::peer::problem::Problem;
use serde::Serialize;
use std::net::SocketAddr;

/// What lies between this node and another one, as far as a few seconds of measurement can tell.
#[derive(Clone, Debug, Serialize)]
pub struct PeerReport {
    /// The node's name.
    pub node: String,
    /// The address that was probed.
    pub address: SocketAddr,
    /// Why nothing more is known about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The release of dflow that it runs.
    pub release: Option<String>,
    /// How many instances may compute on it at the same time.
    pub slots: Option<u32>,
    /// The whole days until its certificate expires; negative once it has expired.
    pub certificate_days: Option<i64>,
    /// The same of this node's certificate.
    pub own_certificate_days: i64,
    /// The median round-trip time of a message, in nanoseconds.
    pub round_trip_ns: Option<u64>,
    /// The largest packets that reach it, in bytes of UDP payload.
    pub packet_bytes: Option<u16>,
    /// Bytes over QUIC.
    pub quic: Option<PathTrial>,
    /// Bytes over RDMA.
    pub rdma: Option<PeerRdma>,
}

/// Throughput; every byte was verified where it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rates {
    /// Bytes per second from this node to the other.
    #[serde(rename = "to_peer_bytes_per_second")]
    pub to_peer: u64,
    /// Bytes per second in the other direction.
    #[serde(rename = "from_peer_bytes_per_second")]
    pub from_peer: u64,
}

/// Whether bytes could be transferred over a path in both directions.
#[derive(Clone, Debug, Serialize)]
pub struct PathTrial {
    /// They could.
    pub works: bool,
    /// How fast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
    /// They could not: why, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// RDMA between this node and another.
#[derive(Clone, Debug, Serialize)]
pub struct PeerRdma {
    /// Whether it works.
    #[serde(flatten)]
    pub trial: PathTrial,
    /// Device, port and address on this node.
    pub device_here: Option<String>,
    /// The same on the other node.
    pub device_there: Option<String>,
    /// What restricts access to the windows that this node grants to the peer of a connection.
    pub windows_here: Option<String>,
    /// The same on the other node.
    pub windows_there: Option<String>,
}

impl From<Result<Rates, String>> for PathTrial {
    fn from(result: Result<Rates, String>) -> Self {
        let works = result.is_ok();
        let (rates, why_not) = match result {
            Ok(rates) => (Some(rates), None),
            Err(reason) => (None, Some(reason)),
        };
        Self { works, rates, why_not }
    }
}

impl PeerReport {
    pub(super) fn new(node: &str, address: SocketAddr, own_certificate_days: i64) -> Self {
        Self {
            node: node.to_owned(),
            address,
            problem: None,
            release: None,
            slots: None,
            certificate_days: None,
            own_certificate_days,
            round_trip_ns: None,
            packet_bytes: None,
            quic: None,
            rdma: None,
        }
    }

    /// Whether runs can use the node.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.problem.is_none() && self.quic.as_ref().is_some_and(|quic| quic.works)
    }

    /// The findings as text.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut note = |topic, state, text: String| findings.push(Finding { topic, state, text });
        if let Some(release) = &self.release {
            let slots = self.slots.unwrap_or(0);
            let text = format!("dflow {release}, with {slots} slot{}", if slots == 1 { "" } else { "s" });
            note("answer", Health::Good, text);
        }
        if let Some(problem) = &self.problem {
            note("answer", Health::Bad, format!("{}: {}", problem.reason, problem.help));
        }
        if let Some(days) = self.certificate_days {
            let (state, text) = certificates(&self.node, days, self.own_certificate_days);
            note("certificate", state, text);
        }
        if let (Some(nanos), Some(packet)) = (self.round_trip_ns, self.packet_bytes) {
            let text = format!(
                "{:.3} ms for a message and its answer (median); packets of {packet} bytes get through",
                nanos as f64 / 1e6
            );
            note("network", Health::Good, text);
        }
        match &self.quic {
            Some(PathTrial { rates: Some(rates), .. }) => note("QUIC", Health::Good, rates.describe()),
            Some(PathTrial { why_not, .. }) => {
                let reason = why_not.as_deref().unwrap_or_default();
                note("QUIC", Health::Bad, format!("bytes do not arrive: {reason}"));
            }
            None => {}
        }
        if let Some(rdma) = &self.rdma {
            let (state, text) = rdma.describe();
            note("RDMA", state, text);
            if let Some(text) = windows(rdma) {
                note("windows", Health::Good, text);
            }
        }
        findings
    }
}

impl Rates {
    fn describe(self) -> String {
        let (there, back) = (rate(self.to_peer), rate(self.from_peer));
        format!("{there} there, {back} back, in a short trial; every byte was checked")
    }
}

impl PeerRdma {
    fn describe(&self) -> (Health, String) {
        let ends = [("here", &self.device_here), ("there", &self.device_there)];
        let devices: Vec<String> =
            ends.iter().filter_map(|(place, device)| Some(format!("; {place} {}", device.as_ref()?))).collect();
        let devices = devices.concat();
        match &self.trial.rates {
            Some(rates) => (Health::Good, format!("{}{devices}", rates.describe())),
            None => {
                let reason = self.trial.why_not.as_deref().unwrap_or_default();
                (Health::Fair, format!("streams go by QUIC: {reason}{devices}"))
            }
        }
    }
}

fn certificates(node: &str, theirs: i64, own: i64) -> (Health, String) {
    let text = format!("the certificate of {node} expires in {theirs} days, that of this node in {own}");
    if theirs.min(own) > i64::from(SOON_DAYS) {
        return (Health::Good, text);
    }
    let help = "create a new one in time with 'dflow cluster add DIR --node NAME'";
    (Health::Fair, format!("{text}; {help}, and start the worker again"))
}

fn windows(rdma: &PeerRdma) -> Option<String> {
    match (&rdma.windows_here, &rdma.windows_there) {
        (Some(here), Some(there)) if here == there => Some(format!("on both nodes {here}")),
        (None, None) => None,
        (here, there) => {
            let of = |place: &str, end: &Option<String>| end.as_ref().map(|text| format!("{place} {text}"));
            let both: Vec<String> = [of("here", here), of("there", there)].into_iter().flatten().collect();
            Some(both.join("; "))
        }
    }
}

fn rate(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        0.0..1e6 => format!("{:.0} kB/s", bytes / 1e3),
        1e6..1e9 => format!("{:.0} MB/s", bytes / 1e6),
        _ => format!("{:.2} GB/s", bytes / 1e9),
    }
}
