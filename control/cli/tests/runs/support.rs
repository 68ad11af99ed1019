//! Runs the real `dflow` on workflows of the probe, and checks that it leaves nothing behind.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The variable with the mark of a case or a worker. It describes a node, so functions get the value of their node.
pub const MARK: &str = "HOSTNAME";

/// A directory with a workflow file, and a mark that all processes of its runs carry.
pub struct Case {
    pub dir: tempfile::TempDir,
    mark: String,
}

/// Blocks a command of a case until the test opens it.
pub struct Gate(File);

impl Gate {
    /// Opens the gate. Keep the gate until the command has passed it: dropping it discards unread bytes.
    pub fn open(&mut self) {
        self.0.write_all(b"go\n").unwrap();
    }
}

/// The result of a run.
pub struct Ran {
    pub code: Option<i32>,
    pub report: Value,
    pub stderr: String,
}

impl Case {
    /// A case with this workflow; `functions` is the body of `functions:`, one line each.
    pub fn new(functions: &str, outputs: &str) -> Self {
        Self::with_header("", functions, outputs)
    }

    pub fn with_header(header: &str, functions: &str, outputs: &str) -> Self {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let mark = format!("{}-{}", std::process::id(), CASES.fetch_add(1, Ordering::Relaxed));
        let mut text = format!("workflow: case\n{header}\nfunctions:\n");
        for line in functions.lines().filter(|line| !line.trim().is_empty()) {
            text.push_str(&format!("  {}\n", line.trim()));
        }
        text.push_str(&format!("outputs: {outputs}\n"));
        std::fs::write(dir.path().join("case.yaml"), text).unwrap();
        Self { dir, mark }
    }

    /// Changes the workflow file.
    pub fn replace(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("case.yaml")).unwrap();
        assert!(text.contains(from));
        std::fs::write(self.path("case.yaml"), text.replace(from, to)).unwrap();
    }

    /// Creates a named pipe and replaces `GATE` in the workflow file by its path: a command that reads a line of it waits for
    /// [`Gate::open`].
    pub fn gate(&self) -> Gate {
        let path = self.path("gate");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        self.replace("GATE", path.to_str().unwrap());
        // Opened for reading and writing, so that neither this open nor that of the command blocks.
        Gate(File::options().read(true).write(true).open(path).unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// All outputs, with their paths; not the manifest, which is hidden.
    pub fn outputs(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.path("out")];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if !path.file_name().unwrap().to_string_lossy().starts_with('.') {
                let name = path.strip_prefix(self.dir.path()).unwrap().display().to_string();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
        found
    }

    pub fn output(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path("out").join(name)).unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dflow"));
        self.prepare(&mut command, args);
        command
    }

    /// `dflow` started by a shell that first changes its own limits.
    pub fn limited(&self, limits: &str, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{limits}; exec \"$@\"")).arg("sh").arg(env!("CARGO_BIN_EXE_dflow"));
        self.prepare(&mut command, args);
        command
    }

    /// Adds the arguments and variables of every run of this case.
    pub fn prepare(&self, command: &mut Command, args: &[&str]) {
        command
            // Tests leave no records in the home directory.
            .env("DFLOW_LOGS", "none")
            .arg("run")
            .arg(self.path("case.yaml"))
            .args(["--format", "json"])
            .args(if args.contains(&"--output") { vec![] } else { vec!["--output".into(), self.path("out")] })
            .args(args)
            .env(MARK, &self.mark)
            // A stack trace must not push the message of a panic out of what an error quotes.
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.finish(self.command(args).output().unwrap())
    }

    /// Reads the result, after checking that nothing is left behind.
    pub fn finish(&self, output: Output) -> Ran {
        self.assert_nothing_left();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        Ran { code: output.status.code(), report, stderr }
    }

    /// Processes that carry the mark of this case.
    pub fn processes(&self) -> Vec<(i32, String)> {
        marked(&self.mark)
    }

    /// When a run is over nothing of it runs. A process that is being torn down may still be listed for a moment.
    pub fn assert_nothing_left(&self) {
        eventually("processes are left", || self.processes().is_empty());
        let hidden =
            std::fs::read_dir(self.dir.path()).unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let hidden: Vec<String> = hidden.filter(|name| name.starts_with('.')).collect();
        assert!(hidden.is_empty(), "half-made outputs are left: {hidden:?}");
    }

    /// Starts `dflow` in a process group of its own, as a shell would.
    pub fn spawn(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }

    /// How much of an output has been written, of a run that goes on.
    pub fn staged(&self, output: &str) -> u64 {
        let folders = std::fs::read_dir(self.dir.path()).unwrap().flatten();
        folders.filter_map(|folder| Some(folder.path().join("new").join(output).metadata().ok()?.len())).sum()
    }
}

/// A `dflow` that is killed if the test fails.
pub struct Running(Option<Child>);

impl Running {
    pub fn start(mut command: Command) -> Self {
        Self(Some(command.process_group(0).spawn().unwrap()))
    }

    pub fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    pub fn kill(&mut self) {
        let child = self.0.as_mut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn wait(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Ran {
    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stderr, self.report);
        assert_eq!(self.report["state"], "succeeded");
        self
    }

    /// The run has failed, in this instance, for a reason that contains these words.
    #[track_caller]
    pub fn failed(&self, instance: &str, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(1), "{}\n{}", self.stderr, self.report);
        assert_eq!(self.report["state"], "failed");
        assert_eq!(self.report["error"]["instance"], instance, "{}", self.report["error"]);
        let reason = self.report["error"]["reason"].as_str().unwrap();
        for word in words {
            assert!(reason.contains(word), "'{word}' is not in: {reason}");
        }
        assert_eq!(self.report["outputs"], Value::Array(Vec::new()), "outputs are visible");
        self
    }

