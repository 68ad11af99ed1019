//! The core of the Python package: the Rust SDK as Python objects. `dflow/*.py` is what users see.
//!
//! | module | holds |
//! | --- | --- |
//! | [`attempt`] | what all objects of an attempt share, and how they wait: without the lock of the interpreter, and so that Ctrl-C works |
//! | [`context`], [`input`], [`output`] | names, parameters and ports |
//! | [`view`] | bytes of a stream as objects with the buffer protocol |
//! | [`poller`] | a descriptor for asyncio |
//! | [`serving`] | running a function under dflow, alone, or in a test |
//!
//! # What keeps memory alive
//! A [`view::View`] exports its bytes. CPython keeps the exporter alive while somebody has a buffer of it, so the bytes stay
//! until the last memoryview, array or slice of one is gone, whatever happens to the input and the attempt. A
//! [`output::Room`] exports memory that is still to be written; it is not committed while there is a buffer of it.
//!
//! # Locks
//! No lock of Rust is waited for with the interpreter's lock held: a second thread that uses an object gets an error.

mod attempt;
mod context;
mod errors;
mod fan_in;
mod fork;
mod input;
mod output;
mod poller;
mod serving;
mod view;

use pyo3::prelude::*;

/// The core of the package `dflow`.
#[pymodule]
fn _dflow(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<context::Context>()?;
    module.add_class::<input::Input>()?;
    module.add_class::<fan_in::Inputs>()?;
    module.add_class::<output::Output>()?;
    module.add_class::<output::Room>()?;
    module.add_class::<output::Partition>()?;
    module.add_class::<poller::Poller>()?;
    module.add_class::<view::View>()?;
    module.add_function(wrap_pyfunction!(serving::serve, module)?)?;
    module.add_function(wrap_pyfunction!(serving::test, module)?)?;
    module.add_function(wrap_pyfunction!(fork::note_fork, module)?)?;
    module.add_function(wrap_pyfunction!(fork::is_forked, module)?)
}
