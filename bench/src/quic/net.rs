//! The networks of the two processes: loopback, or a veth pair between two network namespaces.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Failure, Trying};
use crate::subject::Side;

/// The directory in which `ip` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";

/// Prefix of the names of dflow-bench's namespaces. The id of the creating process follows.
const PREFIX: &str = "dflow-bench-";

/// The name of the network device in each namespace.
const DEVICE: &str = "veth0";

/// The addresses in the two namespaces, visible only there.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 213, 0, 1), Ipv4Addr::new(10, 213, 0, 2)];

/// The burst of a rate-limited device: several packets of the maximum size before segmentation (GSO), which the kernel
/// passes on unsegmented.
const BURST: &str = "512kb";

/// How long packets may wait for a rate-limited device.
const QUEUE: &str = "20ms";

/// A network for two processes.
pub enum Net {
    /// Loopback in this program's namespace.
    Loopback,
    /// Two namespaces, removed when this value is dropped.
    Veth(Veth),
}

/// Two network namespaces joined by a veth pair.
pub struct Veth {
    names: [String; 2],
    cap: Option<String>,
}

impl Net {
    /// Creates two namespaces, and removes those left by killed programs. `cap`: the rate limit of the devices, in the
    /// syntax of `tc`; without it, the network is as fast as the machine.
    pub fn veth(cap: Option<&str>) -> Result<Net, Failure> {
        remove_stale();
        // Namespaces with and without a rate limit exist at the same time.
        let kind = if cap.is_some() { "capped" } else { "veth" };
        let name = |side| format!("{PREFIX}{}-{kind}-{side}", std::process::id());
        let net = Veth { names: [name("a"), name("b")], cap: cap.map(str::to_owned) };
        // From here on, the drop removes whatever has been created.
        net.make()?;
        Ok(Net::Veth(net))
    }

    /// Its name in file names.
    pub fn name(&self) -> &'static str {
        match self {
            Net::Loopback => "loopback",
            Net::Veth(Veth { cap: None, .. }) => "veth",
            Net::Veth(_) => "capped",
        }
    }

    /// The addresses of the two sides.
    pub fn addresses(&self) -> [IpAddr; 2] {
        match self {
            Net::Loopback => [IpAddr::V4(Ipv4Addr::LOCALHOST); 2],
            Net::Veth(_) => ADDRESSES.map(IpAddr::V4),
        }
    }

    /// The namespace files of the two sides.
    pub fn namespaces(&self) -> Option<[PathBuf; 2]> {
        match self {
            Net::Loopback => None,
            Net::Veth(veth) => Some(veth.names.each_ref().map(|name| Path::new(NAMESPACES).join(name))),
        }
    }

    /// A command that runs a program on a side.
    pub fn command(&self, side: Side, program: &str) -> Command {
        match self {
            Net::Loopback => Command::new(program),
            Net::Veth(veth) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &veth.names[usize::from(side == Side::Second)], program]);
                command
            }
        }
    }
}

/// As displayed in the case of a table.
impl fmt::Display for Net {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Net::Loopback => out.write_str("loopback"),
            Net::Veth(Veth { cap: None, .. }) => out.write_str("veth"),
            Net::Veth(Veth { cap: Some(cap), .. }) => write!(out, "veth, {cap}"),
        }
    }
}

impl Veth {
    fn make(&self) -> Result<(), Failure> {
        let [first, second] = &self.names;
        for name in &self.names {
            run("ip", &["netns", "add", name])?;
        }
        run("ip", &["-n", first, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", second])?;
        for (name, address) in self.names.iter().zip(ADDRESSES) {
            run("ip", &["-n", name, "address", "add", &format!("{address}/30"), "dev", DEVICE])?;
            for device in ["lo", DEVICE] {
                run("ip", &["-n", name, "link", "set", device, "up"])?;
            }
            if let Some(cap) = &self.cap {
                let shape = ["tbf", "rate", cap, "burst", BURST, "latency", QUEUE];
                run("tc", &[&["-n", name, "qdisc", "add", "dev", DEVICE, "root"], &shape[..]].concat())?;
            }
        }
        Ok(())
    }
}

/// Removes the namespaces of processes that have ended.
fn remove_stale() {
    for entry in std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // Another process may remove it at the same time.
            let _ = run("ip", &["netns", "delete", &name]);
        }
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for name in &self.names {
            // A missing namespace is already removed; the devices are removed with their namespaces.
            let _ = run("ip", &["netns", "delete", name]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let what = || format!("run '{program} {}'", arguments.join(" "));
    let outcome = Command::new(program).args(arguments).stdin(Stdio::null()).output().trying(what())?;
    if outcome.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&outcome.stderr);
    Err(Failure::new(format!("cannot {}: {}", what(), words.lines().next().unwrap_or_default())))
}