    /// The run has failed because this node was lost.
    #[track_caller]
    pub fn lost(&self, node: &str) -> &Self {
        assert_eq!(self.code, Some(1), "{}\n{}", self.stderr, self.report);
        let reason = self.report["error"]["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("node {node} is lost")), "{reason}");
        assert_eq!(self.report["error"]["node"], node, "{}", self.report["error"]);
        // Of what may help, what does: no retry runs anywhere else.
        assert!(self.stderr.contains(&format!("dflow doctor --peer {node}=")), "{}", self.stderr);
        assert!(!self.stderr.contains("retries: 3"), "{}", self.stderr);
        self
    }

    /// The call was wrong, for a reason that contains these words.
    #[track_caller]
    pub fn refused(&self, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(2), "{}\n{}", self.stderr, self.report);
        let text = format!("{}{}", self.stderr, self.report);
        for word in words {
            assert!(text.contains(word), "'{word}' is not in: {text}");
        }
        self
    }

    /// Every attempt of every instance.
    pub fn instances(&self) -> impl Iterator<Item = &Value> {
        self.report["instances"].as_array().unwrap().iter()
    }

    pub fn attempts(&self, name: &str) -> Vec<&Value> {
        self.instances().filter(|attempt| attempt["name"] == name).collect()
    }
}

/// Processes that carry a mark in their environment.
pub fn marked(mark: &str) -> Vec<(i32, String)> {
    let needle = format!("{MARK}={mark}\0").into_bytes();
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let carries = environment.windows(needle.len()).any(|window| window == needle);
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        carries.then(|| (pid, name.trim().to_owned()))
    })
    .collect()
}

/// Waits until something holds; fails after ten seconds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A small temporary filesystem; needs root.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(at: &Path, size: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o"]).arg(format!("size={size}")).arg("tmpfs").arg(at).status();
        assert!(mounted.is_ok_and(|status| status.success()), "this test mounts a small tmpfs and so needs root");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The findings of `dflow doctor`, by topic, started by a shell that first changes its own limits.
pub fn doctor(limits: &str, args: &[&str]) -> Value {
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{limits}; exec \"$@\""))
        .args(["sh", env!("CARGO_BIN_EXE_dflow"), "doctor", "--format", "json"])
        .args(args)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|finding| (finding["topic"].as_str().unwrap().to_owned(), finding.clone())).collect()
}

/// A cgroup with a memory limit, of the version that has the memory controller.
pub struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// If this process may not create one, as in many containers, the test fails with the reason.
    pub fn limited_to(bytes: u64) -> Self {
        Self::make(bytes).unwrap_or_else(|reason| {
            panic!(
                "this test needs a cgroup that limits memory, and none can be made: {reason}\n\
                 DFLOW_TEST_CGROUPS=none has scripts/test leave it out."
            )
        })
    }

    fn make(bytes: u64) -> Result<Self, String> {
        static CGROUPS: AtomicU32 = AtomicU32::new(0);
        let own = std::fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let path = |prefix: &str| own.lines().find_map(|line| line.split_once(prefix)).map(|(_, path)| path.to_owned());
        let root = Path::new("/sys/fs/cgroup");
        let (base, file) = match path(":memory:") {
            Some(path) => (root.join("memory").join(path.trim_start_matches('/')), "memory.limit_in_bytes"),
            None => {
                let path = path("0::").ok_or("this process is in no cgroup")?;
                (root.join(path.trim_start_matches('/')), "memory.max")
            }
        };
        let number = CGROUPS.fetch_add(1, Ordering::Relaxed);
        let place = base.join(format!("test-of-dflow-{}-{number}", std::process::id()));
        std::fs::create_dir(&place).map_err(|error| format!("{}: {error}", base.display()))?;
        let cgroup = Self(place);
        let limit = cgroup.0.join(file);
        std::fs::write(&limit, bytes.to_string()).map_err(|error| format!("{}: {error}", limit.display()))?;
        Ok(cgroup)
    }

    /// The shell command that enters it.
    pub fn enter(&self) -> String {
        format!("echo 0 > '{}/cgroup.procs' || exit 99", self.0.display())
    }

    /// The number of its processes that the kernel has killed because memory ran out.
    pub fn kills(&self) -> u64 {
        let text = ["memory.oom_control", "memory.events"]
            .iter()
            .find_map(|file| std::fs::read_to_string(self.0.join(file)).ok())
            .unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).map_or(0, |count| count.parse().unwrap())
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // The cgroups of a launcher in it are gone; a process may be counted for a moment after its end.
        let start = Instant::now();
        while let Err(error) = std::fs::remove_dir(&self.0) {
            if start.elapsed() > Duration::from_secs(5) {
                assert!(std::thread::panicking(), "something is left in {}: {error}", self.0.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The output of the probe.
pub fn test_bytes(length: u64) -> Vec<u8> {
    (0..length).map(|offset| (offset ^ (offset >> 8) ^ (offset >> 17)) as u8).collect()
}

/// A switch on the output of the function `probe`, which is the parameter `mode`.
pub fn switch_on_what_was_written() -> Case {
    Case::with_header(
        "params: { mode: small }",
        "probe: { command: [sh, -c, 'echo {params.mode}'], outputs: [kind] }
         route: { switch: probe.kind, cases: { small: s, large: [l] } }
         s: { command: [echo, was-small] }
         l: { command: [echo, was-large] }",
        "{ o: [s.out, l.out] }",
    )
}
