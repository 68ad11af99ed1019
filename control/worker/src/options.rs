//! The resources of a node, and their defaults on its machine.

use dflow_disk::IoChoice;
use dflow_launcher::ContainmentChoice;
use dflow_shm::Idle;
use dflow_store::Config;
use dflow_transport::{PathSettings, RdmaUse};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The resources of a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Maximum number of instances that compute at the same time.
    pub slots: u32,
    /// Memory for streams, in bytes; see [`NodeOptions::budget`] for how much of it is available.
    pub memory: u64,
    /// The window of a stream whose readers keep up, in bytes.
    pub window: u64,
    /// The directory for streams that do not fit into memory.
    pub spill_dir: PathBuf,
    /// How spilled streams are written.
    pub spill_io: IoChoice,
    /// How the processes of an attempt are contained.
    pub containment: ContainmentChoice,
    /// How long a waiting function spins before it sleeps, unless more threads than cores are runnable.
    pub spin: Duration,
    /// The node's name in reports.
    pub node: String,
    /// Whether streams between nodes may use RDMA.
    pub rdma: RdmaUse,
    /// How long the carrier polls for RDMA completions before it sleeps; `None` selects the machine's default.
    pub rdma_idle: Option<Idle>,
}

/// A cgroup leaves too little memory for streams.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process's cgroup may use {} KiB of memory, which is too little: dflow and small functions take about 8 MiB, \
     and streams need 256 KiB at least; raise the limit of the cgroup (memory.max, or memory.limit_in_bytes) to 64 MiB \
     or more",
    limit >> 10
)]
pub struct BudgetError {
    /// The least limit of the cgroup and those above, in bytes.
    pub limit: u64,
}

/// The default of [`NodeOptions::spin`]: about the cost of waking a sleeping thread on a virtual machine.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(50);

/// Minimum file size limit of a run: the memory of streams counts against it.
pub(crate) const LEAST_FILE_SIZE: u64 = 64 << 20;

/// The number of open files of the smallest run: the event loop, the launcher, inputs and outputs, two functions.
pub(crate) const LEAST_DESCRIPTORS: u64 = 64;

/// `TMPDIR`, or `/tmp` if it is unset or empty.
fn temporary_dir() -> PathBuf {
    std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map_or_else(|| "/tmp".into(), Into::into)
}

impl NodeOptions {
    /// Defaults for this machine: one slot per core that the process may use, and a quarter of the memory that it may
    /// use.
    #[must_use]
    pub fn detect() -> Self {
        let cores = cores();
        Self {
            slots: u32::try_from(cores).unwrap_or(u32::MAX),
            memory: (memory_limit() / 4).max(Config::MIN_MEMORY),
            window: Config::WINDOW,
            spill_dir: temporary_dir(),
            spill_io: IoChoice::Auto,
            containment: ContainmentChoice::Auto,
            spin: if cores > 1 { DEFAULT_SPIN } else { Duration::ZERO },
            node: hostname(),
            rdma: RdmaUse::Auto,
            rdma_idle: None,
        }
    }
}

impl NodeOptions {
    /// How this node uses the kinds of paths between nodes.
    pub(crate) fn paths(&self) -> PathSettings {
        PathSettings { rdma: self.rdma.clone(), rdma_idle: self.rdma_idle }
    }

    /// The memory budget for streams: the requested amount, or less if a cgroup's limit does not leave that much.
    ///
    /// # Errors
    /// If the cgroup leaves less than the minimum for streams.
    pub fn budget(&self) -> Result<u64, BudgetError> {
        let Some(limit) = cgroup_limit() else { return Ok(self.memory) };
        let room = room_for_streams(limit);
        if room < Config::MIN_MEMORY {
            return Err(BudgetError { limit });
        }
        Ok(self.memory.min(room))
    }
}

/// The number of cores that this process may use. Reads several files below /proc and /sys.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The bytes of memory that this process may use: the machine's, or less if its cgroup limits it.
#[must_use]
pub fn memory_limit() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(1 << 30, |kib| kib * 1024);
    cgroup_limit().map_or(available, |limit| limit.min(available))
}

/// The memory limit of this process's cgroup and its ancestors, for both versions of cgroups.
pub(crate) fn cgroup_limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    least_limit(&own, Path::new("/sys/fs/cgroup"))
}

