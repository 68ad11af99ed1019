//! Everything that can be known to be wrong before a run starts.

use crate::cluster::{ClusterError, ClusterSpec, certificate_warning, find_device, load_identity};
use crate::logs::RecordOptions;
use crate::options::NodeOptions;
use crate::output::{Call, OutputError, OutputTarget, Planned, Target, check_stdout};
use crate::parts::PartNames;
use crate::placement;
use crate::program::{ProgramError, Wanted};
use crate::surroundings::{MAX_ENVIRONMENT_BYTES, Surroundings};
use dflow_disk::DiskError;
use dflow_scheduler::{Invocation, PlanError};
use dflow_store::{Refusal, StoreError};
use dflow_workflow::{FunctionId, Workflow};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A run as it is asked for.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The workflow.
    pub workflow: Arc<Workflow>,
    /// The folder of the workflow file: on every node, functions run there unless the file says otherwise.
    pub workflow_dir: PathBuf,
    /// Values of the workflow's parameters, complete.
    pub params: BTreeMap<String, String>,
    /// For each input of the workflow, by name, files and directories; `-` is the standard input.
    pub inputs: Vec<(String, Vec<PathBuf>)>,
    /// Where the outputs go.
    pub output: OutputTarget,
    /// What the node may use.
    pub options: NodeOptions,
    /// What lets an instance start.
    pub invocation: Invocation,
    /// Other nodes that take part.
    pub cluster: Option<ClusterSpec>,
    /// What is kept of the run.
    pub record: RecordOptions,
}

impl RunSpec {
    /// The folder for the outputs; `None` if they go to standard output.
    pub(crate) fn output_folder(&self) -> Result<Option<Target>, OutputError> {
        let OutputTarget::Folder { path, overwrite } = &self.output else { return Ok(None) };
        let call = Call::new(&self.workflow.name, &self.params, &self.inputs);
        Target::new(path, *overwrite, call, self.planned_outputs()).map(Some)
    }

    pub(crate) fn planned_outputs(&self) -> Vec<Planned> {
        let planned =
            |output: &dflow_workflow::WorkflowOutput| Planned { name: output.name.clone(), many: output.many };
        self.workflow.outputs.iter().map(planned).collect()
    }
}

/// Why a run cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The run was cancelled before it began.
    #[error("the run was cancelled before it began: {reason}")]
    Cancelled {
        /// Why.
        reason: String,
    },
    /// An input of the workflow has no file.
    #[error("the input '{name}' of the workflow has no file; add --input {name}=PATH")]
    MissingInput {
        /// The input.
        name: String,
    },
    /// A file was given for something that is no input.
    #[error("the workflow has no input '{name}'; it has {known}")]
    UnknownInput {
        /// The name that was given.
        name: String,
        /// The inputs there are.
        known: String,
    },
    /// An input cannot be read.
    #[error("the input '{name}' cannot be read: {path}: {reason}")]
    UnreadableInput {
        /// The input.
        name: String,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A function's program is not there or cannot be executed.
    #[error("the function '{function}' cannot run: {source}")]
    Program {
        /// The function.
        function: String,
        /// Why.
        source: ProgramError,
    },
    /// The environment of the call is too large to be sent to other nodes.
    #[error(
        "the environment of this call has {bytes} bytes, and at most {MAX_ENVIRONMENT_BYTES} can be sent to the nodes of a \
         run: unset what the functions do not need ('env -u NAME dflow run …')"
    )]
    Environment {
        /// The bytes of its names and values.
        bytes: usize,
    },
    /// The outputs cannot be published where they are to go.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The options do not fit the workflow.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The store cannot be set up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store has no room for the run.
    #[error(transparent)]
    Admission(#[from] Refusal),
    /// The spill directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A cgroup leaves too little memory.
    #[error(
        "this process's cgroup may use {} KiB of memory, which is too little: dflow and small functions take about 8 MiB, \
         and streams need 256 KiB at least; raise the limit of the cgroup (memory.max, or memory.limit_in_bytes) to 64 MiB \
         or more",
        limit >> 10
    )]
    CgroupMemory {
        /// The least limit of the cgroup and those above, in bytes.
        limit: u64,
    },
    /// The limit of open files is too small for any run.
    #[error(
        "this process may open {limit} files, which is too little: dflow needs {LEAST_DESCRIPTORS} at least, and about 5 \
         more for each running instance; raise the limit with 'ulimit -n'"
    )]
    Descriptors {
        /// The limit, as far as this process may raise it.
        limit: u64,
    },
    /// Another node does not take part.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Metrics cannot be served.
    #[error("cannot serve metrics on TCP {address}: {source}; choose another address or port, or stop what uses it")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The launcher does not start.
    #[error(transparent)]
    Launcher(#[from] dflow_launcher::Error),
    /// The machine lacks something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl SetupError {
    /// What to do about it, where the text does not say that already.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Cluster(error) => error.help(),
            Self::Output(error) => error.help(),
            _ => None,
        }
    }
}

