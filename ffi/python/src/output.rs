//! Writing one stream.

use crate::attempt::{Attempt, Closes, Flush, lock, try_lock};
use crate::errors::{self, Raise};
use crate::fork::Own;
use dflow_function::Error;
use dflow_ports::{OutPort, Parts, Space, Suspended};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyString};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The most bytes of a record (`dflow_protocol::limits::MAX_RECORD`).
const MAX_RECORD: usize = 64 << 20;

/// An output, as its objects and its attempt share it.
pub(crate) struct OutputCell {
    state: Mutex<State>,
    /// A poller waits for it.
    pub(crate) armed: AtomicBool,
}

struct State {
    /// Until it is finished.
    output: Option<Own<dflow_function::Output>>,
    /// Room that is to be filled.
    reserved: Option<Reserved>,
    /// The number of the last reservation: what a [`Room`] refers to.
    number: u64,
    /// Why nothing more can be written.
    ended: bool,
}

struct Reserved {
    suspended: Suspended,
    pointer: *mut u8,
    length: usize,
    /// How many buffers of it there are.
    exports: usize,
}

// SAFETY: the pointer is into memory of the port, which the state owns, and is only handed to CPython.
unsafe impl Send for Reserved {}

impl State {
    fn port(&mut self, py: Python<'_>) -> PyResult<&mut OutPort> {
        match &mut self.output {
            Some(output) if !self.ended => Ok((**output).as_mut()),
            _ => Err(errors::ended(py, "the output is finished")),
        }
    }

    /// The port, for a call that ends a reservation.
    fn begin(&mut self, py: Python<'_>) -> PyResult<&mut OutPort> {
        if let Some(reserved) = &self.reserved
            && reserved.exports > 0
        {
            let text = format!("the output has a reserved room of which {} buffers exist", reserved.exports);
            return Err(PyBufferError::new_err(text));
        }
        self.reserved = None;
        self.port(py)
    }
}

impl Closes for OutputCell {
    fn close(&self) -> Option<Flush> {
        let mut state = lock(&self.state);
        state.ended = true;
        // Its memory stays while somebody may write into it. What was committed before has been flushed then.
        if state.reserved.as_ref().is_some_and(|reserved| reserved.exports > 0) {
            return None;
        }
        state.reserved = None;
        let mut output = state.output.take()?;
        Some(Box::new(move || flush_all((*output).as_mut())))
    }
}

/// Moves committed bytes into the stream. What nobody reads need not arrive.
fn flush_all(port: &mut OutPort) -> Result<(), Error> {
    loop {
        match port.try_flush() {
            Ok(true) => return Ok(()),
            Ok(false) => {
                let session = Arc::clone(port.session());
                session.wait(port, None);
            }
            Err(error) if error.is_unread() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// One output stream. `dflow/_streams.py` wraps it for users.
#[pyclass(frozen, module = "dflow")]
pub(crate) struct Output {
    attempt: Arc<Attempt>,
    pub(crate) cell: Arc<OutputCell>,
    name: String,
}

impl Output {
    pub(crate) fn new(attempt: &Arc<Attempt>, output: dflow_function::Output) -> Self {
        let name = output.name().to_owned();
        let state = State { output: Some(Own::new(output)), reserved: None, number: 0, ended: false };
        let cell = Arc::new(OutputCell { state: Mutex::new(state), armed: AtomicBool::new(false) });
        attempt.enlist(&cell);
        Self { attempt: Arc::clone(attempt), cell, name }
    }

    fn lock(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, State>> {
        lock_cell(py, &self.attempt, &self.cell, &self.name)
    }

    /// Reserves room; `None` if there is none and it does not wait.
    fn reserve_in(&self, py: Python<'_>, state: &mut State, length: usize, wait: bool) -> PyResult<Option<u64>> {
        let port = state.begin(py)?;
        loop {
            match port.poll_room(length as u64).raise(py)? {
                Space::WouldBlock if wait => self.attempt.wait(py, port)?,
                Space::WouldBlock => return Ok(None),
                space => {
                    let mut room = port.reservation(length, space);
                    let (pointer, length) = (room.as_mut_ptr(), room.len());
                    let suspended = room.suspend();
                    state.reserved = Some(Reserved { suspended, pointer, length, exports: 0 });
                    state.number += 1;
                    return Ok(Some(state.number));
                }
            }
        }
    }

    fn write_bytes(&self, py: Python<'_>, bytes: &[u8], wait: bool) -> PyResult<usize> {
        let mut guard = self.lock(py)?;
        let port = guard.begin(py)?;
        let mut written = 0;
        while written < bytes.len() {
            match port.try_write(&bytes[written..]).raise(py)? {
                0 if wait => self.attempt.wait(py, port)?,
                0 => break,
                length => written += length,
            }
        }
        Ok(written)
    }
}

fn lock_cell<'a>(
    py: Python<'_>,
    attempt: &Attempt,
    cell: &'a OutputCell,
    name: &str,
) -> PyResult<MutexGuard<'a, State>> {
    attempt.check(py)?;
    let what = format!("output '{name}'");
    if cell.armed.load(Ordering::Relaxed) {
        return Err(errors::busy(py, &what));
    }
    try_lock(py, &cell.state, &what)
}

/// Moves committed bytes into the stream that its window was too short for.
fn flush(py: Python<'_>, attempt: &Attempt, port: &mut OutPort) -> PyResult<()> {
    while !port.try_flush().raise(py)? {
        attempt.wait(py, port)?;
    }
    Ok(())
}

/// The bytes of an object with the buffer protocol.
fn with_bytes<R>(data: &Bound<'_, PyAny>, work: impl FnOnce(&[u8]) -> PyResult<R>) -> PyResult<R> {
    if data.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("a stream is bytes, not text: encode it, as in text.encode()"));
    }
    let buffer = PyUntypedBuffer::get(data)?;
    if !buffer.is_c_contiguous() {
        // Bytes with gaps are collected first.
        let bytes = PyMemoryView::from(data)?.call_method0("tobytes")?;
        let result = work(bytes.extract()?);
        buffer.release(data.py());
        return result;
    }
    let result = if buffer.len_bytes() == 0 {
        work(&[])
    } else {
        // SAFETY: the buffer has so many bytes in one piece, and holds them until it is released below. Python code that
        // changes them meanwhile, in another thread, changes what is written, as with every write in Python.
        work(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) })
    };
    buffer.release(data.py());
    result
}

