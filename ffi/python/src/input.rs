//! Reading one stream.

use crate::attempt::{Attempt, Closes, Flush, lock, try_lock};
use crate::errors::{self, Raise};
use crate::fork::Own;
use crate::view::View;
use dflow_function::{Error, Next};
use dflow_ports::{Available, InPort};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// An input, as its object and its attempt share it.
pub(crate) struct InputCell {
    /// Until it is closed.
    state: Mutex<Option<Own<dflow_function::Input>>>,
    /// A poller waits for it.
    pub(crate) armed: AtomicBool,
}

impl Closes for InputCell {
    fn close(&self) -> Option<Flush> {
        drop(lock(&self.state).take());
        None
    }
}

/// One input stream. `dflow/_streams.py` wraps it for users.
#[pyclass(frozen, module = "dflow")]
pub(crate) struct Input {
    pub(crate) attempt: Arc<Attempt>,
    pub(crate) cell: Arc<InputCell>,
    name: String,
}

/// What a call that does not wait answers if there is nothing.
pub(crate) fn would_block(py: Python<'_>) -> Bound<'_, PyAny> {
    PyBool::new(py, false).to_owned().into_any()
}

impl Input {
    pub(crate) fn new(attempt: &Arc<Attempt>, input: dflow_function::Input) -> Self {
        let name = input.name().to_owned();
        let cell = Arc::new(InputCell { state: Mutex::new(Some(Own::new(input))), armed: AtomicBool::new(false) });
        attempt.enlist(&cell);
        Self { attempt: Arc::clone(attempt), cell, name }
    }

    fn lock(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Option<Own<dflow_function::Input>>>> {
        self.attempt.check(py)?;
        if self.cell.armed.load(Ordering::Relaxed) {
            return Err(errors::busy(py, &format!("input '{}'", self.name)));
        }
        try_lock(py, &self.cell.state, &format!("input '{}'", self.name))
    }

    /// Runs a step until it finds something, waiting in between if `waits`. `None`: the end; `false`: nothing at present.
    fn retry<'py, T>(
        &self,
        py: Python<'py>,
        waits: bool,
        mut step: impl FnMut(&mut dflow_function::Input) -> PyResult<Next<T>>,
        found: impl FnOnce(T) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut guard = self.lock(py)?;
        loop {
            let input = open(py, &mut guard, &self.name)?;
            match step(input)? {
                Next::Ready(value) => {
                    drop(guard);
                    return found(value);
                }
                Next::End => return Ok(py.None().into_bound(py)),
                Next::WouldBlock if waits => self.attempt.wait::<InPort>(py, input.as_mut())?,
                Next::WouldBlock => {
                    // A reader that does not wait has to tell its producer where it is, because that may wait for room.
                    let port: &mut InPort = input.as_mut();
                    port.publish();
                    return Ok(would_block(py));
                }
            }
        }
    }
}

/// The input, unless it was closed.
pub(crate) fn open<'a>(
    py: Python<'_>,
    state: &'a mut Option<Own<dflow_function::Input>>,
    name: &str,
) -> PyResult<&'a mut dflow_function::Input> {
    match state {
        Some(input) => Ok(&mut *input),
        None => Err(errors::ended(py, &format!("the input '{name}' is closed"))),
    }
}

impl InputCell {
    /// Runs `work` on the port, for a poller.
    pub(crate) fn with_port<R>(&self, work: impl FnOnce(&mut InPort) -> R) -> Option<R> {
        lock(&self.state).as_mut().map(|input| work(input.as_mut()))
    }
}

#[pymethods]
impl Input {
    /// The name in the workflow file.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// The offset in the stream of the next byte.
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<u64> {
        let mut guard = self.lock(py)?;
        Ok(open(py, &mut guard, &self.name)?.position())
    }

    /// The next bytes, at most `most`, as a View. `None` at the end, `False` if there are none and it does not wait.
    #[pyo3(signature = (most, wait))]
    fn view<'py>(&self, py: Python<'py>, most: Option<usize>, wait: bool) -> PyResult<Bound<'py, PyAny>> {
        if most == Some(0) {
            return Err(PyValueError::new_err("a view has at least one byte"));
        }
        let step = |input: &mut dflow_function::Input| {
            let port: &mut InPort = input.as_mut();
            // The limit is that of the piece in which the bytes are, which is known once it has been looked at.
            port.poll().raise(py)?;
            let limit = usize::try_from(port.view_limit()).unwrap_or(usize::MAX);
            port.try_next_view(most.unwrap_or(limit)).raise(py)
        };
        self.retry(py, wait, step, |view| Ok(Bound::new(py, View::new(&self.attempt, view))?.into_any()))
    }

    /// The next line without its newline, as bytes.
    fn line<'py>(&self, py: Python<'py>, wait: bool) -> PyResult<Bound<'py, PyAny>> {
        let step = |input: &mut dflow_function::Input| {
            let line = input.lines_bytes().into_next();
            copied(py, line)
        };
        self.retry(py, wait, step, |line| Ok(line.into_any()))
    }

    /// The next record, as bytes.
    fn record<'py>(&self, py: Python<'py>, wait: bool) -> PyResult<Bound<'py, PyAny>> {
        let step = |input: &mut dflow_function::Input| {
            let record = input.records().into_next();
            copied(py, record)
        };
        self.retry(py, wait, step, |record| Ok(record.into_any()))
    }

    /// Everything from the first byte to the last that is there now, as a View.
    fn view_so_far(&self, py: Python<'_>) -> PyResult<View> {
        let mut guard = self.lock(py)?;
        let view = open(py, &mut guard, &self.name)?.view_so_far().map_err(|error| input_error(py, error))?;
        Ok(View::new(&self.attempt, view))
    }

    /// Waits until the stream has at least `length` bytes in all or is finished, and says how many it has.
    #[pyo3(signature = (length = None))]
    fn wait_for(&self, py: Python<'_>, length: Option<u64>) -> PyResult<u64> {
        let length = length.unwrap_or(u64::MAX);
        let mut guard = self.lock(py)?;
        loop {
            let input = open(py, &mut guard, &self.name)?;
            let have = input.so_far().map_err(|error| input_error(py, error))?.len() as u64;
            if have >= length {
                return Ok(have);
            }
            let port: &mut InPort = input.as_mut();
            match port.poll().raise(py)? {
                Available::End => return Ok(have),
                Available::Bytes(_) => {}
                Available::Nothing => self.attempt.wait(py, port)?,
            }
        }
    }

    /// Says that nothing more will be read.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let input = self.lock(py)?.take();
        drop(input);
        Ok(())
    }
}

fn input_error(py: Python<'_>, error: Error) -> PyErr {
    errors::new(py, "InputError", &error.to_string())
}

/// Bytes that the input has lent, as an object.
fn copied<'py>(py: Python<'py>, found: Result<Next<&[u8]>, Error>) -> PyResult<Next<Bound<'py, PyBytes>>> {
    Ok(match found.map_err(|error| input_error(py, error))? {
        Next::Ready(bytes) => Next::Ready(PyBytes::new(py, bytes)),
        Next::End => Next::End,
        Next::WouldBlock => Next::WouldBlock,
    })
}