/// The lowest limit of the cgroups in `/proc/PID/cgroup`, whose hierarchies are mounted below `root`.
fn least_limit(own: &str, root: &Path) -> Option<u64> {
    /// Version 1 reports no limit as the largest multiple of the page size.
    const UNLIMITED: u64 = i64::MAX as u64 / 4096 * 4096;
    let mut least: Option<u64> = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (hierarchies, file): (&[&str], &str) = match controllers {
            "" => (&["", "unified"], "memory.max"),
            list if list.split(',').any(|name| name == "memory") => (&["memory"], "memory.limit_in_bytes"),
            _ => continue,
        };
        for hierarchy in hierarchies {
            // In a container the path may be the host's, and only the root of the hierarchy is visible.
            for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
                let text = std::fs::read_to_string(root.join(hierarchy).join(ancestor).join(file));
                let limit = text.ok().and_then(|text| text.trim().parse::<u64>().ok());
                if let Some(limit) = limit.filter(|&limit| limit < UNLIMITED) {
                    least = Some(least.map_or(limit, |least| least.min(limit)));
                }
            }
        }
    }
    least
}

/// The part of a cgroup's limit that is available for streams: functions, the daemon and pages being written to disk
/// count against the same limit.
pub(crate) fn room_for_streams(limit: u64) -> u64 {
    /// Memory of the daemon, its launcher and small functions.
    const LEAST_HEAD_ROOM: u64 = 8 << 20;
    /// Head-room for these and for pages that a slow disk has not written yet.
    const AMPLE_HEAD_ROOM: u64 = 32 << 20;
    limit.saturating_sub((limit / 2).clamp(LEAST_HEAD_ROOM, AMPLE_HEAD_ROOM).max(limit / 4))
}

/// The OOM score adjustment of functions. When memory runs out, the kernel should kill a function before the daemon,
/// which can then report it and end the run gracefully.
pub(crate) fn oom_score_of_functions() -> Option<i16> {
    const EARLIER: i16 = 300;
    const HIGHEST: i16 = 1000;
    let own: i16 = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    Some(own.saturating_add(EARLIER).min(HIGHEST))
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Raises the soft limit on open descriptors to the hard limit and returns it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}

/// The file size limit of this process, in bytes; `None` if there is none.
pub(crate) fn file_size_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_lowest_limit_of_a_cgroup_and_its_ancestors_applies() {
        const MIB: u64 = 1 << 20;
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        let own = "9:name=systemd:/\n5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/u/v\n";
        assert_eq!(least_limit(own, root), None);
        put(root, "memory/memory.limit_in_bytes", "9223372036854771712\n");
        put(root, "memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        put(root, "unified/u/v/memory.max", "max\n");
        assert_eq!(least_limit(own, root), None);
        put(root, "memory/a/memory.limit_in_bytes", &format!("{}\n", 64 * MIB));
        assert_eq!(least_limit(own, root), Some(64 * MIB));
        put(root, "memory/a/b/memory.limit_in_bytes", &format!("{}\n", 32 * MIB));
        assert_eq!(least_limit(own, root), Some(32 * MIB));
        put(root, "unified/u/memory.max", &format!("{}\n", 16 * MIB));
        assert_eq!(least_limit(own, root), Some(16 * MIB));
        // Version 2 alone, and one of another process.
        put(root, "u/memory.max", &format!("{}\n", 8 * MIB));
        put(root, "other/memory.max", "4096\n");
        assert_eq!(least_limit("0::/u/v\n", root), Some(8 * MIB));
        // A container: the path is that of the host.
        put(root, "memory.max", &format!("{MIB}\n"));
        assert_eq!(least_limit("0::/docker/12\n", root), Some(MIB));
        assert_eq!(least_limit("nonsense\n", root), None);
    }

    #[test]
    fn streams_never_get_the_whole_limit_of_the_cgroup() {
        assert_eq!(room_for_streams(4 << 20), 0);
        assert_eq!(room_for_streams(16 << 20), 8 << 20);
        assert_eq!(room_for_streams(128 << 20), 96 << 20);
        assert_eq!(room_for_streams(4 << 30), 3 << 30);
    }
}
