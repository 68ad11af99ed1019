//! Errors as the exceptions of `dflow/_errors.py`.

use dflow_function::Error;
use dflow_ports::{ReadError, SessionError, WriteError};
use pyo3::prelude::*;

/// An exception of the package with this text.
pub(crate) fn new(py: Python<'_>, class: &str, text: &str) -> PyErr {
    let make = || py.import("dflow._errors")?.getattr(class)?.call1((text,));
    match make() {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// Something of an attempt that has ended, was released or was finished.
pub(crate) fn ended(py: Python<'_>, text: &str) -> PyErr {
    new(py, "Ended", text)
}

/// Another thread, or another task, is using the object.
pub(crate) fn busy(py: Python<'_>, what: &str) -> PyErr {
    new(py, "Busy", &format!("another thread or task is using the {what}: one at a time may"))
}

/// Turns an error into an exception.
pub(crate) trait Raise<T> {
    fn raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raise<T> for Result<T, ReadError> {
    fn raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| new(py, "InputError", &error.to_string()))
    }
}

impl<T> Raise<T> for Result<T, WriteError> {
    fn raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| new(py, if error.is_unread() { "Unread" } else { "OutputError" }, &error.to_string()))
    }
}

impl<T> Raise<T> for Result<T, SessionError> {
    fn raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| new(py, "Error", &error.to_string()))
    }
}

impl<T> Raise<T> for Result<T, Error> {
    fn raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| new(py, if error.is_unread() { "Unread" } else { "Error" }, &error.to_string()))
    }
}
