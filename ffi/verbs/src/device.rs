//! Devices and their ports.

use crate::endpoint::Mtu;
use crate::error::DeviceError;
use crate::gid::{Gid, GidEntry, listed, local_address_towards, matching};
use rdma_sys::{
    ibv_close_device, ibv_context, ibv_device, ibv_device_attr, ibv_device_cap_flags, ibv_fork_init,
    ibv_free_device_list, ibv_get_device_guid, ibv_get_device_list, ibv_get_device_name, ibv_open_device,
    ibv_port_attr, ibv_port_state, ibv_query_device, ibv_query_gid,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

const SYSFS: &str = "/sys/class/infiniband";

/// The RDMA devices of this machine.
#[derive(Debug)]
pub struct Devices {
    devices: Vec<Device>,
}

impl Devices {
    /// Lists the devices; there is at least one.
    ///
    /// # Errors
    /// If there is none; the error says why.
    pub fn list() -> Result<Self, DeviceError> {
        initialize()?;
        let mut count = 0;
        // SAFETY: the call writes the number of devices to `count` and returns an array that `List` frees.
        let raw = unsafe { ibv_get_device_list(&raw mut count) };
        let length = usize::try_from(count).unwrap_or(0);
        let Some(start) = NonNull::new(raw).filter(|_| length > 0) else {
            return Err(why_none(Path::new(SYSFS), raw.is_null().then(last_error)));
        };
        let list = Arc::new(List { start, length });
        let devices = (0..length).map(|index| Device::new(list.clone(), index)).collect();
        Ok(Self { devices })
    }

    /// Iterates over the devices.
    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter()
    }

    /// The device with this name.
    ///
    /// # Errors
    /// If there is none; the error lists the existing devices.
    pub fn named(&self, name: &str) -> Result<&Device, DeviceError> {
        self.iter().find(|device| device.name == name).ok_or_else(|| DeviceError::UnknownDevice {
            name: name.to_owned(),
            have: self.devices.iter().map(Device::name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Opens the device with the RoCEv2 address that is the source address of packets to `peer`. Also returns the
    /// number of the port and the GID with that address.
    ///
    /// # Errors
    /// If there is no route, if no device has the address, or if the device cannot be opened.
    pub fn open_towards(&self, peer: IpAddr) -> Result<(Context, u8, GidEntry), DeviceError> {
        let local = local_address_towards(peer)?;
        let mut have = Vec::new();
        let mut failed = None;
        for device in self.iter() {
            let context = match device.open() {
                Ok(context) => context,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            for port in context.ports() {
                let entries = context.gids(port)?;
                if let Some(entry) = matching(&entries, local) {
                    let entry = entry.clone();
                    return Ok((context, port, entry));
                }
                have.extend(entries);
            }
        }
        // If a device could not be opened, it may be the one with the address: its error is the useful one.
        Err(failed.unwrap_or_else(|| DeviceError::NoPath { peer, local, have: listed(&have) }))
    }
}

/// The array from libibverbs into which the devices point.
#[derive(Debug)]
struct List {
    start: NonNull<*mut ibv_device>,
    length: usize,
}

// SAFETY: libibverbs allows every call from every thread; the array is never written.
unsafe impl Send for List {}
// SAFETY: as above.
unsafe impl Sync for List {}

impl List {
    fn get(&self, index: usize) -> *mut ibv_device {
        assert!(index < self.length, "a device is created with its index in the list");
        // SAFETY: within the array of `length` pointers.
        unsafe { *self.start.as_ptr().add(index) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the array is from ibv_get_device_list; opened devices stay valid without it.
        unsafe { ibv_free_device_list(self.start.as_ptr()) };
    }
}

/// One RDMA device.
#[derive(Clone, Debug)]
pub struct Device {
    list: Arc<List>,
    index: usize,
    name: String,
    guid: u64,
}

impl Device {
    fn new(list: Arc<List>, index: usize) -> Self {
        let raw = list.get(index);
        // SAFETY: the pointer is one of the list's; the name is a C string that is valid as long as the device.
        let name = unsafe { CStr::from_ptr(ibv_get_device_name(raw)) }.to_string_lossy().into_owned();
        // SAFETY: the pointer is one of the list's.
        let guid = u64::from_be(unsafe { ibv_get_device_guid(raw) });
        Self { list, index, name, guid }
    }

    /// The kernel's name, such as `mlx5_0` or `rxe0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The globally unique identifier.
    #[must_use]
    pub fn guid(&self) -> u64 {
        self.guid
    }

    /// Opens the device.
    ///
    /// # Errors
    /// If its device file is missing or must not be opened, or if the driver rejects it.
    pub fn open(&self) -> Result<Context, DeviceError> {
        let raw = self.list.get(self.index);
        // SAFETY: the pointer is one of the list's, which lives.
        let Some(context) = NonNull::new(unsafe { ibv_open_device(raw) }) else {
            return Err(self.why_not_opened(last_error()));
        };
        let inner = Opened { raw: context, name: self.name.clone(), entry: class_entry(&self.name) };
        // SAFETY: the context was opened above and is closed only with `inner`.
        let events = unsafe { BorrowedFd::borrow_raw((*context.as_ptr()).async_fd) };
        rustix::io::ioctl_fionbio(events, true).map_err(|source| inner.failed("set up the events of", source))?;
        let mut attributes = MaybeUninit::<ibv_device_attr>::zeroed();
        // SAFETY: the context is open; the call fills the attributes, which are plain numbers.
        let code = unsafe { ibv_query_device(context.as_ptr(), attributes.as_mut_ptr()) };
        check(code).map_err(|source| inner.failed("query", source))?;
        // SAFETY: filled above; zeroes are valid values, too.
        let attributes = unsafe { attributes.assume_init() };
        Ok(Context { opened: Arc::new(inner), attributes: Arc::new(Attributes(attributes)) })
    }

    /// Determines why a device could not be opened: libibverbs reports ENOENT whatever is wrong with the device file.
    fn why_not_opened(&self, error: Errno) -> DeviceError {
        let device = self.name.clone();
        let Some(path) = device_file(&device) else {
            return DeviceError::System { action: "open", device, source: error };
        };
        match File::options().read(true).write(true).open(&path).map_err(|error| error.kind()) {
            Err(ErrorKind::NotFound) => DeviceError::NoDeviceFile { device, path },
            Err(ErrorKind::PermissionDenied) => DeviceError::NoPermission { device, path },
            _ => DeviceError::System { action: "open", device, source: error },
        }
    }
}

/// The path of the device file, if ib_uverbs has created one.
fn device_file(device: &str) -> Option<String> {
    Some(format!("/dev/infiniband/{}", class_entry(device)?.file_name()?.to_string_lossy()))
}

/// The sysfs directory of a device in the class of devices available to programs.
fn class_entry(device: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir("/sys/class/infiniband_verbs").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .find(|entry| std::fs::read_to_string(entry.join("ibdev")).is_ok_and(|name| name.trim() == device))
}

/// An opened device. Clones share it. It is closed when the last clone and every object created from it are dropped.
#[derive(Clone)]
pub struct Context {
    opened: Arc<Opened>,
    attributes: Arc<Attributes>,
}

struct Opened {
    raw: NonNull<ibv_context>,
    name: String,
    /// Its sysfs directory, if sysfs is mounted.
    entry: Option<PathBuf>,
}

struct Attributes(ibv_device_attr);

// SAFETY: libibverbs allows calls on one context from every thread.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

impl Opened {
    fn failed(&self, action: &'static str, source: Errno) -> DeviceError {
        DeviceError::System { action, device: self.name.clone(), source }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: every object created from the context holds a clone of the `Arc` around this value, so none is left.
        let code = unsafe { ibv_close_device(self.raw.as_ptr()) };
        if let Err(error) = check(code) {
            tracing::warn!("the RDMA device {} was not closed: {error}", self.name);
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.name())
    }
}

impl Context {
    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.opened.name
    }

    /// Whether the kernel still lists the device. A driver without support for surprise removal, such as soft-RoCE,
    /// sends no event when its device is removed: the kernel unlists the device and waits until every program has
    /// closed it.
    #[must_use]
    pub fn is_offered(&self) -> bool {
        self.opened.entry.as_ref().is_none_or(|entry| entry.exists())
    }

    /// The numbers of its ports, starting at 1.
    pub fn ports(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.attributes.0.phys_port_cnt
    }

    /// Maximum number of requests in flight on one work queue.
    #[must_use]
    pub fn max_queue_depth(&self) -> u32 {
        u32::try_from(self.attributes.0.max_qp_wr).unwrap_or(0)
    }

    /// Maximum number of entries of a completion queue.
    #[must_use]
    pub fn max_completions(&self) -> u32 {
        u32::try_from(self.attributes.0.max_cqe).unwrap_or(0)
    }

    /// Maximum number of RDMA READs that one queue pair can answer concurrently.
    #[must_use]
    pub fn max_reads(&self) -> u8 {
        u8::try_from(self.attributes.0.max_qp_rd_atom).unwrap_or(if self.attributes.0.max_qp_rd_atom > 0 {
            255
        } else {
            0
        })
    }

    /// Whether the device supports memory windows of type 2B, each of which is accessible through one queue pair only.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        self.attributes.0.device_cap_flags & ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B.0 != 0
    }

    /// The current state of a port.
    ///
    /// # Errors
    /// If the device has no such port, or was removed.
    pub fn port(&self, number: u8) -> Result<Port, DeviceError> {
        let mut attributes = MaybeUninit::<ibv_port_attr>::zeroed();
        // SAFETY: the context is open; the call fills the attributes, which are plain numbers.
        let code = unsafe { rdma_sys::___ibv_query_port(self.raw(), number, attributes.as_mut_ptr()) };
        check(code).map_err(|source| self.opened.failed("query a port of", source))?;
        // SAFETY: filled above; zeroes are valid values, too.
        let attributes = unsafe { attributes.assume_init() };
        Ok(Port {
            number,
            state: match attributes.state {
                ibv_port_state::IBV_PORT_ACTIVE => PortState::Active,
                ibv_port_state::IBV_PORT_INIT | ibv_port_state::IBV_PORT_ARMED => PortState::Initializing,
                _ => PortState::Down,
            },
            active_mtu: Mtu::from_raw(attributes.active_mtu).unwrap_or(Mtu::Bytes256),
            link_layer: match attributes.link_layer {
                1 => LinkLayer::InfiniBand,
                2 => LinkLayer::Ethernet,
                _ => LinkLayer::Unknown,
            },
            lid: attributes.lid,
            max_message: attributes.max_msg_sz,
            gid_table_length: u32::try_from(attributes.gid_tbl_len).unwrap_or(0),
        })
    }

    pub(crate) fn gid(&self, port: u8, index: u8) -> Result<Gid, DeviceError> {
        let mut gid = rdma_sys::ibv_gid { raw: [0; 16] };
        // SAFETY: the context is open; the call fills the 16 bytes.
        let code = unsafe { ibv_query_gid(self.raw(), port, index.into(), &raw mut gid) };
        check(code).map_err(|source| self.opened.failed("query a GID of", source))?;
        // SAFETY: every byte of the union is initialised, whichever field was written.
        Ok(Gid(unsafe { gid.raw }))
    }

    pub(crate) fn raw(&self) -> *mut ibv_context {
        self.opened.raw.as_ptr()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.opened, &other.opened)
    }
}

/// The state of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// No link.
    Down,
    /// There is a link, but it does not carry data yet.
    Initializing,
    /// Ready for data.
    Active,
}

/// The link layer below RDMA packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet: RoCE.
    Ethernet,
    /// Not reported by the device.
    Unknown,
}

/// A snapshot of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number on the device, starting at 1.
    pub number: u8,
    /// Its state.
    pub state: PortState,
    /// Maximum payload of a packet on the link.
    pub active_mtu: Mtu,
    /// Its link layer.
    pub link_layer: LinkLayer,
    /// The local identifier in an InfiniBand subnet; 0 on Ethernet.
    pub lid: u16,
    /// Maximum length of a message, in bytes.
    pub max_message: u32,
    /// The number of entries of the GID table.
    pub gid_table_length: u32,
}

