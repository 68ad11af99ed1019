//! Reading a list of streams.

use crate::attempt::{Attempt, Closes, Flush, lock, try_lock};
use crate::errors::{self, Raise};
use crate::fork::Own;
use crate::input::{Input, would_block};
use crate::view::View;
use dflow_function::Next;
use dflow_ports::{FanIn, InPort};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A list of streams, as its object and its attempt share it.
pub(crate) struct InputsCell {
    state: Mutex<Option<Own<dflow_function::Inputs>>>,
    pub(crate) armed: AtomicBool,
}

impl Closes for InputsCell {
    fn close(&self) -> Option<Flush> {
        drop(lock(&self.state).take());
        None
    }
}

impl InputsCell {
    /// Runs `work` on the streams, for a poller.
    pub(crate) fn with_streams<R>(&self, work: impl FnOnce(&mut FanIn<dflow_function::Input>) -> R) -> Option<R> {
        lock(&self.state).as_mut().map(|inputs| work(inputs.as_mut()))
    }
}

/// A list of streams (a fan-in). `dflow/_streams.py` wraps it for users.
#[pyclass(frozen, module = "dflow")]
pub(crate) struct Inputs {
    attempt: Arc<Attempt>,
    pub(crate) cell: Arc<InputsCell>,
    name: String,
}

type State = Option<Own<dflow_function::Inputs>>;

impl Inputs {
    pub(crate) fn new(attempt: &Arc<Attempt>, name: &str, inputs: dflow_function::Inputs) -> Self {
        let cell = Arc::new(InputsCell { state: Mutex::new(Some(Own::new(inputs))), armed: AtomicBool::new(false) });
        attempt.enlist(&cell);
        Self { attempt: Arc::clone(attempt), cell, name: name.to_owned() }
    }

    fn lock(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, State>> {
        self.attempt.check(py)?;
        let what = format!("input '{}'", self.name);
        if self.cell.armed.load(Ordering::Relaxed) {
            return Err(errors::busy(py, &what));
        }
        try_lock(py, &self.cell.state, &what)
    }

    fn streams<'a>(&self, py: Python<'_>, state: &'a mut State) -> PyResult<&'a mut FanIn<dflow_function::Input>> {
        match state {
            Some(inputs) => Ok((**inputs).as_mut()),
            None => Err(errors::ended(py, &format!("the input '{}' is closed", self.name))),
        }
    }
}

#[pymethods]
impl Inputs {
    /// The name in the workflow file.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// The next stream in order; `None` after the last, `False` if none is there and it does not wait.
    fn next<'py>(&self, py: Python<'py>, wait: bool) -> PyResult<Bound<'py, PyAny>> {
        let mut guard = self.lock(py)?;
        loop {
            let streams = self.streams(py, &mut guard)?;
            match streams.try_next().raise(py)? {
                Next::Ready(input) => return Ok(Bound::new(py, Input::new(&self.attempt, input))?.into_any()),
                Next::End => return Ok(py.None().into_bound(py)),
                Next::WouldBlock if wait => self.attempt.wait_with(py, || streams.wait_for_streams(None))?,
                Next::WouldBlock => return Ok(would_block(py)),
            }
        }
    }

    /// Bytes of whichever stream has some, with its number: (number, View). `None` when all have ended.
    fn ready<'py>(&self, py: Python<'py>, wait: bool) -> PyResult<Bound<'py, PyAny>> {
        let mut guard = self.lock(py)?;
        loop {
            let streams = self.streams(py, &mut guard)?;
            match streams.poll().raise(py)? {
                Next::Ready(place) => {
                    let (number, input) = streams.stream(place);
                    let port: &mut InPort = input.as_mut();
                    let limit = usize::try_from(port.view_limit()).unwrap_or(usize::MAX);
                    if let Next::Ready(view) = port.try_next_view(limit).raise(py)? {
                        let view = Bound::new(py, View::new(&self.attempt, view))?;
                        return Ok((number, view).into_pyobject(py)?.into_any());
                    }
                }
                Next::End => return Ok(py.None().into_bound(py)),
                Next::WouldBlock if wait => self.attempt.wait_with(py, || streams.wait_for_bytes(None))?,
                Next::WouldBlock => return Ok(would_block(py)),
            }
        }
    }

    /// How many streams there are; waits until that is known.
    fn count(&self, py: Python<'_>) -> PyResult<u32> {
        let mut guard = self.lock(py)?;
        loop {
            let streams = self.streams(py, &mut guard)?;
            if let Some(count) = streams.count().raise(py)? {
                return Ok(count);
            }
            self.attempt.wait_with(py, || streams.wait_for_streams(None))?;
        }
    }

    /// Says that none of the streams that were not taken will be read.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let inputs = self.lock(py)?.take();
        drop(inputs);
        Ok(())
    }
}
