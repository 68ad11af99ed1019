//! The properties of the machine on which the figures were measured.

use std::fs;
use std::path::Path;

use rustix::thread::sched_getaffinity;
use serde::Serialize;

use crate::failure::{Failure, Trying};

/// Maximum number of cores considered.
const CORES_LIMIT: usize = 1024;

/// The properties of a machine that influence the figures. Texts are "unknown" if they cannot be determined.
#[derive(Clone, Debug, Serialize)]
pub struct Topology {
    /// The cores that this process may use.
    pub cores: Vec<usize>,
    /// The processor's model.
    pub model: String,
    /// The kernel and its architecture.
    pub kernel: String,
    /// The caches of the first core, such as "L1 Data 48K".
    pub caches: Vec<String>,
    /// The machine's memory in bytes.
    pub memory: u64,
    /// The setting of transparent huge pages for private memory.
    pub huge_pages: String,
    /// The same for shared memory.
    pub shared_huge_pages: String,
    /// Reserved huge pages.
    pub reserved_huge_pages: u64,
    /// The first core's frequency governor.
    pub governor: String,
    /// Whether this is a virtual machine.
    pub hypervisor: bool,
    /// The load average of the last minute. Other work on the machine disturbs measurements.
    pub load: String,
    /// The kernel's clock source.
    pub clock: String,
    /// The two cores to which pairs of processes are pinned.
    pub pair: Option<(usize, usize)>,
}

impl Topology {
    /// Examines this machine.
    pub fn of_this_machine() -> Result<Topology, Failure> {
        let allowed = sched_getaffinity(None).trying("get the usable cores")?;
        let cores: Vec<usize> = (0..CORES_LIMIT).filter(|core| allowed.is_set(*core)).collect();
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let names = rustix::system::uname();
        let name = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Ok(Topology {
            model: field(&processor, "model name").unwrap_or_else(unknown),
            kernel: format!("{} {}", name(names.release()), name(names.machine())),
            caches: caches(),
            memory: kilobytes(&memory, "MemTotal") << 10,
            huge_pages: chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
            shared_huge_pages: chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            reserved_huge_pages: field(&memory, "HugePages_Total").and_then(|pages| pages.parse().ok()).unwrap_or(0),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            hypervisor: processor.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor")),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            clock: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            pair: pair(&cores),
            cores,
        })
    }

    /// The two cores for a pair of processes.
    pub fn two_cores(&self) -> Result<(usize, usize), Failure> {
        self.pair.ok_or_else(|| Failure::new("two processes need two cores, but this process may use only one"))
    }

    /// As text.
    pub fn lines(&self) -> Vec<String> {
        let machine = if self.hypervisor { "virtual cores" } else { "cores" };
        let pair = match self.pair {
            Some((first, second)) => format!("; pairs on {first} and {second}"),
            None => String::new(),
        };
        vec![
            format!("{} × {} ({machine}{pair})", self.cores.len(), self.model),
            format!(
                "kernel {}, clock {}, {:.1} GiB of memory, load {} before this run",
                self.kernel,
                self.clock,
                self.memory as f64 / f64::from(1 << 30),
                self.load
            ),
            format!("caches of a core: {}", self.caches.join(", ")),
            format!(
                "huge pages: transparent {}, shared {}, reserved {}; governor {}",
                self.huge_pages, self.shared_huge_pages, self.reserved_huge_pages, self.governor
            ),
        ]
    }
}

/// The available memory of the machine in bytes.
pub fn available_memory() -> u64 {
    kilobytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable") << 10
}

/// The first core, and the first other core that is not its hyper-thread sibling, or else any other core.
fn pair(cores: &[usize]) -> Option<(usize, usize)> {
    let (first, others) = cores.split_first()?;
    let siblings = read(format!("/sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list"));
    let apart = others.iter().find(|core| !listed(&siblings, **core));
    apart.or_else(|| others.first()).map(|second| (*first, *second))
}

/// Whether a list in the kernel's format, such as "0-3,8", contains a number.
fn listed(list: &str, number: usize) -> bool {
    list.split(',').any(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        matches!((low.trim().parse(), high.trim().parse()), (Ok(low), Ok(high)) if (low..=high).contains(&number))
    })
}

fn caches() -> Vec<String> {
    let mut caches = Vec::new();
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/cpu0/cache") else { return caches };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("index")) {
        let of = |name: &str| read(entry.path().join(name));
        caches.push(format!("L{} {} {}", of("level"), of("type"), of("size")));
    }
    caches.sort();
    caches
}

/// The word in brackets of a kernel setting such as `always [madvise] never`.
fn chosen(path: &str) -> String {
    let text = read(path);
    let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word.to_owned());
    word.unwrap_or(text)
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn kilobytes(text: &str, name: &str) -> u64 {
    field(text, name).and_then(|value| value.trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_name_numbers() {
        assert!(listed("0-3,8", 2) && listed("0-3,8", 8) && listed("1\n", 1));
        assert!(!listed("0-3,8", 4) && !listed("unknown", 0));
    }

    #[test]
    fn this_machine_has_a_core() {
        let topology = Topology::of_this_machine().unwrap();
        assert!(!topology.cores.is_empty() && topology.memory > 0, "{topology:?}");
    }
}
