//! A descriptor for asyncio: readable when a port can go on.

use crate::attempt::{Attempt, Closes, Flush, lock, try_lock};
use crate::errors;
use crate::fan_in::{Inputs, InputsCell};
use crate::fork::Own;
use crate::input::{Input, InputCell};
use crate::output::{Output, OutputCell};
use dflow_ports::Armed;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A poller, as its object and its attempt share it.
struct PollerCell(Mutex<Option<Own<State>>>);

struct State {
    poller: dflow_ports::Poller,
    armed: Option<AnyPort>,
}

impl Closes for PollerCell {
    fn close(&self) -> Option<Flush> {
        let taken = lock(&self.0).take();
        if let Some(mut state) = taken {
            state.disarm();
        }
        None
    }
}

/// Waits for one port for a task of asyncio.
#[pyclass(frozen, module = "dflow")]
pub(crate) struct Poller {
    attempt: Arc<Attempt>,
    cell: Arc<PollerCell>,
}

/// What a task waits for.
enum AnyPort {
    Input(Arc<InputCell>),
    Output(Arc<OutputCell>),
    Streams(Arc<InputsCell>),
}

impl AnyPort {
    fn of(port: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(input) = port.cast::<Input>() {
            return Ok(Self::Input(Arc::clone(&input.get().cell)));
        }
        if let Ok(output) = port.cast::<Output>() {
            return Ok(Self::Output(Arc::clone(&output.get().cell)));
        }
        match port.cast::<Inputs>() {
            Ok(inputs) => Ok(Self::Streams(Arc::clone(&inputs.get().cell))),
            Err(_) => Err(PyTypeError::new_err("only inputs and outputs can be waited for")),
        }
    }

    fn flag(&self) -> &AtomicBool {
        match self {
            Self::Input(cell) => &cell.armed,
            Self::Output(cell) => &cell.armed,
            Self::Streams(cell) => &cell.armed,
        }
    }
}

impl State {
    /// Arms the descriptor; whether the port may be able to go on already. A port that was closed is: the next call says so.
    fn arm(&mut self, port: AnyPort) -> std::io::Result<Armed> {
        let poller = &mut self.poller;
        let armed = match &port {
            AnyPort::Input(cell) => cell.with_port(|port| poller.arm(&mut [port])),
            AnyPort::Output(cell) => cell.with_port(|port| poller.arm(&mut [port])),
            AnyPort::Streams(cell) => cell.with_streams(|streams| poller.arm_fan_in(streams)),
        };
        let armed = armed.unwrap_or(Ok(Armed::Ready))?;
        if armed == Armed::Waiting {
            port.flag().store(true, Ordering::Relaxed);
            self.armed = Some(port);
        }
        Ok(armed)
    }

    fn disarm(&mut self) {
        let poller = &mut self.poller;
        let Some(port) = self.armed.take() else { return };
        port.flag().store(false, Ordering::Relaxed);
        let disarmed = match &port {
            AnyPort::Input(cell) => cell.with_port(|port| poller.disarm(&mut [port])),
            AnyPort::Output(cell) => cell.with_port(|port| poller.disarm(&mut [port])),
            AnyPort::Streams(cell) => cell.with_streams(|streams| poller.disarm_fan_in(streams)),
        };
        if disarmed.is_none() {
            poller.disarm(&mut []);
        }
    }
}

impl Poller {
    pub(crate) fn new(attempt: &Arc<Attempt>) -> PyResult<Self> {
        let poller = dflow_ports::Poller::new(&attempt.session)?;
        let cell = Arc::new(PollerCell(Mutex::new(Some(Own::new(State { poller, armed: None })))));
        attempt.enlist(&cell);
        Ok(Self { attempt: Arc::clone(attempt), cell })
    }

    fn with<R>(&self, py: Python<'_>, work: impl FnOnce(&mut State) -> PyResult<R>) -> PyResult<R> {
        match try_lock(py, &self.cell.0, "poller")?.as_mut() {
            Some(state) => work(state),
            None => Err(errors::ended(py, "the poller is closed")),
        }
    }
}

#[pymethods]
impl Poller {
    /// The descriptor.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.with(py, |state| Ok(state.poller.as_fd().as_raw_fd()))
    }

    /// Arms the descriptor for this port; `False` if it may be able to go on already.
    fn arm(&self, py: Python<'_>, port: Bound<'_, PyAny>) -> PyResult<bool> {
        self.attempt.check(py)?;
        let port = AnyPort::of(&port)?;
        if port.flag().load(Ordering::Relaxed) {
            return Err(errors::busy(py, "stream"));
        }
        self.with(py, |state| Ok(state.arm(port)? == Armed::Waiting))
    }

    /// Ends the arming.
    fn disarm(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state| {
            state.disarm();
            Ok(())
        })
    }

    /// Closes the descriptor.
    fn close(&self, py: Python<'_>) {
        // Its thread is waited for.
        py.detach(|| drop(self.cell.close()));
    }
}
