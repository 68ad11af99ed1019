//! The remaining interface without the feature `rdma`.

use crate::error::DeviceError;
use std::convert::Infallible;

/// The RDMA devices of this machine. Without the feature `rdma`, no value of this type exists.
#[derive(Debug)]
pub struct Devices {
    _never: Infallible,
}

impl Devices {
    /// Reports that RDMA is not built in.
    ///
    /// # Errors
    /// Always [`DeviceError::NotBuilt`].
    pub fn list() -> Result<Self, DeviceError> {
        Err(DeviceError::NotBuilt)
    }
}
