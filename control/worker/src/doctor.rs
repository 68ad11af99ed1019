//! Examines this machine, and describes what it offers to dflow.

use crate::options::{LEAST_DESCRIPTORS, NodeOptions, cgroup_limit, cores, memory_limit};
use crate::peer::device::find_device;
use dflow_disk::SpillDir;
use dflow_launcher::{Launcher, LauncherOptions};
use dflow_shm::HUGE_PAGE;
use dflow_store::Config;
use dflow_transport::RdmaUse;
use serde::Serialize;
use std::path::Path;

/// One finding about the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Its topic.
    pub topic: &'static str,
    /// Its rating.
    pub state: Health,
    /// The finding, its consequence, and what would improve it.
    pub text: String,
}

/// The rating of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// No problem.
    Good,
    /// dflow works, but something could be better.
    Fair,
    /// dflow cannot work like this.
    Bad,
}

/// Examines the machine, and what killed runs have left in `output_dir`: an output directory, or a directory of output directories.
#[must_use]
pub fn doctor(options: &NodeOptions, output_dir: &Path) -> Vec<Finding> {
    vec![
        kernel(),
        processors(),
        memory(options),
        huge_pages(options),
        descriptors(),
        containment(options),
        isolation(),
        spill(options),
        rdma(options),
        outputs(output_dir),
    ]
}

fn finding(topic: &'static str, good: bool, text: String) -> Finding {
    Finding { topic, state: if good { Health::Good } else { Health::Fair }, text }
}

/// The kernel's release, and its first two numbers.
fn kernel_release() -> (String, (u32, u32)) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (release, version)
}

fn kernel() -> Finding {
    let (release, version) = kernel_release();
    let text = if version >= (5, 16) {
        format!("Linux {release}: functions sleep on many streams at once (futex_waitv)")
    } else {
        format!(
            "Linux {release}: without futex_waitv (5.16) waiting functions poll every 0.2 ms; a newer kernel avoids this"
        )
    };
    finding("kernel", version >= (5, 16), text)
}

fn processors() -> Finding {
    let cores = cores();
    let text = if cores > 1 {
        format!("{cores} cores, and as many slots by default; a waiting function spins briefly before it sleeps")
    } else {
        "1 core: waiting functions sleep at once, and a chunk costs a wake-up".into()
    };
    finding("cores", cores > 1, text)
}

fn memory(options: &NodeOptions) -> Finding {
    let limit = cgroup_limit();
    let machine = match limit {
        Some(limit) => format!("{} MiB may be used by this process's cgroup", limit >> 20),
        None => format!("{} MiB are available on this machine, and no cgroup limits that", memory_limit() >> 20),
    };
    let (state, text) = match options.budget() {
        Ok(budget) if budget < Config::MIN_MEMORY => (
            Health::Bad,
            format!("{machine}; {} KiB for streams are too few, raise --memory to 64 MiB or more", budget >> 10),
        ),
        Ok(budget) if budget < options.memory => (
            Health::Fair,
            format!(
                "{machine}, which leaves {} MiB for streams instead of the {} MiB of --memory; raise the cgroup's limit",
                budget >> 20,
                options.memory >> 20
            ),
        ),
        Ok(budget) => (Health::Good, format!("{machine}; streams take at most {} MiB (--memory)", budget >> 20)),
        Err(error) => (Health::Bad, error.to_string()),
    };
    Finding { topic: "memory", state, text }
}

fn huge_pages(options: &NodeOptions) -> Finding {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    let (good, text) = huge_pages_in(&info, &setting, kernel_release().1, options.memory);
    finding("huge pages", good, text)
}

/// Describes what `/proc/meminfo`, and the setting for shared memory and the version of the kernel mean for a budget.
fn huge_pages_in(info: &str, setting: &str, version: (u32, u32), budget: u64) -> (bool, String) {
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or("unknown");
    let usual = value("Hugepagesize:") << 10 == HUGE_PAGE;
    let free = if usual { value("HugePages_Free:").saturating_sub(value("HugePages_Rsvd:")) } else { 0 };
    let wanted = budget.div_ceil(HUGE_PAGE);
    let more = format!("'sysctl vm.nr_hugepages={wanted}' reserves enough for all of --memory");
    if free >= wanted {
        return (true, format!("{free} of 2 MiB are reserved and free: windows of kept streams use them"));
    }
    if free > 0 {
        let text = format!(
            "{free} of 2 MiB are reserved and free: windows of kept streams use them until they are used \
             up; {more}"
        );
        return (true, text);
    }
    // MADV_COLLAPSE ignores the setting, except deny. A kernel without transparent huge pages has no such file.
    if version >= (6, 1) && !matches!(chosen, "deny" | "unknown") {
        return (
            true,
            "none are reserved, and none need to be: the pages of kept streams are collapsed into huge ones".into(),
        );
    }
    if matches!(chosen, "always" | "within_size" | "force") {
        return (true, format!("none are reserved, but the kernel uses them for shared memory on its own ({chosen})"));
    }
    let text = format!(
        "windows have 4 KiB pages, which take about twice the time in streams that are kept: no huge page is reserved and \
         free, and the kernel makes none by itself (shmem_enabled is {chosen}); {more}, 'echo within_size > \
         /sys/kernel/mm/transparent_hugepage/shmem_enabled' takes them from what is free"
    );
    (false, text)
}

