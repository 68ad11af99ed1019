//! Devices, their ports and addresses, and the errors for those that do not exist.

use crate::common::{address, open};
use dflow_verbs::{DeviceError, Devices, GidChoice, GidKind, LinkLayer, PortState, probe};
use rustix::thread::CapabilitySet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[test]
fn the_device_its_port_and_its_addresses_are_described() {
    let devices = Devices::list().expect("devices");
    let device = devices.named("rxe0").expect("rxe0");
    assert_ne!(device.guid(), 0);
    let context = device.open().expect("opened");
    let port = context.port(1).expect("a port");
    assert_eq!((port.state, port.link_layer), (PortState::Active, LinkLayer::Ethernet));
    assert_eq!(port.active_mtu.bytes(), 4096);
    assert!(context.max_queue_depth() > 0 && context.max_completions() > 0 && context.has_windows());
    let own = address("DFLOW_VM_ADDRESS");
    let gids = context.gids(1).expect("a table");
    assert!(gids.iter().any(|entry| entry.gid.to_ip() == own && entry.kind == GidKind::RoceV2), "{gids:?}");
    assert!(gids.iter().all(|entry| entry.interface.as_deref() == Some("rdma0")), "{gids:?}");

    let probe = probe();
    assert!(probe.usable, "{probe}");
    assert!(probe.to_string().contains(&own.to_string()), "{probe}");
}

#[test]
fn errors_list_the_existing_devices_and_addresses() {
    let devices = Devices::list().expect("devices");
    let error = devices.named("mlx5_7").expect_err("no such device");
    assert_eq!(error.to_string(), "there is no RDMA device 'mlx5_7'; the devices are: rxe0");

    let context = devices.named("rxe0").expect("rxe0").open().expect("opened");
    let own = address("DFLOW_VM_ADDRESS");
    let error = context.choose_gid(1, GidChoice::Local("192.0.2.1".parse().expect("an address"))).expect_err("no GID");
    assert!(matches!(&error, DeviceError::GidNotFound { have, .. } if have.contains(&own.to_string())), "{error}");
    let error = context.choose_gid(1, GidChoice::Index(99)).expect_err("no GID");
    assert!(error.to_string().contains("has no GID for index 99"), "{error}");
    assert!(matches!(context.port(9), Err(DeviceError::System { .. })));

    // The other card has no RDMA device.
    let lan = address("DFLOW_VM_LAN_ADDRESS");
    let beside = IpAddr::from([10, 78, 0, 200]);
    let error = devices.open_towards(beside).expect_err("no RDMA there");
    assert!(matches!(&error, DeviceError::NoPath { local, .. } if *local == lan), "{error}");
}

#[test]
fn the_gid_is_that_of_the_route_or_the_requested_one() {
    let (context, port, chosen) = open();
    assert_eq!(chosen.gid.to_ip(), address("DFLOW_VM_ADDRESS"));
    assert_eq!(context.choose_gid(port, GidChoice::Index(chosen.index)).expect("by index"), chosen);
    assert_eq!(context.choose_gid(port, GidChoice::Local(chosen.gid.to_ip())).expect("by address"), chosen);
    assert_eq!(context.choose_gid(port, GidChoice::Index(0)).expect("by index").index, 0);
}

/// The errors of opening the device and of the probe while its device file is changed.
fn refused(change: impl FnOnce(&Path), back: impl FnOnce(&Path)) -> (DeviceError, String) {
    let file = Path::new("/dev/infiniband/uverbs0");
    let devices = Devices::list().expect("devices");
    let device = devices.named("rxe0").expect("rxe0");
    change(file);
    // Root may open any file. Capabilities belong to the thread, so a thread without them sees the permissions.
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let mut rights = rustix::thread::capabilities(None).expect("capabilities");
                rights.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
                rustix::thread::set_capabilities(None, rights).expect("given up");
                (device.open(), probe())
            })
            .join()
    });
    back(file);
    let (opened, probe) = result.expect("no panic");
    assert!(!probe.usable, "{probe}");
    (opened.expect_err("refused"), probe.to_string())
}

#[test]
fn a_missing_permission_is_reported_with_the_device_file() {
    let mode = |mode| move |file: &Path| fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("changed");
    let (error, probe) = refused(mode(0), mode(0o666));
    assert!(matches!(&error, DeviceError::NoPermission { path, .. } if path == "/dev/infiniband/uverbs0"), "{error}");
    assert!(probe.contains("no permission on /dev/infiniband/uverbs0"), "{probe}");
}

#[test]
fn a_missing_device_file_is_reported() {
    let (here, away) = ("/dev/infiniband/uverbs0", "/dev/infiniband/away");
    let (error, probe) =
        refused(|_| fs::rename(here, away).expect("moved"), |_| fs::rename(away, here).expect("moved back"));
    assert!(matches!(&error, DeviceError::NoDeviceFile { path, .. } if path == here), "{error}");
    assert!(probe.contains("/dev/infiniband/uverbs0 is missing"), "{probe}");
}
