//! Probes what lies between two nodes: `dflow doctor --peer` asks ([`peers`]), a worker answers ([`answer`]).
//!
//! Both ends use the paths exactly as runs do: the same connection, the same endpoints, and a [`dflow_transport::Link`]
//! on its own thread at each end ([`trial`]). The bytes land in a window, and each one is compared with what was sent.

mod answer;
mod peers;
mod report;
mod trial;

pub(super) use answer::{MAX_PROBES, answer};
pub use peers::examine_peers;
pub(crate) use peers::reach;
pub use report::{PathTrial, PeerRdma, PeerReport, Rates};

use dflow_transport::{Description, Provider};

/// The device that a kind of path uses, and how it protects its windows.
///
/// # Errors
/// Why there is none.
fn describe(provider: &mut dyn Provider) -> Result<(String, String), String> {
    provider.describe().map(|Description { device, guard }| (device, guard)).map_err(|error| error.to_string())
}