/// Marks registered memory as not inherited by child processes, which must happen before the first registration.
/// Otherwise a write after fork would give this process a copy of a page while the device still uses the original.
fn initialize() -> Result<(), DeviceError> {
    static DONE: OnceLock<Result<(), Errno>> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: the call has no arguments; `OnceLock` makes it the first call of verbs in the process.
        check(unsafe { ibv_fork_init() })
    })
    .map_err(|source| DeviceError::System { action: "make fork safe for", device: "(any)".to_owned(), source })
}

/// Why no device was found. `class`: the sysfs directory in which the kernel lists its devices; `error`: of the failed
/// call, if one failed.
fn why_none(class: &Path, error: Option<Errno>) -> DeviceError {
    let Ok(entries) = std::fs::read_dir(class) else { return DeviceError::NoSubsystem };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // libibverbs silently omits devices whose device file is missing.
    for device in &names {
        if let Some(path) = device_file(device).filter(|path| !Path::new(path).exists()) {
            return DeviceError::NoDeviceFile { device: device.clone(), path };
        }
    }
    match error {
        _ if names.is_empty() => DeviceError::NoDevice,
        None | Some(Errno::NOSYS) => DeviceError::NoProvider { kernel: names.join(", ") },
        Some(source) => DeviceError::System { action: "list", device: names.join(", "), source },
    }
}

