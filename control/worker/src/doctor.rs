//! What this machine can do for dflow, in words.

use crate::check::LEAST_DESCRIPTORS;
use crate::options::{NodeOptions, cgroup_limit, cores, memory_limit};
use dflow_launcher::{Launcher, LauncherOptions};
use dflow_store::{Config, Spiller};
use serde::Serialize;

/// One thing about the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What it is about.
    pub topic: &'static str,
    /// How good it is.
    pub state: Health,
    /// What was found, what follows from it, and what would make it better.
    pub text: String,
}

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// As it should be.
    Good,
    /// dflow works, but something could be better.
    Fair,
    /// dflow cannot work like this.
    Bad,
}

/// Looks at the machine.
#[must_use]
pub fn doctor(options: &NodeOptions) -> Vec<Finding> {
    vec![
        kernel(),
        processors(),
        memory(options),
        huge_pages(),
        descriptors(),
        containment(options),
        isolation(),
        spill(options),
        Finding {
            topic: "RDMA",
            state: Health::Fair,
            text: "off: this version runs workflows on one machine and has no use for it yet".into(),
        },
    ]
}

fn finding(topic: &'static str, good: bool, text: String) -> Finding {
    Finding { topic, state: if good { Health::Good } else { Health::Fair }, text }
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let text = if version >= (5, 16) {
        format!("Linux {release}: functions sleep on many streams at once (futex_waitv)")
    } else {
        format!(
            "Linux {release}: without futex_waitv (5.16) waiting functions look again every 0.2 ms; a newer kernel avoids it"
        )
    };
    finding("kernel", version >= (5, 16), text)
}

fn processors() -> Finding {
    let cores = cores();
    let text = if cores > 1 {
        format!("{cores} cores, so as many slots by default; a waiting function spins shortly before it sleeps")
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

fn huge_pages() -> Finding {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or("unknown").to_owned();
    let on = matches!(chosen.as_str(), "always" | "within_size" | "force");
    let text = if on {
        format!("shared memory gets huge pages by itself ({chosen})")
    } else {
        format!(
            "shared memory has 4 KiB pages ({chosen}); \
             'echo within_size > /sys/kernel/mm/transparent_hugepage/shmem_enabled' gives windows huge ones"
        )
    };
    finding("huge pages", on, text)
}

fn descriptors() -> Finding {
    let limit = crate::options::raise_descriptor_limit();
    let text = format!("{limit} open files at most; each running instance takes about 5 of the daemon's");
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
    match Spiller::start(&options.spill_dir, options.spill_io, |_| ()) {
        Ok(spiller) => {
            let plain = spiller.description().starts_with("plain");
            finding("spilling", !plain, format!("to {} by {}", options.spill_dir.display(), spiller.description()))
        }
        Err(error) => Finding { topic: "spilling", state: Health::Bad, text: error.to_string() },
    }
}
