//! The RDMA device of this node, shared by all paths over it.

use super::RdmaError;
use super::watch::Watch;
use dflow_verbs::{Context, Devices, GidChoice, GidEntry, PortState};
use std::net::IpAddr;
use std::sync::Arc;

/// The port of a device that is named without one.
const FIRST_PORT: u8 = 1;

/// An RDMA device, one of its ports, and an address on it. Clones share it; it is closed with the last clone and path.
#[derive(Clone, Debug)]
pub struct RdmaDevice {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    context: Context,
    port: u8,
    gid: GidEntry,
    watch: Watch,
}

impl RdmaDevice {
    /// The device, port and address from which packets to `peer` leave.
    ///
    /// # Errors
    /// If there is none, if it cannot be opened, or if the thread for its events cannot be started.
    pub fn open_towards(peer: IpAddr) -> Result<Self, RdmaError> {
        let (context, port, gid) = Devices::list()?.open_towards(peer)?;
        Self::new(context, port, gid)
    }

    /// The device of this name, with this port (from 1) and address.
    ///
    /// # Errors
    /// If there is no such device, port or address, if the device cannot be opened, or if the thread for its events cannot
    /// be started.
    pub fn open_named(name: &str, port: u8, choice: GidChoice) -> Result<Self, RdmaError> {
        let context = Devices::list()?.named(name)?.open()?;
        let gid = context.choose_gid(port, choice)?;
        Self::new(context, port, gid)
    }

    /// The device of this name, at its first port: `NAME`, or `NAME:INDEX` with the address at that index of its table.
    ///
    /// # Errors
    /// As [`RdmaDevice::open_named`].
    pub fn open(name: &str) -> Result<Self, RdmaError> {
        let (name, choice) = split(name);
        Self::open_named(name, FIRST_PORT, choice)
    }

    /// Checks that the device for [`RdmaDevice::open`] exists, even without a link at present: an interface that is down has no
    /// address.
    ///
    /// # Errors
    /// If there is no such device, if it cannot be opened, or if there is no address at the given index.
    pub fn find(name: &str) -> Result<(), RdmaError> {
        let (name, choice) = split(name);
        let context = Devices::list()?.named(name)?.open()?;
        if let GidChoice::Index(_) = choice {
            context.choose_gid(FIRST_PORT, choice)?;
        }
        Ok(())
    }

    fn new(context: Context, port: u8, gid: GidEntry) -> Result<Self, RdmaError> {
        let watch = Watch::start(&context, port, &gid).map_err(|error| RdmaError::Events(error.into()))?;
        Ok(Self { inner: Arc::new(Inner { context, port, gid, watch }) })
    }

    /// Checks that the port has a link: without one, a path would be lost at its first use.
    ///
    /// # Errors
    /// [`RdmaError::LinkDown`] if it has none, or another error if the port cannot be queried.
    pub fn check_link(&self) -> Result<(), RdmaError> {
        let (context, port) = (&self.inner.context, self.inner.port);
        match context.port(port)?.state {
            PortState::Active => Ok(()),
            _ => Err(RdmaError::LinkDown { device: context.name().to_owned(), port }),
        }
    }

    /// What protects the windows of a path from everybody but its peer, for people.
    #[must_use]
    pub fn guard(&self) -> &'static str {
        "each connection has a protection domain of its own, in which nothing but the granted windows is open: their keys \
         are of no use to any other queue pair"
    }

    /// The device, the port and the address, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} port {}, {}", self.inner.context.name(), self.inner.port, self.inner.gid)
    }

    pub(super) fn context(&self) -> &Context {
        &self.inner.context
    }

    pub(super) fn port(&self) -> u8 {
        self.inner.port
    }

    pub(super) fn gid(&self) -> &GidEntry {
        &self.inner.gid
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.inner.watch
    }
}

/// Splits `NAME` or `NAME:INDEX`.
fn split(name: &str) -> (&str, GidChoice) {
    match name.rsplit_once(':').and_then(|(name, index)| Some((name, index.parse().ok()?))) {
        Some((name, index)) => (name, GidChoice::Index(index)),
        None => (name, GidChoice::Any),
    }
}
