//! What a node may use, and what it finds on its machine.

use dflow_disk::IoChoice;
use dflow_launcher::ContainmentChoice;
use dflow_store::Config;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a node may use.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// How many instances may compute at the same time.
    pub slots: u32,
    /// Memory for streams, in bytes.
    pub memory: u64,
    /// The window of a stream whose readers keep up, in bytes.
    pub window: u64,
    /// Where streams go for which there is no memory.
    pub spill_dir: PathBuf,
    /// How they are written there.
    pub spill_io: IoChoice,
    /// How the processes of an attempt are held together.
    pub containment: ContainmentChoice,
    /// How long a waiting function looks at its words before it sleeps, where the cores are not crowded.
    pub spin: Duration,
    /// The node's name in reports.
    pub node: String,
}

/// The default of [`NodeOptions::spin`]: about what waking a sleeper costs on a virtual machine.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(50);

impl NodeOptions {
    /// What suits this machine: a slot for each core that the process may use, a quarter of the memory that it may use.
    #[must_use]
    pub fn detect() -> Self {
        let cores = cores();
        Self {
            slots: u32::try_from(cores).unwrap_or(u32::MAX),
            memory: (memory_limit() / 4).max(Config::MIN_MEMORY),
            window: Config::WINDOW,
            spill_dir: std::env::temp_dir(),
            spill_io: IoChoice::Auto,
            containment: ContainmentChoice::Auto,
            spin: if cores > 1 { DEFAULT_SPIN } else { Duration::ZERO },
            node: hostname(),
        }
    }
}

/// Cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Bytes of memory that this process may use: the machine's, or less if its cgroup says so.
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

/// The memory limit of this process's cgroup or of one above it, for both versions of cgroups.
fn cgroup_limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least: Option<u64> = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (roots, file): (&[&str], &str) = match controllers {
            "" => (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                (&["/sys/fs/cgroup/memory"], "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for root in roots {
            for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
                let text = std::fs::read_to_string(Path::new(root).join(ancestor).join(file));
                if let Some(limit) = text.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
                    least = Some(least.map_or(limit, |least| least.min(limit)));
                }
            }
        }
    }
    least
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Raises the limit on open descriptors as far as it may be raised; what it is then.
pub(crate) fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}