/// The streams of one workflow input.
#[derive(Debug)]
pub(crate) enum InputFiles {
    /// One list of files for each stream.
    Files(Vec<Vec<(OwnedFd, u64)>>),
    /// One stream that has to be read as it comes: the standard input, a pipe, a device.
    Live(OwnedFd),
}

/// How an input that is neither a file nor a directory is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenLive {
    /// For reading.
    Read,
    /// Without any effect on whoever has the other end of a pipe: the descriptor only proves that the path exists.
    PathOnly,
}

/// A run all of whose parts have been found.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) inputs: Vec<InputFiles>,
    /// The program of each function.
    pub(crate) wanted: Vec<Wanted>,
    /// Its file, for those that run on this node.
    pub(crate) programs: Vec<Option<PathBuf>>,
    /// The environment that functions get.
    pub(crate) surroundings: Surroundings,
    /// What the parts of a `foreach` are called.
    pub(crate) part_names: PartNames,
    /// What the user should know.
    pub(crate) notes: Vec<String>,
}

impl Checked {
    /// For each input of the workflow, of how many parts it consists.
    pub(crate) fn input_parts(&self) -> Vec<u32> {
        let parts = |input: &InputFiles| match input {
            InputFiles::Files(streams) => u32::try_from(streams.len()).unwrap_or(u32::MAX),
            InputFiles::Live(_) => 1,
        };
        self.inputs.iter().map(parts).collect()
    }
}

/// Checks what can be checked without starting anything: inputs, programs, the output directory. What the user should know
/// although it is not wrong, a line each.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(spec: &RunSpec) -> Result<Vec<String>, SetupError> {
    let mut checked = examine(spec, OpenLive::Read)?;
    spec.options.budget()?;
    match spec.output_folder()? {
        Some(target) => checked.notes.extend(target.check()?),
        None => check_stdout(&spec.planned_outputs())?,
    }
    Ok(checked.notes)
}

/// So many open files the smallest run needs: the event loop, the launcher, inputs and outputs, two functions.
pub(crate) const LEAST_DESCRIPTORS: u64 = 64;

fn check_descriptors() -> Result<(), SetupError> {
    // The soft limit is raised when the run starts; functions keep it as it is.
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum {
        Some(limit) if limit < LEAST_DESCRIPTORS => Err(SetupError::Descriptors { limit }),
        _ => Ok(()),
    }
}

pub(crate) fn examine(spec: &RunSpec, live: OpenLive) -> Result<Checked, SetupError> {
    check_descriptors()?;
    let mut notes = match &spec.cluster {
        Some(cluster) => check_cluster(spec, cluster)?,
        None => Vec::new(),
    };
    notes.extend(placement::slot_notes(spec, &[spec.options.slots]));
    let surroundings = surroundings(spec)?;
    let (wanted, programs) = find_programs(spec)?;
    for (name, _) in &spec.inputs {
        if !spec.workflow.inputs.iter().any(|input| input.name == *name) {
            let known = spec.workflow.inputs.iter().map(|input| format!("'{}'", input.name)).collect::<Vec<_>>();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(SetupError::UnknownInput { name: name.clone(), known });
        }
    }
    let (mut inputs, mut part_names) = (Vec::new(), Vec::new());
    for input in &spec.workflow.inputs {
        let given = spec.inputs.iter().filter(|(name, _)| *name == input.name);
        let paths: Vec<&PathBuf> = given.flat_map(|(_, paths)| paths).collect();
        if paths.is_empty() {
            return Err(SetupError::MissingInput { name: input.name.clone() });
        }
        let (files, names) = open_input(&input.name, input.partitioned, &paths, live)?;
        inputs.push(files);
        part_names.push(names);
    }
    Ok(Checked { inputs, wanted, programs, surroundings, part_names: PartNames::new(part_names), notes })
}

/// The environment that the functions get on every node.
fn surroundings(spec: &RunSpec) -> Result<Surroundings, SetupError> {
    let file = spec.workflow.env.iter().map(|(name, value)| (name.clone(), value.fill(&spec.params)));
    let surroundings = Surroundings::of_call(&file.collect());
    match surroundings.size() {
        bytes if bytes > MAX_ENVIRONMENT_BYTES && spec.cluster.is_some() => Err(SetupError::Environment { bytes }),
        _ => Ok(surroundings),
    }
}

