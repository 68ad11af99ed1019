//! Locates the cgroup in which others can be created, and checks whether they can limit memory.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// A hierarchy of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    /// Version 2, with whichever controllers are enabled.
    Unified,
    /// The hierarchy of the version 1 memory controller.
    Memory,
}

/// The directory of this process's cgroup in a hierarchy. The error is a text for users.
pub(super) fn locate(controller: Controller) -> Result<PathBuf, String> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    directory_of(controller, &cgroups, &mounts).ok_or_else(|| {
        let hierarchy = match controller {
            Controller::Unified => "cgroup2 hierarchy",
            Controller::Memory => "memory hierarchy of cgroups version 1",
        };
        format!("no {hierarchy} that holds this process is mounted")
    })
}

/// Maps the cgroup in `/proc/PID/cgroup` to its directory by `/proc/PID/mountinfo`.
fn directory_of(controller: Controller, cgroups: &str, mounts: &str) -> Option<PathBuf> {
    let is_memory = |list: &str| list.split(',').any(|name| name == "memory");
    let cgroup = cgroups.lines().find_map(|line| match controller {
        Controller::Unified => line.strip_prefix("0::"),
        // Number, controllers, path.
        Controller::Memory => {
            line.split_once(':')?.1.split_once(':').filter(|(list, _)| is_memory(list)).map(|(_, path)| path)
        }
    });
    let cgroup = Path::new(cgroup?);
    mounts.lines().find_map(|line| {
        // ID, parent, device, root, mount point, options, optional fields, "-", type, source, options.
        let (mount, filesystem) = line.split_once(" - ")?;
        let fits = match controller {
            Controller::Unified => filesystem.starts_with("cgroup2 "),
            Controller::Memory => {
                filesystem.starts_with("cgroup ") && filesystem.rsplit(' ').next().is_some_and(is_memory)
            }
        };
        if !fits {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let root = unescape(fields.next()?);
        let mount_point = unescape(fields.next()?);
        let below = cgroup.strip_prefix(&root).ok()?;
        // "/../x" is a cgroup outside of this cgroup namespace.
        let reachable = below.components().all(|part| matches!(part, Component::Normal(_)));
        reachable.then(|| mount_point.join(below))
    })
}

/// The kernel escapes white space and backslashes in paths as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'\\'
            && let Some((digits, after)) = rest.split_first_chunk::<3>()
            && let Ok(code) = u8::from_str_radix(&String::from_utf8_lossy(digits), 8)
        {
            bytes.push(code);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Enables the memory controller in the cgroups below `tree`. The error is a text for users.
pub(super) fn enable_memory(base: &Path, tree: &Path) -> Result<(), String> {
    let has = |file: PathBuf| fs::read_to_string(file).is_ok_and(|list| list.split_whitespace().any(|c| c == "memory"));
    if !has(base.join("cgroup.controllers")) {
        return Err(format!(
            "the memory controller does not reach the cgroup {} (its parent keeps it, or cgroup version 1 has it)",
            base.display()
        ));
    }
    let control = base.join("cgroup.subtree_control");
    if !has(control.clone()) {
        fs::write(&control, "+memory").map_err(|error| {
            if error.raw_os_error() == Some(libc::EBUSY) {
                format!(
                    "the cgroup {} holds processes itself, so that the kernel gives its children no memory controller; \
                     run dflow in a delegated cgroup (systemd: Delegate=yes) below which no process is beside it",
                    base.display()
                )
            } else {
                format!("{}: {error}", control.display())
            }
        })?;
    }
    let control = tree.join("cgroup.subtree_control");
    fs::write(&control, "+memory").map_err(|error| format!("{}: {error}", control.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_cgroup_is_found() {
        let found = |cgroups, mounts| {
            directory_of(Controller::Unified, cgroups, mounts).map(|path| path.to_str().unwrap().to_owned())
        };
        let unified = "0::/user.slice/session-3.scope\n";
        assert_eq!(found("4:memory:/x\n0::/\n", HYBRID).unwrap(), "/sys/fs/cgroup/unified/");
        assert_eq!(found(unified, HYBRID).unwrap(), "/sys/fs/cgroup/unified/user.slice/session-3.scope");
        let part = "41 31 0:38 /user.slice /mnt/my\\040groups rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(unified, part).unwrap(), "/mnt/my groups/session-3.scope");
        assert_eq!(found("0::/system.slice\n", part), None);
        assert_eq!(found("0::/../other\n", HYBRID), None);
        assert_eq!(found("4:memory:/x\n", HYBRID), None);
        assert_eq!(found(unified, ""), None);
    }

    #[test]
    fn the_memory_cgroup_of_version_1_is_found() {
        let found = |cgroups, mounts| directory_of(Controller::Memory, cgroups, mounts);
        assert_eq!(found("5:cpu:/y\n4:memory:/x\n0::/\n", HYBRID).unwrap(), Path::new("/sys/fs/cgroup/memory/x"));
        assert_eq!(found("5:cpu:/y\n0::/\n", HYBRID), None);
        let joint = "35 31 0:32 /docker/1 /cg rw,relatime - cgroup cgroup rw,cpuacct,memory\n";
        assert_eq!(found("4:cpuacct,memory:/docker/1\n", joint).unwrap(), Path::new("/cg/"));
        assert_eq!(found("4:memory:/x\n", "41 31 0:38 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n"), None);
    }
}