fn descriptors() -> Finding {
    let limit = crate::options::raise_descriptor_limit();
    let text = format!("at most {limit} open files; each running instance takes about 5 of the daemon's");
    Finding {
        topic: "descriptors",
        state: match limit {
            0..LEAST_DESCRIPTORS => Health::Bad,
            LEAST_DESCRIPTORS..4096 => Health::Fair,
            _ => Health::Good,
        },
        text,
    }
}

fn containment(options: &NodeOptions) -> Finding {
    let choice = LauncherOptions { containment: options.containment, ..LauncherOptions::default() };
    match Launcher::start(&choice) {
        Ok(launcher) => {
            let containment = launcher.containment();
            let text = containment.describe().replace('\n', "; ");
            finding("processes", containment.memory_limits(), text)
        }
        Err(error) => Finding { topic: "processes", state: Health::Bad, text: error.to_string() },
    }
}

fn rdma(options: &NodeOptions) -> Finding {
    if options.rdma == RdmaUse::Off {
        return finding("RDMA", false, "off, as configured: streams between nodes use QUIC".into());
    }
    if let Err(error) = find_device(&options.rdma) {
        return Finding { topic: "RDMA", state: Health::Bad, text: error.to_string() };
    }
    let (usable, text) = probe_rdma();
    let follows = if usable { "" } else { "; streams between nodes use QUIC" };
    finding("RDMA", usable, format!("{text}{follows}"))
}

#[cfg(feature = "rdma")]
fn probe_rdma() -> (bool, String) {
    let probe = dflow_transport::rdma::probe();
    (probe.usable, probe.to_string())
}

#[cfg(not(feature = "rdma"))]
fn probe_rdma() -> (bool, String) {
    (false, "off: dflow was built without the feature 'rdma'".into())
}

fn isolation() -> Finding {
    finding(
        "isolation",
        false,
        "functions run as the same user as the daemon: control pages are sealed by the kernel, but a hostile function could \
         reopen the windows of other functions' streams; run only functions that you trust with the run's data"
            .into(),
    )
}

fn spill(options: &NodeOptions) -> Finding {
    let usable = SpillDir::open(&options.spill_dir).and_then(|_| dflow_disk::choose(options.spill_io));
    match usable {
        Ok((io, why)) => {
            let text = format!("to {} by {}: {why}", options.spill_dir.display(), io.name());
            finding("spilling", io.name() != "plain", text)
        }
        Err(error) => Finding { topic: "spilling", state: Health::Bad, text: error.to_string() },
    }
}

fn outputs(dir: &Path) -> Finding {
    let left = crate::output::leftovers(dir);
    let text =
        if left.is_empty() { format!("no killed run has left anything in {}", dir.display()) } else { left.join("; ") };
    finding("outputs", left.is_empty(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_reported() {
        let info = |free, reserved| {
            format!(
                "HugePages_Total:  64\nHugePages_Free: {free}\nHugePages_Rsvd: {reserved}\nHugepagesize:  2048 kB\n"
            )
        };
        let never = "always within_size advise [never] deny force";
        let told = |info: &str, setting| huge_pages_in(info, setting, (5, 10), 64 << 20);
        assert!(told(&info(64, 0), never).1.starts_with("64 of 2 MiB are reserved"));
        assert!(!told(&info(64, 0), never).1.contains("sysctl"));
        let (good, text) = told(&info(10, 2), never);
        assert!(good && text.starts_with("8 of 2 MiB") && text.contains("vm.nr_hugepages=32"), "{text}");
        let (good, text) = told(&info(0, 0), never);
        assert!(!good && text.contains("4 KiB") && text.contains("vm.nr_hugepages=32"), "{text}");
        assert!(told("", "always [within_size] advise never deny force").0);
        assert!(!told("HugePages_Free: 9\nHugepagesize: 1048576 kB\n", never).0);
        let (good, text) = huge_pages_in(&info(0, 0), never, (6, 1), 64 << 20);
        assert!(good && text.contains("collapsed"), "{text}");
        assert!(!huge_pages_in(&info(0, 0), "always never [deny]", (6, 1), 64 << 20).0);
        assert!(!huge_pages_in(&info(0, 0), "", (6, 1), 64 << 20).0);
    }
}
