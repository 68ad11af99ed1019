//! Bytes of a stream as an object with the buffer protocol.

use crate::attempt::{Attempt, lock};
use crate::errors;
use crate::fork::Own;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use std::ffi::c_int;
use std::sync::{Arc, Mutex};

/// Bytes of a stream, in the memory that their producer wrote them to. `memoryview(view)`, `numpy.frombuffer(view)` and
/// `bytes(view)` read them. They stay for as long as this object, or a buffer of it, lives; until then, its producer counts
/// them as unread.
#[pyclass(frozen, module = "dflow")]
pub(crate) struct View {
    attempt: Arc<Attempt>,
    state: Mutex<State>,
    offset: u64,
    length: usize,
}

struct State {
    /// Until it is released.
    view: Option<Own<dflow_ports::View>>,
    /// How many buffers of it there are.
    exports: usize,
}

impl View {
    pub(crate) fn new(attempt: &Arc<Attempt>, view: dflow_ports::View) -> Self {
        let (offset, length) = (view.offset(), view.len());
        let state = Mutex::new(State { view: Some(Own::new(view)), exports: 0 });
        Self { attempt: Arc::clone(attempt), state, offset, length }
    }
}

#[pymethods]
impl View {
    /// # Safety
    /// CPython gives a view that may be written.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        let refuse = |error| {
            // SAFETY: `view` may be written, and CPython wants this to be NULL after an error.
            unsafe { (*view).obj = std::ptr::null_mut() };
            Err(error)
        };
        if let Err(error) = this.attempt.check(slf.py()) {
            return refuse(error);
        }
        let mut state = lock(&this.state);
        let Some(bytes) = &state.view else {
            return refuse(errors::ended(slf.py(), "the view has been released"));
        };
        let pointer = bytes.as_ptr().cast_mut().cast();
        // It checks the flags: a buffer for writing is refused.
        // SAFETY: the memory stays until the last buffer is released, because `exports` counts this one; the object is alive.
        let result =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), pointer, bytes.len() as ffi::Py_ssize_t, 1, flags) };
        if result != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        state.exports += 1;
        Ok(())
    }

    /// # Safety
    /// CPython gives a view that `__getbuffer__` has filled.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        lock(&self.state).exports -= 1;
    }

    /// Gives the bytes back to their producer now. It fails while there is a buffer of them.
    fn release(&self) -> PyResult<()> {
        let view = {
            let mut state = lock(&self.state);
            if state.exports > 0 {
                let text = format!("the view cannot be released while {} buffers of it exist", state.exports);
                return Err(PyBufferError::new_err(text));
            }
            state.view.take()
        };
        drop(view);
        Ok(())
    }

    /// The offset in the stream of the first byte.
    #[getter]
    fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the bytes are a private copy: those of an input's views beyond 64 MiB, and those of pieces of files.
    #[getter]
    fn is_copy(&self) -> bool {
        lock(&self.state).view.as_ref().is_some_and(|view| view.is_copy())
    }

    /// Whether the bytes were given back.
    #[getter]
    fn released(&self) -> bool {
        lock(&self.state).view.is_none()
    }

    fn __len__(&self) -> usize {
        self.length
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.attempt.check(py)?;
        match &lock(&self.state).view {
            Some(view) => Ok(PyBytes::new(py, view)),
            None => Err(errors::ended(py, "the view has been released")),
        }
    }

    /// A byte as a number, or a slice as a memoryview.
    fn __getitem__<'py>(slf: Bound<'py, Self>, key: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        PyMemoryView::from(slf.as_any())?.get_item(key)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_arguments))]
    fn __exit__(&self, _arguments: Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        self.release()
    }

    fn __repr__(&self) -> String {
        format!("<dflow.View of {} bytes at {}>", self.length, self.offset)
    }
}
