//! Registered memory: what a device may access, and on whose request.

use crate::device::{Context, check, last_error};
use crate::error::{DeviceError, MemoryError, PostError};
use crate::memory::StableMemory;
use crate::slow::timed;
use rdma_sys::{ibv_access_flags as flags, ibv_alloc_pd, ibv_dealloc_pd, ibv_dereg_mr, ibv_mr, ibv_pd, ibv_reg_mr};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// A protection domain: a queue pair can access only memory registered in its own domain. Clones share it.
#[derive(Clone)]
pub struct ProtectionDomain {
    inner: Arc<Domain>,
}

struct Domain {
    raw: NonNull<ibv_pd>,
    context: Context,
}

// SAFETY: libibverbs allows calls on one domain from every thread.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: every object created in the domain holds a clone of the `Arc` around this value, so none is left.
        if let Err(error) = check(unsafe { ibv_dealloc_pd(self.raw.as_ptr()) }) {
            tracing::warn!("a protection domain of {} was not freed: {error}", self.context.name());
        }
    }
}

impl fmt::Debug for ProtectionDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProtectionDomain({})", self.context().name())
    }
}

impl ProtectionDomain {
    /// Creates a domain without memory.
    ///
    /// # Errors
    /// If the device has no domain left.
    pub fn new(context: &Context) -> Result<Self, DeviceError> {
        // SAFETY: the context is open.
        let raw = NonNull::new(unsafe { ibv_alloc_pd(context.raw()) }).ok_or_else(|| DeviceError::System {
            action: "make a protection domain on",
            device: context.name().to_owned(),
            source: last_error(),
        })?;
        Ok(Self { inner: Arc::new(Domain { raw, context: context.clone() }) })
    }

    /// The device.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.inner.context
    }

    pub(crate) fn raw(&self) -> *mut ibv_pd {
        self.inner.raw.as_ptr()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

/// What a device may do with registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionAccess {
    /// Send from it. A read-only mapping can be registered on Linux 6.2 or newer.
    Source,
    /// Receive into it, and send from it.
    Receive,
    /// Receive into it, send from it, and let peers that have the key write to it.
    RemoteWrite,
    /// Send from it, and let peers that have the key read it.
    RemoteRead,
    /// Receive into it, and let peers write to the parts that are bound to a [`crate::MemoryWindow`].
    Windows,
}

impl RegionAccess {
    fn raw(self) -> flags {
        match self {
            Self::Source => flags(0),
            Self::Receive => flags::IBV_ACCESS_LOCAL_WRITE,
            Self::RemoteWrite => flags::IBV_ACCESS_LOCAL_WRITE | flags::IBV_ACCESS_REMOTE_WRITE,
            Self::RemoteRead => flags::IBV_ACCESS_REMOTE_READ,
            Self::Windows => flags::IBV_ACCESS_LOCAL_WRITE | flags::IBV_ACCESS_MW_BIND,
        }
    }

    /// Whether the local device may write.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Receive | Self::RemoteWrite | Self::Windows)
    }
}

/// The key with which local queue pairs refer to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalKey(pub(crate) u32);

/// The key with which a peer refers to a region or a window. It is a capability: it grants access to any holder that
/// can send on a queue pair of the domain.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RemoteKey(u32);

impl RemoteKey {
    /// A key received from a peer.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The number to send to the peer.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for RemoteKey {
    /// Omits the number: it grants access, so it must not appear in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RemoteKey(..)")
    }
}

/// An address in a peer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteMemory {
    /// The address of the first byte, in the peer's address space.
    pub address: u64,
    /// The key that grants access to it.
    pub key: RemoteKey,
}

impl RemoteMemory {
    /// The address `bytes` further on. The peer's device checks that it is within the region.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        Self { address: self.address.wrapping_add(bytes), ..self }
    }
}

/// Registered memory. Clones share it. When the last clone and the last request that uses it are gone, the memory is
/// deregistered and then freed.
#[derive(Clone)]
pub struct MemoryRegion {
    inner: Arc<Region>,
}

struct Region {
    raw: NonNull<ibv_mr>,
    start: NonNull<u8>,
    length: usize,
    access: RegionAccess,
    local: LocalKey,
    remote: RemoteKey,
    domain: ProtectionDomain,
    /// Dropped manually, and leaked if it cannot be deregistered.
    memory: ManuallyDrop<Arc<dyn StableMemory>>,
}

// SAFETY: libibverbs allows calls on one region from every thread; the address is only passed to the device.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        let given_back = timed(self.domain.context(), "give registered memory back", || {
            // SAFETY: requests hold clones of the `Arc` around this value, so no local request is in flight.
            check(unsafe { ibv_dereg_mr(self.raw.as_ptr()) })
        });
        match given_back {
            // SAFETY: dropped once, here, and not used afterwards.
            Ok(()) => unsafe { ManuallyDrop::drop(&mut self.memory) },
            Err(error) => tracing::error!(
                "{} keeps {} bytes of registered memory, which are therefore never freed: {error}",
                self.domain.context().name(),
                self.length
            ),
        }
    }
}

