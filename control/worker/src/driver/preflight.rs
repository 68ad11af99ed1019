//! Checks everything that can be checked before a run starts.

use super::placement::{self, Demand};
use crate::error::SetupError;
use crate::input::{InputError, InputStream, Opener, SeenFile};
use crate::node::program::Wanted;
use crate::node::start_launcher;
use crate::node::surroundings::{MAX_ENVIRONMENT_BYTES, Surroundings};
use crate::node::unusable::UnusablePrograms;
use crate::options::{LEAST_DESCRIPTORS, LEAST_FILE_SIZE, file_size_limit, raise_descriptor_limit};
use crate::output::check_stdout;
use crate::part::names::PartNames;
use crate::peer::certificate::{load as load_identity, warning as certificate_warning};
use crate::peer::device::find_device;
use crate::peer::error::ClusterError;
use crate::peer::spec::ClusterSpec;
use crate::profiles::{self, LearnedFunctions};
use crate::spec::RunSpec;
use dflow_launcher::Launcher;
use dflow_workflow::FunctionId;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

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
    pub(crate) part_names: Arc<PartNames>,
    /// The learned profiles of the functions; empty if the run has one node.
    pub(crate) learned: LearnedFunctions,
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
    let (found, notes) = check(spec)?;
    // Starting the launcher is cheap while this process is small and has no threads. Functions inherit the present
    // limit of open files.
    let launcher = start_launcher(&spec.options)?;
    Ok(Prepared { checked: open(spec, found, notes)?, launcher })
}

/// Like [`prepare`], for a node that has a launcher.
///
/// # Errors
/// The first error.
pub(super) fn check_and_open(spec: &RunSpec) -> Result<Checked, SetupError> {
    let (found, notes) = check(spec)?;
    open(spec, found, notes)
}

fn check(spec: &RunSpec) -> Result<(Found, Vec<String>), SetupError> {
    check_file_size()?;
    let mut found = find(spec)?;
    let mut notes = std::mem::take(&mut found.notes);
    spec.options.budget()?;
    match spec.output_folder()? {
        Some(target) => notes.extend(target.check()?),
        None => check_stdout(&spec.planned_outputs())?,
    }
    Ok((found, notes))
}

/// Last of all, because the writer of a named pipe continues as soon as it is open.
fn open(spec: &RunSpec, found: Found, mut notes: Vec<String>) -> Result<Checked, SetupError> {
    let Found { wanted, programs, surroundings, learned, .. } = found;
    // The other half of the descriptors is for the run itself.
    let mut opener = Opener::new(raise_descriptor_limit() / 2);
    let (inputs, part_names) = open_inputs(spec, &mut opener)?;
    notes.append(&mut opener.notes);
    let part_names = Arc::new(part_names);
    Ok(Checked { inputs, seen: opener.seen, wanted, programs, surroundings, part_names, learned, notes })
}

/// Like [`prepare`], but without opening, starting or changing anything.
///
/// # Errors
/// The first error.
pub(crate) fn examine(spec: &RunSpec) -> Result<Checked, SetupError> {
    let Found { wanted, programs, surroundings, learned, mut notes } = find(spec)?;
    let mut opener = Opener::looking();
    let (inputs, part_names) = open_inputs(spec, &mut opener)?;
    notes.append(&mut opener.notes);
    let part_names = Arc::new(part_names);
    Ok(Checked { inputs, seen: opener.seen, wanted, programs, surroundings, part_names, learned, notes })
}

fn check_file_size() -> Result<(), SetupError> {
    dflow_launcher::ignore_file_size_signal();
    match file_size_limit() {
        Some(limit) if limit < LEAST_FILE_SIZE => Err(SetupError::FileSize { limit }),
        _ => Ok(()),
    }
}

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
    learned: LearnedFunctions,
    notes: Vec<String>,
}

fn find(spec: &RunSpec) -> Result<Found, SetupError> {
    check_descriptors()?;
    let learned = learned(spec);
    let demand = Demand::of(spec, &learned);
    let mut notes = match &spec.cluster {
        Some(cluster) => check_cluster(spec, cluster, &demand)?,
        None => Vec::new(),
    };
    notes.extend(placement::slot_notes(spec, &demand.required, &[spec.options.slots]));
    let surroundings = surroundings(spec)?;
    let (wanted, programs) = find_programs(spec, &demand)?;
    Ok(Found { wanted, programs, surroundings, learned, notes })
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

/// The learned profiles. They matter only if there is a choice of nodes. A file that cannot be used counts as empty.
fn learned(spec: &RunSpec) -> LearnedFunctions {
    let Some(records) = spec.record.folder.as_deref().filter(|_| spec.cluster.is_some()) else {
        return LearnedFunctions::new();
    };
    profiles::load(records, &spec.workflow.name).unwrap_or_else(|error| {
        tracing::warn!(%error, "the run is planned without learned profiles");
        LearnedFunctions::new()
    })
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
fn find_programs(spec: &RunSpec, demand: &Demand) -> Result<(Vec<Wanted>, Vec<Option<PathBuf>>), SetupError> {
    let workflow_dir = spec.absolute_workflow_dir();
    let mut found: HashMap<Wanted, PathBuf> = HashMap::new();
    let mut unusable = UnusablePrograms::default();
    let mut all = (Vec::new(), Vec::new());
    for (id, function) in (0..).map(FunctionId).zip(&spec.workflow.functions) {
        let wanted = Wanted::of(function, &spec.workflow.env, &workflow_dir, &spec.params);
        let places = demand.required.places_of(id);
        let is_here = places.is_empty() || places.contains(&0);
        let file = match found.get(&wanted) {
            _ if !is_here => None,
            Some(file) => Some(file.clone()),
            None => {
                let file = unusable.find(&function.name, &wanted, Wanted::find);
                found.extend(file.iter().map(|file| (wanted.clone(), file.clone())));
                file
            }
        };
        all.0.push(wanted);
        all.1.push(file);
    }
    unusable.check()?;
    Ok(all)
}

/// Nodes and placement, and notes for the user about them.
fn check_cluster(spec: &RunSpec, cluster: &ClusterSpec, demand: &Demand) -> Result<Vec<String>, ClusterError> {
    placement::check(spec, cluster)?;
    find_device(&spec.options.rdma)?;
    let identity = load_identity(&cluster.identity)?;
    let warning = certificate_warning(&identity, &cluster.identity, SystemTime::now());
    Ok(warning.into_iter().chain(placement::note(spec, cluster, demand)).collect())
}