/// The program of each function, and its file for those that run on this node. Other nodes look for theirs when they are
/// asked to take part.
fn find_programs(spec: &RunSpec) -> Result<(Vec<Wanted>, Vec<Option<PathBuf>>), SetupError> {
    let workflow_dir = std::path::absolute(&spec.workflow_dir).unwrap_or_else(|_| spec.workflow_dir.clone());
    let places = placement::places(spec);
    let mut found: HashMap<Wanted, PathBuf> = HashMap::new();
    let mut all = (Vec::new(), Vec::new());
    for (id, function) in (0..).map(FunctionId).zip(&spec.workflow.functions) {
        let wanted = Wanted::of(function, &spec.workflow.env, &workflow_dir, &spec.params);
        let is_here = places.get(&id).is_none_or(|places| places.contains(&0));
        let file = match found.get(&wanted) {
            _ if !is_here => None,
            Some(file) => Some(file.clone()),
            None => {
                let program = |source| SetupError::Program { function: function.name.clone(), source };
                let file = wanted.find().map_err(program)?;
                found.insert(wanted.clone(), file.clone());
                Some(file)
            }
        };
        all.0.push(wanted);
        all.1.push(file);
    }
    Ok(all)
}

/// Nodes and placement; what the user should know about them.
fn check_cluster(spec: &RunSpec, cluster: &ClusterSpec) -> Result<Vec<String>, ClusterError> {
    placement::check(spec, cluster)?;
    find_device(&spec.options.rdma)?;
    let identity = load_identity(&cluster.identity)?;
    let warning = certificate_warning(&identity, &cluster.identity, SystemTime::now());
    Ok(warning.into_iter().chain(placement::note(spec, cluster)).collect())
}

/// The streams of an input, and where they are parts, their files.
fn open_input(
    name: &str,
    partitioned: bool,
    paths: &[&PathBuf],
    live: OpenLive,
) -> Result<(InputFiles, Vec<PathBuf>), SetupError> {
    let unreadable =
        |path: &Path, reason: String| SetupError::UnreadableInput { name: name.into(), path: path.to_owned(), reason };
    let (mut files, mut names) = (Vec::new(), Vec::new());
    for path in paths {
        let is_stdin = path.as_os_str() == "-";
        let metadata =
            if is_stdin { None } else { Some(std::fs::metadata(path).map_err(|e| unreadable(path, e.to_string()))?) };
        if metadata.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            let mut entries = std::fs::read_dir(path)
                .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
                .map_err(|error| unreadable(path, error.to_string()))?;
            entries.retain(|entry| entry.is_file());
            entries.sort();
            // A `foreach` over no files has no instances.
            if entries.is_empty() && !partitioned {
                return Err(unreadable(path, "the directory has no files".into()));
            }
            for entry in entries {
                let file = std::fs::File::open(&entry).map_err(|error| unreadable(&entry, error.to_string()))?;
                let length = file.metadata().map_err(|error| unreadable(&entry, error.to_string()))?.len();
                files.push((OwnedFd::from(file), length));
                names.push(entry);
            }
        } else if metadata.as_ref().is_some_and(std::fs::Metadata::is_file) {
            let file = std::fs::File::open(path).map_err(|error| unreadable(path, error.to_string()))?;
            let length = file.metadata().map_err(|error| unreadable(path, error.to_string()))?.len();
            files.push((OwnedFd::from(file), length));
            names.push((*path).clone());
        } else {
            if paths.len() > 1 || partitioned {
                return Err(unreadable(path, "what is no regular file can only be the one source of an input".into()));
            }
            let live = if is_stdin {
                rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
                    .map_err(|error| unreadable(path, error.to_string()))?
            } else if live == OpenLive::PathOnly {
                open_path_only(path).map_err(|error| unreadable(path, error.to_string()))?
            } else {
                std::fs::File::open(path).map_err(|error| unreadable(path, error.to_string()))?.into()
            };
            return Ok((InputFiles::Live(live), Vec::new()));
        }
    }
    Ok(if partitioned {
        (InputFiles::Files(files.into_iter().map(|file| vec![file]).collect()), names)
    } else {
        (InputFiles::Files(vec![files]), Vec::new())
    })
}

/// A descriptor of a path that may be read. Opening a pipe would wake its writer, and closing it again would kill it.
fn open_path_only(path: &Path) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
    rustix::fs::accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS)?;
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}