impl fmt::Debug for MemoryRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryRegion({} bytes, {:?})", self.inner.length, self.inner.access)
    }
}

impl MemoryRegion {
    /// Registers all of `memory` and keeps it alive.
    ///
    /// # Errors
    /// If the limit on locked memory is too low, if read-only memory is registered for writing, or if the device
    /// rejects it.
    pub fn register(
        domain: &ProtectionDomain,
        memory: Arc<dyn StableMemory>,
        access: RegionAccess,
    ) -> Result<Self, MemoryError> {
        let all = 0..memory.length();
        Self::register_part(domain, memory, all, access)
    }

    /// Registers only these bytes of `memory`, and keeps all of it alive.
    ///
    /// # Errors
    /// As [`MemoryRegion::register`], or if the bytes are not within the memory.
    pub fn register_part(
        domain: &ProtectionDomain,
        memory: Arc<dyn StableMemory>,
        part: Range<usize>,
        access: RegionAccess,
    ) -> Result<Self, MemoryError> {
        if part.start > part.end || part.end > memory.length() {
            return Err(MemoryError::NotWithin { start: part.start, end: part.end, length: memory.length() });
        }
        let length = part.len();
        if length == 0 {
            return Err(MemoryError::Empty);
        }
        if access.writes() && !memory.writable() {
            return Err(MemoryError::ReadOnly);
        }
        // SAFETY: within the memory, as checked above.
        let start = unsafe { memory.address().add(part.start) };
        let rights = i32::try_from(access.raw().0).unwrap_or(0);
        let made = timed(domain.context(), "register memory", || {
            // SAFETY: the range stays mapped as long as `memory` is alive, which outlives the region.
            NonNull::new(unsafe { ibv_reg_mr(domain.raw(), start.as_ptr().cast(), length, rights) })
                .ok_or_else(last_error)
        });
        let raw = made.map_err(|source| why_not_registered(domain, length, access, source))?;
        // SAFETY: just created; the keys do not change.
        let (local, remote) = unsafe { (LocalKey((*raw.as_ptr()).lkey), RemoteKey((*raw.as_ptr()).rkey)) };
        let (domain, memory) = (domain.clone(), ManuallyDrop::new(memory));
        Ok(Self { inner: Arc::new(Region { raw, start, length, access, local, remote, domain, memory }) })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.inner.length
    }

    /// The access for which it is registered.
    #[must_use]
    pub fn access(&self) -> RegionAccess {
        self.inner.access
    }

    /// The memory itself.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn StableMemory> {
        &self.inner.memory
    }

    /// A range of it, for a request.
    ///
    /// # Errors
    /// If the range is not within the region, or is longer than 4 GiB - 1.
    pub fn slice(&self, range: Range<usize>) -> Result<MemorySlice<'_>, PostError> {
        let wrong = PostError::OutOfRange { start: range.start, end: range.end, length: self.inner.length };
        let length = range.end.checked_sub(range.start).and_then(|length| u32::try_from(length).ok());
        match length {
            Some(length) if range.end <= self.inner.length => {
                Ok(MemorySlice { region: self, offset: range.start, length })
            }
            _ => Err(wrong),
        }
    }

    /// The key for local queue pairs.
    #[must_use]
    pub fn local_key(&self) -> LocalKey {
        self.inner.local
    }

    /// Its address and key for peers, if peers may access it.
    #[must_use]
    pub fn remote(&self) -> Option<RemoteMemory> {
        matches!(self.inner.access, RegionAccess::RemoteWrite | RegionAccess::RemoteRead)
            .then(|| RemoteMemory { address: self.address(0), key: self.inner.remote })
    }

    pub(crate) fn address(&self, offset: usize) -> u64 {
        (self.inner.start.as_ptr() as u64).wrapping_add(offset as u64)
    }

    pub(crate) fn domain(&self) -> &ProtectionDomain {
        &self.inner.domain
    }

    pub(crate) fn raw(&self) -> *mut ibv_mr {
        self.inner.raw.as_ptr()
    }
}

/// A range of a region.
#[derive(Clone, Copy, Debug)]
pub struct MemorySlice<'a> {
    pub(crate) region: &'a MemoryRegion,
    pub(crate) offset: usize,
    pub(crate) length: u32,
}

fn why_not_registered(domain: &ProtectionDomain, bytes: usize, access: RegionAccess, source: Errno) -> MemoryError {
    let limit = getrlimit(Resource::Memlock).current;
    if let (Errno::NOMEM | Errno::AGAIN | Errno::PERM, Some(limit)) = (source, limit) {
        let needed = pinned().saturating_add(bytes as u64);
        if needed > limit {
            return MemoryError::Memlock { bytes, needed, limit };
        }
    }
    if source == Errno::FAULT {
        return if access.writes() { MemoryError::ReadOnly } else { MemoryError::KernelWantsWritable };
    }
    MemoryError::System { action: "register memory", bytes, device: domain.context().name().to_owned(), source }
}

/// How many bytes of this process are pinned for devices already.
fn pinned() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmPin:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}