impl OutputCell {
    /// Runs `work` on the port, for a poller.
    pub(crate) fn with_port<R>(&self, work: impl FnOnce(&mut OutPort) -> R) -> Option<R> {
        let mut state = lock(&self.state);
        if state.ended {
            return None;
        }
        state.output.as_mut().map(|output| work((**output).as_mut()))
    }
}

#[pymethods]
impl Output {
    /// The name in the workflow file.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes have been committed.
    #[getter]
    fn written(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.lock(py)?.port(py)?.written())
    }

    /// Writes all bytes of an object with the buffer protocol, and returns their number; without `wait`, those for which
    /// there is room, from the byte `start` on.
    #[pyo3(signature = (data, wait = true, start = 0))]
    fn write(&self, py: Python<'_>, data: Bound<'_, PyAny>, wait: bool, start: usize) -> PyResult<usize> {
        with_bytes(&data, |bytes| self.write_bytes(py, bytes.get(start..).unwrap_or_default(), wait))
    }

    /// Writes one length-delimited record.
    fn record(&self, py: Python<'_>, data: Bound<'_, PyAny>) -> PyResult<()> {
        with_bytes(&data, |bytes| {
            if bytes.len() > MAX_RECORD {
                let text = format!("{} bytes are more than the {MAX_RECORD} that a record may have", bytes.len());
                return Err(PyValueError::new_err(text));
            }
            let head = (bytes.len() as u32).to_le_bytes();
            let whole = head.len() + bytes.len();
            let mut guard = self.lock(py)?;
            self.reserve_in(py, &mut guard, whole, true)?;
            let Some(reserved) = guard.reserved.take() else { return Ok(()) };
            let port = guard.port(py)?;
            let mut room = port.resume(reserved.suspended);
            room[..head.len()].copy_from_slice(&head);
            room[head.len()..whole].copy_from_slice(bytes);
            room.commit(whole).raise(py)?;
            flush(py, &self.attempt, port)
        })
    }

    /// Room for at least `length` bytes in the stream itself; `None` if there is none and it does not wait.
    #[pyo3(signature = (length, wait = true))]
    fn reserve(&self, py: Python<'_>, length: usize, wait: bool) -> PyResult<Option<Room>> {
        if length == 0 {
            return Err(PyValueError::new_err("a reservation has at least one byte"));
        }
        let mut guard = self.lock(py)?;
        let Some(number) = self.reserve_in(py, &mut guard, length, wait)? else { return Ok(None) };
        let length = guard.reserved.as_ref().map_or(0, |reserved| reserved.length);
        let (attempt, cell) = (Arc::clone(&self.attempt), Arc::clone(&self.cell));
        Ok(Some(Room { attempt, cell, name: self.name.clone(), number, length }))
    }

    /// Finishes the stream, so that its readers reach its end while the function continues.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        let mut guard = self.lock(py)?;
        flush(py, &self.attempt, guard.begin(py)?)?;
        guard.ended = true;
        match guard.output.take() {
            Some(output) => output.into_inner().finish().raise(py),
            None => Ok(()),
        }
    }
}

