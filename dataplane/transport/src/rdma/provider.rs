//! RDMA towards one peer: the device on the route to it, and the endpoint that waits for the peer's.

use super::{Prepared, RdmaConfig, RdmaDevice, RdmaPath};
use crate::kinds::{PathSettings, RdmaUse};
use crate::path::{Path, PathKind};
use crate::provider::{Description, Provider, ProviderError};
use std::net::IpAddr;
use std::task::Waker;

/// RDMA towards one peer.
pub struct RdmaProvider {
    peer: IpAddr,
    wanted: RdmaUse,
    config: RdmaConfig,
    device: Option<RdmaDevice>,
    prepared: Option<Prepared>,
}

impl RdmaProvider {
    /// Towards the peer at this address.
    #[must_use]
    pub fn new(peer: IpAddr, settings: &PathSettings) -> Self {
        let default = RdmaConfig::default();
        let config = RdmaConfig { idle: settings.rdma_idle.unwrap_or(default.idle), ..default };
        Self { peer, wanted: settings.rdma.clone(), config, device: None, prepared: None }
    }

    /// The device, if its port has a link.
    fn device(&mut self) -> Result<RdmaDevice, ProviderError> {
        let device = match (&self.device, &self.wanted) {
            (Some(device), _) => device.clone(),
            (None, RdmaUse::Device(name)) => RdmaDevice::open(name)?,
            (None, RdmaUse::Auto | RdmaUse::Off) => RdmaDevice::open_towards(self.peer)?,
        };
        self.device = Some(device.clone());
        device.check_link()?;
        Ok(device)
    }
}

impl Provider for RdmaProvider {
    fn kind(&self) -> PathKind {
        PathKind::Rdma
    }

    fn allowed(&self) -> Result<(), ProviderError> {
        match self.wanted {
            RdmaUse::Off => Err(ProviderError::Disabled),
            RdmaUse::Auto | RdmaUse::Device(_) => Ok(()),
        }
    }

    fn describe(&mut self) -> Result<Description, ProviderError> {
        self.allowed()?;
        let device = self.device()?;
        Ok(Description { device: device.describe(), guard: device.guard().to_owned() })
    }

    fn prepare(&mut self, waker: Waker) -> Result<Vec<u8>, ProviderError> {
        self.allowed()?;
        let prepared = RdmaPath::prepare(&self.device()?, &self.config, waker)?;
        let endpoint = prepared.endpoint();
        self.prepared = Some(prepared);
        Ok(endpoint)
    }

    fn connect(&mut self, endpoint: &[u8]) -> Result<Box<dyn Path>, ProviderError> {
        let prepared = self.prepared.take().ok_or(ProviderError::NotPrepared)?;
        Ok(Box::new(prepared.connect(endpoint)?))
    }

    fn release(&mut self) {
        // A device can be removed only while no process holds it open; the next endpoint opens whichever exists by then.
        self.prepared = None;
        self.device = None;
    }
}
