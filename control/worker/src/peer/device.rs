//! The RDMA device that the user names.

use super::error::ClusterError;
use dflow_transport::RdmaUse;

/// Checks that the device named by the user exists.
///
/// # Errors
/// [`ClusterError::Device`]: why it cannot be used.
pub(crate) fn find_device(wanted: &RdmaUse) -> Result<(), ClusterError> {
    wanted.find_device().map_err(|error| {
        let name = if let RdmaUse::Device(name) = wanted { name.clone() } else { String::new() };
        ClusterError::Device { name, reason: error.to_string() }
    })
}
