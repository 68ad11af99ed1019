//! What is left without the feature `rdma`.

use crate::error::DeviceError;
use std::convert::Infallible;

/// The RDMA devices of this machine; without the feature `rdma` there is never a value of this type.
#[derive(Debug)]
pub struct Devices {
    _never: Infallible,
}

impl Devices {
    /// Says that RDMA is not built in.
    ///
    /// # Errors
    /// Always [`DeviceError::NotBuilt`].
    pub fn list() -> Result<Self, DeviceError> {
        Err(DeviceError::NotBuilt)
    }
}
