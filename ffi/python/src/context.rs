//! The context of a function: its parameters and its ports.

use crate::attempt::{Attempt, try_lock};
use crate::errors;
use crate::fan_in::Inputs;
use crate::fork::Own;
use crate::input::Input;
use crate::output::{Output, Partition};
use pyo3::prelude::*;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The context, which its function gets back when the Python function has returned.
pub(crate) type Lent = Arc<Mutex<Option<Own<dflow_function::Context>>>>;

/// The parameters, inputs and outputs of a function. `dflow/_streams.py` wraps it for users.
#[pyclass(frozen, module = "dflow")]
pub(crate) struct Context {
    attempt: Arc<Attempt>,
    context: Lent,
    /// The thread that hears of signals.
    signals: Mutex<Option<JoinHandle<()>>>,
}

impl Context {
    pub(crate) fn new(attempt: Arc<Attempt>, context: Lent) -> Self {
        Self { attempt, context, signals: Mutex::new(None) }
    }

    fn with<R>(&self, py: Python<'_>, work: impl FnOnce(&mut dflow_function::Context) -> PyResult<R>) -> PyResult<R> {
        self.attempt.check(py)?;
        match try_lock(py, &self.context, "context")?.as_mut() {
            Some(context) => work(context),
            None => Err(errors::ended(py, "the function has ended")),
        }
    }
}

fn port_error(py: Python<'_>, error: &dflow_function::Error) -> PyErr {
    errors::new(py, "PortError", &error.to_string())
}

#[pymethods]
impl Context {
    /// The name of this instance, such as `count[3]`.
    #[getter]
    fn instance(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |context| Ok(context.instance().to_owned()))
    }

    /// In a `foreach`, the number of the part that this instance works on.
    #[getter]
    fn part(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        self.with(py, |context| Ok(context.part()))
    }

    /// In a `foreach` over files, the path of this instance's file as the command line names it.
    #[getter]
    fn part_file(&self, py: Python<'_>) -> PyResult<Option<PathBuf>> {
        self.with(py, |context| Ok(context.part_file().map(ToOwned::to_owned)))
    }

    /// The number of this attempt, from 1 on.
    #[getter]
    fn attempt(&self, py: Python<'_>) -> PyResult<u32> {
        self.with(py, |context| Ok(context.attempt()))
    }

    /// The text of a parameter; `None` if the workflow file does not set it.
    fn param(&self, py: Python<'_>, name: &str) -> PyResult<Option<String>> {
        self.with(py, |context| {
            let text = context.param_text(name).map_err(|error| port_error(py, &error))?;
            Ok(text.map(str::to_owned))
        })
    }

    /// The input of this name, which is one stream.
    fn input(&self, py: Python<'_>, name: &str) -> PyResult<Input> {
        self.with(py, |context| {
            let input = context.input(name).map_err(|error| port_error(py, &error))?;
            Ok(Input::new(&self.attempt, input))
        })
    }

    /// The input of this name as a list of streams.
    fn inputs(&self, py: Python<'_>, name: &str) -> PyResult<Inputs> {
        self.with(py, |context| {
            let inputs = context.inputs(name).map_err(|error| port_error(py, &error))?;
            Ok(Inputs::new(&self.attempt, name, inputs))
        })
    }

    /// The output of this name, which is one stream.
    fn output(&self, py: Python<'_>, name: &str) -> PyResult<Output> {
        self.with(py, |context| {
            let output = context.output(name).map_err(|error| port_error(py, &error))?;
            Ok(Output::new(&self.attempt, output))
        })
    }

    /// The streams of an output with a fixed number of parts.
    fn outputs(&self, py: Python<'_>, name: &str) -> PyResult<Vec<Output>> {
        self.with(py, |context| {
            let outputs = context.outputs(name).map_err(|error| port_error(py, &error))?;
            Ok(outputs.into_iter().map(|output| Output::new(&self.attempt, output)).collect())
        })
    }

    /// An output whose parts are opened while the function runs.
    fn partition(&self, py: Python<'_>, name: &str) -> PyResult<Partition> {
        self.with(py, |context| {
            let partition = context.partition(name).map_err(|error| port_error(py, &error))?;
            Ok(Partition::new(&self.attempt, name, partition))
        })
    }

    /// The names of the outputs in the workflow file; empty where the function runs alone or in a test.
    fn output_names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.with(py, |context| Ok(context.setup().outputs.iter().map(|output| output.name.clone()).collect()))
    }

    /// From now on, a byte that can be read from this pipe says that a signal has come, for this thread. Called on the
    /// interpreter's main thread.
    fn _watch_signals(&self, py: Python<'_>, pipe: i32) -> PyResult<()> {
        self.attempt.check(py)?;
        // SAFETY: the caller gives the descriptor away.
        let pipe = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(pipe) };
        self.attempt.set_main(true);
        let attempt = Arc::clone(&self.attempt);
        let hear = move || {
            let mut bytes = [0; 64];
            // It ends with the other end of the pipe.
            while matches!(rustix::io::retry_on_intr(|| rustix::io::read(&pipe, &mut bytes)), Ok(1..)) {
                attempt.signalled();
            }
        };
        let thread = std::thread::Builder::new().name("dflow-signals".into()).stack_size(64 * 1024).spawn(hear)?;
        *try_lock(py, &self.signals, "context")? = Some(thread);
        Ok(())
    }

    /// Waits for the thread of `_watch_signals`, once the other end of its pipe is closed.
    fn _unwatch_signals(&self, py: Python<'_>) -> PyResult<()> {
        self.attempt.set_main(false);
        let thread = try_lock(py, &self.signals, "context")?.take();
        if let Some(thread) = thread {
            // A panic there has been printed already.
            let _ = py.detach(|| thread.join());
        }
        Ok(())
    }

    /// The attempt of this context, for a poller.
    fn _poller(&self, py: Python<'_>) -> PyResult<crate::poller::Poller> {
        self.attempt.check(py)?;
        crate::poller::Poller::new(&self.attempt)
    }
}
