//! `dflow run`: starts the worker for one run, and prints its progress and its report.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dflow_worker::report::{RunEnd, RunReport};
use dflow_worker::{OutputTarget, RunSpec, SetupError, Update};

use crate::args::{Format, RunArgs};
use crate::cluster;
use crate::dry_run::dry_run;
use crate::error::{self, CallError};
use crate::exit::Exit;
use crate::file;
use crate::follow::Screen;
use crate::inputs;
use crate::log;
use crate::progress::Live;
use crate::record;
use crate::terminal::{Look, is_live, print, print_error};
use crate::{signals, summary, timeline, trace};

/// Runs a workflow and prints its report. The inner result is the result of printing.
///
/// # Errors
/// If the command line or the workflow file is wrong; nothing was started.
pub fn run(args: &RunArgs) -> Result<io::Result<Exit>, CallError> {
    let (file, given) = args.file_and_inputs()?;
    let workflow = Arc::new(file::load(file).map_err(CallError::Workflow)?);
    if file.as_os_str() == "-" && given.iter().any(|input| inputs::is_stdin(input)) {
        return Err(inputs::InputError::StdinTwice.into());
    }
    let given = inputs::resolve(&workflow, given, &args.params)?;
    let output = match &args.output {
        Some(path) if path.as_os_str() == "-" => OutputTarget::Stdout,
        path => OutputTarget::Folder {
            path: path.clone().unwrap_or_else(|| Path::new("dflow-out").join(&workflow.name)),
            overwrite: args.overwrite,
        },
    };
    if output == OutputTarget::Stdout && args.format == Format::Json {
        return Err(CallError::TwoDocuments);
    }
    let spec = RunSpec {
        workflow: Arc::clone(&workflow),
        workflow_dir: directory_of(file),
        params: given.params,
        inputs: given.inputs,
        output: output.clone(),
        options: args.node.options(),
        invocation: args.invocation.into(),
        cluster: cluster::spec(&args.cluster)?,
        record: record::options(&args.record),
    };
    let spec = RunSpec { options: cluster::named(spec.options.clone(), &args.cluster)?, ..spec };
    if args.dry_run {
        return dry_run(&spec, args.format, args.quiet);
    }
    let prepared = dflow_worker::prepare(&spec)?;
    // The report repeats notes that were printed during the run.
    let mut printed_notes = prepared.notes().to_vec();
    let mut notes = Notes(if args.quiet { Vec::new() } else { printed_notes.clone() });
    // Opened before the run: if it cannot be written, that should not turn out after an hour.
    let trace = args.trace.as_deref().map(open_trace).transpose()?;

    let (canceller, cancellation) = dflow_worker::cancellation();
    let caught = signals::watch(canceller).map_err(CallError::Signals)?;
    let report = {
        let live = (is_live(&io::stderr()) && !log::is_on() && !args.quiet)
            .then(|| Live::new(io::stderr(), &workflow.name, || Look::of(&io::stderr())));
        let mut screen = Screen::start(live, args.follow).map_err(CallError::Screen)?;
        let report = dflow_worker::run(&spec, prepared, cancellation, |update| {
            notes.print();
            if let Update::Note(note) = &update {
                printed_notes.push((*note).to_owned());
            }
            if !(args.quiet && matches!(update, Update::Note(_))) {
                screen.update(update);
            }
        });
        match (report, caught.first()) {
            (Err(error @ SetupError::Cancelled { .. }), Some(signal)) => {
                print_error(&CallError::Setup(error).render(&Look::of(&io::stderr())));
                return Ok(Ok(Exit::Signalled(signal)));
            }
            (report, _) => report?,
        }
    };

    if !args.quiet {
        notes.0.extend(report.notes.iter().filter(|note| !printed_notes.contains(note)).cloned());
    }
    notes.print();
    let mut exit = match report.state {
        RunEnd::Succeeded => Exit::Success,
        RunEnd::Failed => Exit::Failed,
        RunEnd::Cancelled => caught.first().map_or(Exit::Failed, Exit::Signalled),
    };
    let printed = match args.format {
        Format::Human if args.quiet => Ok(()),
        format => show(&report, format, &output),
    };
    let look = Look::of(&io::stderr());
    if !args.quiet {
        print_error(&summary::retried(&report, &look));
    }
    print_error(&summary::failure(&report, &workflow, &output, &look));
    if let Some((path, file)) = trace
        && let Err(source) = trace::write(&report, file)
    {
        print_error(&CallError::Trace { path, source }.render(&look));
        exit = if exit == Exit::Success { Exit::Failed } else { exit };
    }
    Ok(printed.map(|()| exit))
}

/// The notes of a run. They are printed at its first update: if the run cannot start, only the error matters.
struct Notes(Vec<String>);

impl Notes {
    /// Prints the notes that have not been printed yet.
    fn print(&mut self) {
        for note in self.0.drain(..) {
            print_error(&error::render_note(&Look::of(&io::stderr()), &note));
        }
    }
}

fn show(report: &RunReport, format: Format, output: &OutputTarget) -> io::Result<()> {
    match format {
        Format::Json => {
            let json = serde_json::to_string_pretty(report).map_err(io::Error::from)?;
            print(&(json + "\n"))
        }
        Format::Human => {
            // With `--output -`, standard output holds the result.
            let aside = *output == OutputTarget::Stdout;
            let look = if aside { Look::of(&io::stderr()) } else { Look::of(&io::stdout()) };
            let timeline = timeline::render(report, &look);
            let gap = if timeline.is_empty() { "" } else { "\n" };
            let text = format!("{timeline}{gap}{}", summary::totals(report, &look));
            if aside {
                print_error(&text);
                return Ok(());
            }
            print(&text)
        }
    }
}

/// The directory of a file; absolute, because functions may run in another directory.
fn directory_of(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    absolute.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn open_trace(path: &Path) -> Result<(PathBuf, File), CallError> {
    match File::create(path) {
        Ok(file) => Ok((path.to_owned(), file)),
        Err(source) => Err(CallError::Trace { path: path.to_owned(), source }),
    }
}
