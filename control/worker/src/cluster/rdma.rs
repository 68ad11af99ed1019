//! The RDMA side of one end of a connection: a device on the route to the peer, and an endpoint that waits for its
//! counterpart.

use super::ClusterError;
use crate::options::RdmaUse;
use dflow_shm::Idle;
use dflow_transport::Path;
#[cfg(feature = "rdma")]
use dflow_transport::rdma::{Prepared, RdmaConfig, RdmaDevice, RdmaPath};
use std::net::IpAddr;
use std::task::Waker;

#[cfg(not(feature = "rdma"))]
const NOT_BUILT: &str = "dflow was built without the feature 'rdma'";

/// Checks that the device named by the user exists.
///
/// # Errors
/// Why it cannot be used, and which devices there are.
pub(crate) fn find_device(wanted: &RdmaUse) -> Result<(), ClusterError> {
    let RdmaUse::Device(name) = wanted else { return Ok(()) };
    #[cfg(feature = "rdma")]
    let found = RdmaDevice::find(name).map_err(|error| error.to_string());
    #[cfg(not(feature = "rdma"))]
    let found = Err(NOT_BUILT.to_owned());
    found.map_err(|reason| ClusterError::Device { name: name.clone(), reason })
}

/// One end's RDMA state towards one other node.
pub(super) struct RdmaEnd {
    wanted: RdmaUse,
    #[cfg(feature = "rdma")]
    config: RdmaConfig,
    #[cfg(feature = "rdma")]
    device: Option<RdmaDevice>,
    #[cfg(feature = "rdma")]
    prepared: Option<Prepared>,
}

impl RdmaEnd {
    /// `idle`: how its paths wait for completions; `None` selects the machine's default.
    #[cfg_attr(not(feature = "rdma"), expect(unused_variables, reason = "there are no paths"))]
    pub(super) fn new(wanted: RdmaUse, idle: Option<Idle>) -> Self {
        #[cfg(feature = "rdma")]
        let default = RdmaConfig::default();
        Self {
            wanted,
            #[cfg(feature = "rdma")]
            config: RdmaConfig { idle: idle.unwrap_or(default.idle), ..default },
            #[cfg(feature = "rdma")]
            device: None,
            #[cfg(feature = "rdma")]
            prepared: None,
        }
    }

    /// Whether RDMA should be tried at all.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn allowed(&self) -> Result<(), String> {
        match self.wanted {
            RdmaUse::Off => Err("it is switched off".to_owned()),
            #[cfg(not(feature = "rdma"))]
            _ => Err(NOT_BUILT.to_owned()),
            #[cfg(feature = "rdma")]
            RdmaUse::Auto | RdmaUse::Device(_) => Ok(()),
        }
    }
}

#[cfg(feature = "rdma")]
impl RdmaEnd {
    /// The device, port and address that are used towards a peer, and what restricts access to the windows that the
    /// peer may write.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn describe(&mut self, towards: IpAddr) -> Result<(String, String), String> {
        self.allowed()?;
        let device = self.device(towards)?;
        Ok((device.describe(), device.guard().to_owned()))
    }

    /// Creates an endpoint and returns what the peer needs to connect to it. `waker`: that of the thread that will
    /// drive the path.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(super) fn prepare(&mut self, towards: IpAddr, waker: Waker) -> Result<Vec<u8>, String> {
        let device = self.device(towards)?;
        let prepared = RdmaPath::prepare(&device, &self.config, waker).map_err(|error| error.to_string())?;
        let endpoint = prepared.endpoint();
        self.prepared = Some(prepared);
        Ok(endpoint)
    }

    /// Connects the endpoint that was created last with the peer's.
    ///
    /// # Errors
    /// Why it cannot be connected.
    pub(super) fn connect(&mut self, endpoint: &[u8]) -> Result<Box<dyn Path>, String> {
        let prepared = self.prepared.take().ok_or("there is no endpoint of this node")?;
        Ok(Box::new(prepared.connect(endpoint).map_err(|error| error.to_string())?))
    }

    /// Releases the device while no RDMA path is in use. A device can be removed only when no process holds it open;
    /// the next endpoint opens whichever device exists by then.
    pub(super) fn let_go(&mut self) {
        self.prepared = None;
        self.device = None;
    }

    /// The device, if its port has a link.
    fn device(&mut self, towards: IpAddr) -> Result<RdmaDevice, String> {
        let device = match (&self.device, &self.wanted) {
            (Some(device), _) => device.clone(),
            (None, RdmaUse::Device(name)) => RdmaDevice::open(name).map_err(|error| error.to_string())?,
            (None, RdmaUse::Auto | RdmaUse::Off) => {
                RdmaDevice::open_towards(towards).map_err(|error| error.to_string())?
            }
        };
        self.device = Some(device.clone());
        device.check_link().map_err(|error| error.to_string())?;
        Ok(device)
    }
}

#[cfg(not(feature = "rdma"))]
impl RdmaEnd {
    pub(super) fn describe(&mut self, _: IpAddr) -> Result<(String, String), String> {
        self.allowed().map(|()| (String::new(), String::new()))
    }

    pub(super) fn prepare(&mut self, _: IpAddr, _: Waker) -> Result<Vec<u8>, String> {
        self.allowed().map(|()| Vec::new())
    }

    pub(super) fn connect(&mut self, _: &[u8]) -> Result<Box<dyn Path>, String> {
        Err(NOT_BUILT.to_owned())
    }

    pub(super) fn let_go(&mut self) {}
}