/// Room in an output, to be filled through a writable buffer (`memoryview(room)`, `numpy.frombuffer(room)`) and committed.
#[pyclass(frozen, module = "dflow")]
pub(crate) struct Room {
    attempt: Arc<Attempt>,
    cell: Arc<OutputCell>,
    name: String,
    /// Which reservation of the output it is.
    number: u64,
    length: usize,
}

impl Room {
    fn given_back(py: Python<'_>) -> PyErr {
        errors::ended(py, "the room has been committed or given back")
    }
}

#[pymethods]
impl Room {
    /// # Safety
    /// CPython gives a view that may be written.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let refuse = |error| {
            // SAFETY: `view` may be written, and CPython wants this to be NULL after an error.
            unsafe { (*view).obj = std::ptr::null_mut() };
            Err(error)
        };
        let mut state = match lock_cell(py, &this.attempt, &this.cell, &this.name) {
            Ok(state) => state,
            Err(error) => return refuse(error),
        };
        let current = state.number == this.number;
        let Some(reserved) = state.reserved.as_mut().filter(|_| current) else { return refuse(Self::given_back(py)) };
        // SAFETY: the memory stays until the last buffer is released, because `exports` counts this one and the state keeps
        // the port; nothing else uses it before it is committed. The object is alive.
        let result = unsafe {
            let pointer = reserved.pointer.cast();
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), pointer, reserved.length as ffi::Py_ssize_t, 0, flags)
        };
        if result != 0 {
            return Err(PyErr::fetch(py));
        }
        reserved.exports += 1;
        Ok(())
    }

    /// # Safety
    /// CPython gives a view that `__getbuffer__` has filled.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        let mut state = lock(&self.cell.state);
        if let Some(reserved) = &mut state.reserved {
            reserved.exports -= 1;
            if reserved.exports == 0 && state.ended {
                state.reserved = None;
                state.output = None;
            }
        }
    }

    /// Makes the first `length` bytes readable; all of the room if it is not given. It fails while there is a buffer of the
    /// room.
    #[pyo3(signature = (length = None))]
    fn commit(&self, py: Python<'_>, length: Option<usize>) -> PyResult<()> {
        let mut guard = lock_cell(py, &self.attempt, &self.cell, &self.name)?;
        let current = guard.number == self.number;
        let Some(reserved) = guard.reserved.as_ref().filter(|_| current) else { return Err(Self::given_back(py)) };
        if reserved.exports > 0 {
            let text = format!(
                "the room cannot be committed while {} buffers of it exist: release memoryviews, and delete arrays",
                reserved.exports
            );
            return Err(PyBufferError::new_err(text));
        }
        let length = length.unwrap_or(reserved.length);
        if length > reserved.length {
            let text = format!("{length} bytes are more than the {} that were reserved", reserved.length);
            return Err(PyValueError::new_err(text));
        }
        if let Some(reserved) = guard.reserved.take() {
            guard.port(py)?.resume(reserved.suspended).commit(length).raise(py)?;
        }
        flush(py, &self.attempt, guard.port(py)?)
    }

    fn __len__(&self) -> usize {
        self.length
    }

    fn __repr__(&self) -> String {
        format!("<dflow.Room of {} bytes in '{}'>", self.length, self.name)
    }
}

/// A partition, as its object and its attempt share it.
struct PartitionCell(Mutex<Option<Own<dflow_function::Partition>>>);

impl Closes for PartitionCell {
    fn close(&self) -> Option<Flush> {
        drop(lock(&self.0).take());
        None
    }
}

/// An output whose parts are opened while the function runs.
#[pyclass(frozen, module = "dflow")]
pub(crate) struct Partition {
    attempt: Arc<Attempt>,
    cell: Arc<PartitionCell>,
    name: String,
}

impl Partition {
    pub(crate) fn new(attempt: &Arc<Attempt>, name: &str, partition: dflow_function::Partition) -> Self {
        let cell = Arc::new(PartitionCell(Mutex::new(Some(Own::new(partition)))));
        attempt.enlist(&cell);
        Self { attempt: Arc::clone(attempt), cell, name: name.to_owned() }
    }
}

#[pymethods]
impl Partition {
    /// The name in the workflow file.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Opens one more part.
    fn open(&self, py: Python<'_>) -> PyResult<Output> {
        self.attempt.check(py)?;
        let mut guard = try_lock(py, &self.cell.0, &format!("output '{}'", self.name))?;
        loop {
            let Some(partition) = guard.as_mut() else { return Err(errors::ended(py, "the function has ended")) };
            if let Some(output) = partition.try_open().raise(py)? {
                return Ok(Output::new(&self.attempt, output));
            }
            let parts: &mut Parts = (**partition).as_mut();
            self.attempt.wait(py, parts)?;
        }
    }
}
