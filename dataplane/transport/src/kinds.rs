//! The kinds of paths that two nodes negotiate.
//!
//! A new kind is a directory with its [`Path`](crate::Path) and its [`Provider`], a variant of [`PathKind`], and a line
//! in [`providers`].

use crate::path::PathKind;
use crate::provider::{Provider, ProviderError};
use dflow_shm::Idle;
use std::net::IpAddr;

/// The kind of path that every connection between two nodes has, and to which streams fall back.
pub const BASE: PathKind = PathKind::Quic;

/// How a node uses the kinds of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathSettings {
    /// Which RDMA device it uses, if any.
    pub rdma: RdmaUse,
    /// How long RDMA completions are polled for before the thread sleeps; `None` selects the machine's default.
    pub rdma_idle: Option<Idle>,
}

/// Which RDMA device a node uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RdmaUse {
    /// The device from whose address packets to the peer leave, if there is one.
    #[default]
    Auto,
    /// None.
    Off,
    /// The device of this name, as `NAME` or `NAME:INDEX` with the address at that place in its table.
    Device(String),
}

impl RdmaUse {
    /// Checks that a device named by the user exists.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn find_device(&self) -> Result<(), ProviderError> {
        let Self::Device(name) = self else { return Ok(()) };
        #[cfg(feature = "rdma")]
        return Ok(crate::rdma::RdmaDevice::find(name)?);
        #[cfg(not(feature = "rdma"))]
        {
            let _ = name;
            Err(ProviderError::NotBuilt("rdma"))
        }
    }
}

/// The kinds that can be negotiated with a peer, the most preferred first. [`BASE`] comes after all of them.
#[must_use]
pub fn providers(peer: IpAddr, settings: &PathSettings) -> Vec<Box<dyn Provider>> {
    vec![rdma_provider(peer, settings)]
}

/// RDMA towards one peer.
#[cfg(feature = "rdma")]
#[must_use]
pub fn rdma_provider(peer: IpAddr, settings: &PathSettings) -> Box<dyn Provider> {
    Box::new(crate::rdma::RdmaProvider::new(peer, settings))
}

/// RDMA towards one peer.
#[cfg(not(feature = "rdma"))]
#[must_use]
pub fn rdma_provider(_: IpAddr, settings: &PathSettings) -> Box<dyn Provider> {
    let disabled = settings.rdma == RdmaUse::Off;
    Box::new(crate::provider::NotBuilt { kind: PathKind::Rdma, feature: "rdma", disabled })
}
