//! Checks everything that can be checked before a run starts.

use crate::cluster::{ClusterError, ClusterSpec, certificate_warning, find_device, load_identity};
use crate::input::{InputError, InputStream, Opener, SeenFile};
use crate::logs::RecordOptions;
use crate::node::{AdmissionError, start_launcher};
use crate::options::{NodeOptions, file_size_limit, raise_descriptor_limit};
use crate::output::{Call, OutputError, OutputTarget, Planned, Target, check_stdout};
use crate::parts::PartNames;
use crate::placement;
use crate::program::{ProgramError, Wanted};
use crate::surroundings::{MAX_ENVIRONMENT_BYTES, Surroundings};
use dflow_disk::DiskError;
use dflow_launcher::Launcher;
use dflow_scheduler::{Invocation, PlanError};
use dflow_store::StoreError;
use dflow_workflow::{FunctionId, Workflow};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// The specification of a run.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The workflow.
    pub workflow: Arc<Workflow>,
    /// The directory of the workflow file: on every node, functions run there unless the file says otherwise.
    pub workflow_dir: PathBuf,
    /// Values of the workflow's parameters, complete.
    pub params: BTreeMap<String, String>,
    /// For each input of the workflow, by name, files and directories; `-` is the standard input.
    pub inputs: Vec<(String, Vec<PathBuf>)>,
    /// The destination of the outputs.
    pub output: OutputTarget,
    /// The resources of this node.
    pub options: NodeOptions,
    /// When instances start.
    pub invocation: Invocation,
    /// The other nodes of the run.
    pub cluster: Option<ClusterSpec>,
    /// The record of the run.
    pub record: RecordOptions,
}

impl RunSpec {
    /// The directory for the outputs; `None` if they go to standard output.
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
    /// The data of an input cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A function's program does not exist or cannot be executed.
    #[error("the function '{function}' cannot run: {source}")]
    Program {
        /// The function.
        function: String,
        /// Why.
        source: ProgramError,
    },
    /// The environment of `dflow run` is too large to be sent to other nodes.
    #[error(
        "the environment of this call has {bytes} bytes, and at most {MAX_ENVIRONMENT_BYTES} can be sent to the nodes of a \
         run: unset what the functions do not need ('env -u NAME dflow run …')"
    )]
    Environment {
        /// The size of its names and values, in bytes.
        bytes: usize,
    },
    /// The outputs cannot be published at their destination.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The options do not fit the workflow.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The store cannot be set up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node does not take in the run.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
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
        /// The lowest limit of the cgroup and its ancestors, in bytes.
        limit: u64,
    },
    /// The limit of open files is too small for any run.
    #[error(
        "this process may open {limit} files, which is too little: dflow needs {LEAST_DESCRIPTORS} at least, and about 5 \
         more for each running instance; raise the limit with 'ulimit -n'"
    )]
    Descriptors {
        /// The hard limit.
        limit: u64,
    },
    /// The limit of the size of files is too small for any run.
    #[error(
        "this process may write files of at most {limit} bytes (ulimit -f), which is too little: memory for streams counts \
         as files, and dflow needs {} MiB at least",
        LEAST_FILE_SIZE >> 20
    )]
    FileSize {
        /// The limit, in bytes.
        limit: u64,
    },
    /// Another node cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Metrics cannot be served.
    #[error(
        "cannot serve metrics on TCP {address}: {source}; choose another address or port, or stop the program that uses it"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The launcher cannot be started.
    #[error(transparent)]
    Launcher(#[from] dflow_launcher::Error),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl SetupError {
    /// What to do about it, if the text does not say so.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Cluster(error) => error.help(),
            Self::Output(error) => error.help(),
            Self::Input(error) => error.help(),
            Self::FileSize { .. } => Some("raise the limit with 'ulimit -f', as far as its hard limit allows"),
            _ => None,
        }
    }
}

/// A run whose inputs and programs have been found.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The streams of each input.
    pub(crate) inputs: Vec<Vec<InputStream>>,
    /// The files that are read up to the size that they had.
    pub(crate) seen: Vec<SeenFile>,
    /// The program of each function.
    pub(crate) wanted: Vec<Wanted>,
    /// The files of programs that run on this node.
    pub(crate) programs: Vec<Option<PathBuf>>,
    /// The environment that functions get.
    pub(crate) surroundings: Surroundings,
    /// The names of the parts of each `foreach`.
    pub(crate) part_names: PartNames,
    /// Notes for the user.
    pub(crate) notes: Vec<String>,
}

impl Checked {
    /// The number of parts of each input of the workflow.
    pub(crate) fn input_parts(&self) -> Vec<u32> {
        self.inputs.iter().map(|streams| u32::try_from(streams.len()).unwrap_or(u32::MAX)).collect()
    }
}

/// A run that can begin: everything has been checked, and its inputs are open.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) checked: Checked,
    pub(crate) launcher: Launcher,
}

impl Prepared {
    /// Notes for the user, one line each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.checked.notes
    }
}

