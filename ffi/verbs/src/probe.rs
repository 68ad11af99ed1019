//! The report of `dflow doctor` on RDMA on this machine.

use crate::Devices;
use crate::error::DeviceError;
use std::fmt;

/// Whether RDMA can be used here, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whether an active port has an address that peers can reach.
    pub usable: bool,
    /// A line for each port of each device, or one line with what is missing and what to do.
    pub lines: Vec<String>,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.usable { "on" } else { "off" }, self.lines.join("; "))
    }
}

/// Examines the RDMA devices of this machine: opens each device once and changes nothing.
#[must_use]
pub fn probe() -> Probe {
    let mut probe = Probe { usable: false, lines: Vec::new() };
    if let Err(error) = look(&mut probe) {
        probe.lines.push(error.to_string());
    }
    probe
}

#[cfg(not(feature = "rdma"))]
fn look(_: &mut Probe) -> Result<(), DeviceError> {
    Devices::list().map(drop)
}

#[cfg(feature = "rdma")]
fn look(probe: &mut Probe) -> Result<(), DeviceError> {
    for device in Devices::list()?.iter() {
        let context = match device.open() {
            Ok(context) => context,
            Err(error) => {
                probe.lines.push(error.to_string());
                continue;
            }
        };
        for number in context.ports() {
            let (usable, line) = ports::describe(&context, number)?;
            probe.usable |= usable;
            probe.lines.push(line);
        }
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Memlock).current {
        probe
            .lines
            .push(format!("locked memory is limited to {limit} bytes (ulimit -l), and all of DStore's is locked"));
    }
    Ok(())
}

#[cfg(feature = "rdma")]
mod ports {
    use crate::device::{Context, LinkLayer, PortState};
    use crate::error::DeviceError;
    use crate::gid::{GidKind, listed};

    /// Whether a port can be used, and a line about it.
    pub(super) fn describe(context: &Context, number: u8) -> Result<(bool, String), DeviceError> {
        let port = context.port(number)?;
        let mut gids = context.gids(number)?;
        let have = listed(&gids);
        gids.retain(|entry| match port.link_layer {
            LinkLayer::Ethernet => entry.kind == GidKind::RoceV2,
            LinkLayer::InfiniBand | LinkLayer::Unknown => true,
        });
        let windows = if context.has_windows() { "memory windows 2B" } else { "no memory windows 2B" };
        let name = format!("{} port {number}", context.name());
        Ok(match port.state {
            PortState::Active if gids.is_empty() => (
                false,
                format!("{name} is active but has no RoCEv2 GID (it has: {have}); give its interface an address"),
            ),
            PortState::Active => {
                (true, format!("{name} is active, MTU {}, {windows}, GIDs: {}", port.active_mtu, listed(&gids)))
            }
            PortState::Down | PortState::Initializing => {
                (false, format!("{name} has no link; set its interface up ('ip link set … up') or check the cable"))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_device_the_reason_is_there() {
        let probe = probe();
        assert!(!probe.lines.is_empty());
        assert!(probe.to_string().starts_with(if probe.usable { "on: " } else { "off: " }));
    }

    #[cfg(not(feature = "rdma"))]
    #[test]
    fn without_the_feature_it_says_so() {
        assert!(probe().to_string().contains("without the feature 'rdma'"));
    }
}
