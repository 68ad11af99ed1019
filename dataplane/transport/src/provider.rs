//! What a kind of path offers to two nodes that negotiate it.

use crate::path::{Path, PathError, PathKind};
use std::task::Waker;

/// One kind of path from this node to one peer.
///
/// A path takes one exchange: one end prepares an endpoint, the other prepares and connects its own, and the first
/// connects in turn. [`crate::Negotiator`] leads it.
pub trait Provider {
    /// The kind.
    fn kind(&self) -> PathKind;

    /// Whether this node may use the kind at all. Nothing is opened for it.
    ///
    /// # Errors
    /// Why not.
    fn allowed(&self) -> Result<(), ProviderError>;

    /// What the paths to this peer would use.
    ///
    /// # Errors
    /// Why there is nothing to use.
    fn describe(&mut self) -> Result<Description, ProviderError>;

    /// Prepares an endpoint, in place of one that was prepared before, and returns what the peer needs to connect to it.
    /// `waker`: see [`Path`].
    ///
    /// # Errors
    /// Why it cannot be prepared.
    fn prepare(&mut self, waker: Waker) -> Result<Vec<u8>, ProviderError>;

    /// Connects the endpoint that was prepared last to the peer's.
    ///
    /// # Errors
    /// Why it cannot be connected.
    fn connect(&mut self, endpoint: &[u8]) -> Result<Box<dyn Path>, ProviderError>;

    /// No path of this kind is in use or being negotiated: releases everything that is kept for the next.
    fn release(&mut self);
}

/// What the paths to a peer use, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The device, its port and address.
    pub device: String,
    /// What keeps others than the peer out of the windows that are open to it.
    pub guard: String,
}

/// Why there is no path of some kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The user does not want it.
    #[error("it is switched off")]
    Disabled,
    /// This executable does not contain it.
    #[error("dflow was built without the feature '{0}'")]
    NotBuilt(&'static str),
    /// There is no endpoint that could be connected.
    #[error("no endpoint is prepared at this node")]
    NotPrepared,
    /// The device or its queues.
    #[cfg(feature = "rdma")]
    #[error(transparent)]
    Rdma(#[from] crate::rdma::RdmaError),
    /// The connection on which the path would be.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// A kind that this executable does not contain.
#[cfg(not(feature = "rdma"))]
pub(crate) struct NotBuilt {
    pub(crate) kind: PathKind,
    pub(crate) feature: &'static str,
    /// The user has switched it off, which is the better reason.
    pub(crate) disabled: bool,
}

#[cfg(not(feature = "rdma"))]
impl Provider for NotBuilt {
    fn kind(&self) -> PathKind {
        self.kind
    }

    fn allowed(&self) -> Result<(), ProviderError> {
        Err(if self.disabled { ProviderError::Disabled } else { ProviderError::NotBuilt(self.feature) })
    }

    fn describe(&mut self) -> Result<Description, ProviderError> {
        Err(ProviderError::NotBuilt(self.feature))
    }

    fn prepare(&mut self, _: Waker) -> Result<Vec<u8>, ProviderError> {
        Err(ProviderError::NotBuilt(self.feature))
    }

    fn connect(&mut self, _: &[u8]) -> Result<Box<dyn Path>, ProviderError> {
        Err(ProviderError::NotBuilt(self.feature))
    }

    fn release(&mut self) {}
}