/// Checks everything that can be checked before a run, and opens its inputs. Completes or removes what a killed run has
/// left in the output directory.
///
/// # Errors
/// The first error.
pub fn prepare(spec: &RunSpec) -> Result<Prepared, SetupError> {
    check_file_size()?;
    let Found { wanted, programs, surroundings, mut notes } = find(spec)?;
    spec.options.budget()?;
    match spec.output_folder()? {
        Some(target) => notes.extend(target.check()?),
        None => check_stdout(&spec.planned_outputs())?,
    }
    // Starting the launcher is cheap while this process is small and has no threads. Functions inherit the present
    // limit of open files.
    let launcher = start_launcher(&spec.options)?;
    let limit = raise_descriptor_limit();
    // Last, because the writer of a named pipe continues as soon as it is open. The other half of the descriptors is
    // for the run itself.
    let mut opener = Opener::new(limit / 2);
    let (inputs, part_names) = open_inputs(spec, &mut opener)?;
    notes.append(&mut opener.notes);
    Ok(Prepared {
        checked: Checked { inputs, seen: opener.seen, wanted, programs, surroundings, part_names, notes },
        launcher,
    })
}

/// Like [`prepare`], but without opening, starting or changing anything.
///
/// # Errors
/// The first error.
pub(crate) fn examine(spec: &RunSpec) -> Result<Checked, SetupError> {
    let Found { wanted, programs, surroundings, mut notes } = find(spec)?;
    let mut opener = Opener::looking();
    let (inputs, part_names) = open_inputs(spec, &mut opener)?;
    notes.append(&mut opener.notes);
    Ok(Checked { inputs, seen: opener.seen, wanted, programs, surroundings, part_names, notes })
}

/// Minimum file size limit of a run: the memory of streams counts against it.
const LEAST_FILE_SIZE: u64 = 64 << 20;

fn check_file_size() -> Result<(), SetupError> {
    dflow_launcher::ignore_file_size_signal();
    match file_size_limit() {
        Some(limit) if limit < LEAST_FILE_SIZE => Err(SetupError::FileSize { limit }),
        _ => Ok(()),
    }
}

/// The number of open files of the smallest run: the event loop, the launcher, inputs and outputs, two functions.
pub(crate) const LEAST_DESCRIPTORS: u64 = 64;

fn check_descriptors() -> Result<(), SetupError> {
    // The soft limit is raised when the run starts; functions keep the original one.
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum {
        Some(limit) if limit < LEAST_DESCRIPTORS => Err(SetupError::Descriptors { limit }),
        _ => Ok(()),
    }
}

/// The requirements of the functions on their nodes, and notes for the user.
struct Found {
    wanted: Vec<Wanted>,
    programs: Vec<Option<PathBuf>>,
    surroundings: Surroundings,
    notes: Vec<String>,
}

fn find(spec: &RunSpec) -> Result<Found, SetupError> {
    check_descriptors()?;
    let mut notes = match &spec.cluster {
        Some(cluster) => check_cluster(spec, cluster)?,
        None => Vec::new(),
    };
    notes.extend(placement::slot_notes(spec, &[spec.options.slots]));
    let surroundings = surroundings(spec)?;
    let (wanted, programs) = find_programs(spec)?;
    Ok(Found { wanted, programs, surroundings, notes })
}

/// The streams of every input, and the names of their parts.
fn open_inputs(spec: &RunSpec, opener: &mut Opener) -> Result<(Vec<Vec<InputStream>>, PartNames), InputError> {
    for (name, _) in &spec.inputs {
        if !spec.workflow.inputs.iter().any(|input| input.name == *name) {
            let known = spec.workflow.inputs.iter().map(|input| format!("'{}'", input.name)).collect::<Vec<_>>();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(InputError::Unknown { name: name.clone(), known });
        }
    }
    let (mut inputs, mut part_names) = (Vec::new(), Vec::new());
    for input in &spec.workflow.inputs {
        let given = spec.inputs.iter().filter(|(name, _)| *name == input.name);
        let paths: Vec<&PathBuf> = given.flat_map(|(_, paths)| paths).collect();
        if paths.is_empty() {
            return Err(InputError::Missing { name: input.name.clone() });
        }
        let (streams, names) = opener.open(&input.name, input.partitioned, &paths)?;
        inputs.push(streams);
        part_names.push(names);
    }
    Ok((inputs, PartNames::new(part_names)))
}

/// The environment of the functions on every node.
fn surroundings(spec: &RunSpec) -> Result<Surroundings, SetupError> {
    let file = spec.workflow.env.iter().map(|(name, value)| (name.clone(), value.fill(&spec.params)));
    let surroundings = Surroundings::of_call(&file.collect());
    match surroundings.size() {
        bytes if bytes > MAX_ENVIRONMENT_BYTES && spec.cluster.is_some() => Err(SetupError::Environment { bytes }),
        _ => Ok(surroundings),
    }
}

/// The program of each function, and its file if the function runs on this node. Other nodes search for their programs
/// when they join the run.
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

/// Nodes and placement, and notes for the user about them.
fn check_cluster(spec: &RunSpec, cluster: &ClusterSpec) -> Result<Vec<String>, ClusterError> {
    placement::check(spec, cluster)?;
    find_device(&spec.options.rdma)?;
    let identity = load_identity(&cluster.identity)?;
    let warning = certificate_warning(&identity, &cluster.identity, SystemTime::now());
    Ok(warning.into_iter().chain(placement::note(spec, cluster)).collect())
}
