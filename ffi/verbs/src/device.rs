//! Devices, and their ports.

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
    /// Lists them; there is at least one.
    ///
    /// # Errors
    /// If there is none, with the reason why.
    pub fn list() -> Result<Self, DeviceError> {
        initialize()?;
        let mut count = 0;
        // SAFETY: the call writes the number of devices to `count` and gives an array that is freed by `List`.
        let raw = unsafe { ibv_get_device_list(&raw mut count) };
        let length = usize::try_from(count).unwrap_or(0);
        let Some(start) = NonNull::new(raw).filter(|_| length > 0) else {
            return Err(why_none(Path::new(SYSFS), raw.is_null().then(last_error)));
        };
        let list = Arc::new(List { start, length });
        let devices = (0..length).map(|index| Device::new(list.clone(), index)).collect();
        Ok(Self { devices })
    }

    /// Each device.
    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter()
    }

    /// The device of this name.
    ///
    /// # Errors
    /// If there is none; the error names those that there are.
    pub fn named(&self, name: &str) -> Result<&Device, DeviceError> {
        self.iter().find(|device| device.name == name).ok_or_else(|| DeviceError::UnknownDevice {
            name: name.to_owned(),
            have: self.devices.iter().map(Device::name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Opens the device whose port has the RoCEv2 address from which packets to `peer` leave, and gives the number of the
    /// port and its GID, too.
    ///
    /// # Errors
    /// If there is no route, no such device, or if it cannot be opened.
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
        // A device that may not be opened could have been the one.
        Err(failed.unwrap_or_else(|| DeviceError::NoPath { peer, local, have: listed(&have) }))
    }
}

/// The array of libibverbs, which the devices point into.
#[derive(Debug)]
struct List {
    start: NonNull<*mut ibv_device>,
    length: usize,
}

// SAFETY: libibverbs allows all calls from all threads; the array is never written.
unsafe impl Send for List {}
// SAFETY: as above.
unsafe impl Sync for List {}

impl List {
    fn get(&self, index: usize) -> *mut ibv_device {
        assert!(index < self.length, "devices are made with their place in the list");
        // SAFETY: within the array of `length` pointers.
        unsafe { *self.start.as_ptr().add(index) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the array comes from ibv_get_device_list; opened devices stay valid by themselves.
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
        // SAFETY: the pointer is one of the list's; the name is a C string that lives as long as the device.
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

    /// The number that is unique in the world.
    #[must_use]
    pub fn guid(&self) -> u64 {
        self.guid
    }

    /// Opens the device.
    ///
    /// # Errors
    /// If its file is missing or may not be opened, or if the driver refuses.
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

    /// libibverbs says "no such file" whatever is wrong with the device's file, so this looks for itself.
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

/// The file through which a device of the kernel is used, if ib_uverbs has made one.
fn device_file(device: &str) -> Option<String> {
    Some(format!("/dev/infiniband/{}", class_entry(device)?.file_name()?.to_string_lossy()))
}

/// The folder of a device in the class of those that programs may use.
fn class_entry(device: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir("/sys/class/infiniband_verbs").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .find(|entry| std::fs::read_to_string(entry.join("ibdev")).is_ok_and(|name| name.trim() == device))
}

/// An opened device. Clones share it; it is closed with the last of them and of all that was made from it.
#[derive(Clone)]
pub struct Context {
    opened: Arc<Opened>,
    attributes: Arc<Attributes>,
}

struct Opened {
    raw: NonNull<ibv_context>,
    name: String,
    /// What the kernel shows of it, if it shows anything here.
    entry: Option<PathBuf>,
}

struct Attributes(ibv_device_attr);

// SAFETY: libibverbs allows calls on one context from all threads.
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
        // SAFETY: everything made from the context holds a clone of the `Arc` around this value, so it is gone.
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

    /// Whether the machine still offers it. A driver without surprise removal, as soft-RoCE's, sends no event when its device
    /// is to go away: the kernel takes it off its lists and waits until every program has let go of it.
    #[must_use]
    pub fn is_offered(&self) -> bool {
        self.opened.entry.as_ref().is_none_or(|entry| entry.exists())
    }

    /// The numbers of its ports, from 1.
    pub fn ports(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.attributes.0.phys_port_cnt
    }

    /// The most requests that one work queue can have in flight.
    #[must_use]
    pub fn max_queue_depth(&self) -> u32 {
        u32::try_from(self.attributes.0.max_qp_wr).unwrap_or(0)
    }

    /// The most entries of a completion queue.
    #[must_use]
    pub fn max_completions(&self) -> u32 {
        u32::try_from(self.attributes.0.max_cqe).unwrap_or(0)
    }

    /// How many RDMA READs one queue pair can answer at a time.
    #[must_use]
    pub fn max_reads(&self) -> u8 {
        u8::try_from(self.attributes.0.max_qp_rd_atom).unwrap_or(if self.attributes.0.max_qp_rd_atom > 0 {
            255
        } else {
            0
        })
    }

    /// Whether it has memory windows of type 2B, which are open to one queue pair alone.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        self.attributes.0.device_cap_flags & ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B.0 != 0
    }

    /// The state of a port as it is now.
    ///
    /// # Errors
    /// If the device has no such port, or is gone.
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
        // SAFETY: all bytes of the union are initialised in either form.
        Ok(Gid(unsafe { gid.raw }))
    }

    pub(crate) fn raw(&self) -> *mut ibv_context {
        self.opened.raw.as_ptr()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.opened, &other.opened)
    }
}

/// What a port is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// No link.
    Down,
    /// A link that does not carry data yet.
    Initializing,
    /// Ready.
    Active,
}