/// The error number of the call that has just failed.
pub(crate) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The result of a call of verbs that returns 0, an error number, or -1 with errno set.
pub(crate) fn check(code: i32) -> Result<(), Errno> {
    match code {
        0 => Ok(()),
        -1 => Err(last_error()),
        code => Err(Errno::from_raw_os_error(code.saturating_abs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_no_device_is_said_with_what_to_do() {
        let class = tempfile::tempdir().expect("a directory");
        let missing = why_none(&class.path().join("infiniband"), Some(Errno::NOSYS));
        assert!(matches!(missing, DeviceError::NoSubsystem), "{missing}");
        assert!(missing.to_string().contains("'modprobe rdma_rxe'"), "{missing}");

        for error in [None, Some(Errno::NOSYS), Some(Errno::PERM)] {
            let none = why_none(class.path(), error);
            assert!(matches!(none, DeviceError::NoDevice), "{none}");
            assert!(none.to_string().contains("'rdma link add rxe0 type rxe netdev INTERFACE'"), "{none}");
        }

        // Names that no machine has.
        for name in ["none_7", "none_8"] {
            std::fs::create_dir(class.path().join(name)).expect("a directory");
        }
        for error in [None, Some(Errno::NOSYS)] {
            let unknown = why_none(class.path(), error);
            let DeviceError::NoProvider { kernel } = &unknown else { panic!("{unknown}") };
            assert!(kernel.contains("none_7") && kernel.contains("none_8"), "{kernel}");
            assert!(unknown.to_string().contains("install the package ibverbs-providers"), "{unknown}");
        }
        let other = why_none(class.path(), Some(Errno::PERM));
        assert!(matches!(other, DeviceError::System { action: "list", source: Errno::PERM, .. }), "{other}");
    }
}