/// What is below the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet: RoCE.
    Ethernet,
    /// The device does not say.
    Unknown,
}

/// A port as it was when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number on the device, from 1.
    pub number: u8,
    /// What it is doing.
    pub state: PortState,
    /// The largest payload of a packet on the link.
    pub active_mtu: Mtu,
    /// What is below.
    pub link_layer: LinkLayer,
    /// The address in an InfiniBand subnet; 0 on Ethernet.
    pub lid: u16,
    /// The longest message, in bytes.
    pub max_message: u32,
    /// The length of the GID table.
    pub gid_table_length: u32,
}

/// Makes registered memory safe to fork with, before anything is registered.
fn initialize() -> Result<(), DeviceError> {
    static DONE: OnceLock<Result<(), Errno>> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: takes nothing; `OnceLock` makes this the first call of verbs in the process.
        check(unsafe { ibv_fork_init() })
    })
    .map_err(|source| DeviceError::System { action: "make fork safe for", device: "(any)".to_owned(), source })
}

/// Why no device was found, with the error if there was one. `class`: where the kernel lists those that it has.
fn why_none(class: &Path, error: Option<Errno>) -> DeviceError {
    let Ok(entries) = std::fs::read_dir(class) else { return DeviceError::NoSubsystem };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // libibverbs leaves out the devices whose file is missing.
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

/// The error of the call that has just failed.
pub(crate) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// What a call of verbs that gives 0, an error number or -1 says.
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
        let class = tempfile::tempdir().expect("a folder");
        let missing = why_none(&class.path().join("infiniband"), Some(Errno::NOSYS));
        assert!(matches!(missing, DeviceError::NoSubsystem), "{missing}");
        assert!(missing.to_string().contains("'modprobe rdma_rxe'"), "{missing}");

        for error in [None, Some(Errno::NOSYS), Some(Errno::PERM)] {
            let none = why_none(class.path(), error);
            assert!(matches!(none, DeviceError::NoDevice), "{none}");
            assert!(none.to_string().contains("'rdma link add rxe0 type rxe netdev INTERFACE'"), "{none}");
        }

        // No machine has these.
        for name in ["none_7", "none_8"] {
            std::fs::create_dir(class.path().join(name)).expect("a folder");
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
