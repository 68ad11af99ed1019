//! Running a Python function: under dflow, alone, or in a test.

use crate::attempt::{Attempt, lock};
use crate::context::{Context, Lent};
use crate::errors;
use crate::fork::Own;
use dflow_function::Error;
use dflow_function::testing::Test;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Why a Python function has failed, and whether that is that nobody reads its output.
type Failure = Option<(String, bool)>;

/// Serves `handler`, which gets a context and returns `None` or why it has failed: (text, unread). Returns the exit status.
/// The first of `arguments` is the program's name.
#[pyfunction]
#[pyo3(name = "_serve")]
pub(crate) fn serve(py: Python<'_>, handler: Py<PyAny>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| dflow_function::serve_arguments(arguments, |context| run(context, &handler)))
}

/// A test's outputs: each with its part, if it is one of several.
type Streams = Vec<(String, Option<u32>, Py<PyBytes>)>;

/// Runs `handler` on bytes, and returns the streams that it has written.
#[pyfunction]
#[pyo3(name = "_test")]
#[pyo3(signature = (handler, inputs, params, parts, part, part_file, attempt, pieces, limit))]
#[expect(clippy::too_many_arguments, reason = "called by one function of the package, by keywords")]
pub(crate) fn test(
    py: Python<'_>,
    handler: Py<PyAny>,
    inputs: Vec<(String, bool, Vec<Vec<u8>>)>,
    params: Vec<(String, String)>,
    parts: Vec<(String, u32)>,
    part: Option<u32>,
    part_file: Option<PathBuf>,
    attempt: u32,
    pieces: Option<u64>,
    limit: Option<usize>,
) -> PyResult<Streams> {
    let written = py.detach(|| {
        let mut test = Test::new(|context: &mut dflow_function::Context| run(context, &handler)).attempt(attempt);
        for (name, many, streams) in &inputs {
            test = match (many, &streams[..]) {
                (false, [stream]) => test.input(name, stream),
                _ => test.inputs(name, streams),
            };
        }
        for (name, value) in &params {
            test = test.param(name, value);
        }
        for (name, count) in &parts {
            test = test.parts(name, *count);
        }
        if let Some(part) = part {
            test = test.part(part);
        }
        if let Some(file) = part_file {
            test = test.part_file(file);
        }
        if let Some(bytes) = pieces.filter(|bytes| *bytes > 0) {
            test = test.pieces(bytes);
        }
        if let Some(limit) = limit {
            test = test.limit(limit);
        }
        test.run()
    });
    match written {
        Ok(written) => {
            let streams = written.into_streams().into_iter();
            Ok(streams.map(|((name, part), bytes)| (name, part, PyBytes::new(py, &bytes).unbind())).collect())
        }
        Err(error) => Err(errors::new(py, "Error", &error.to_string())),
    }
}

/// Runs one attempt of the function.
fn run(context: &mut dflow_function::Context, handler: &Py<PyAny>) -> Result<(), Error> {
    let attempt = Attempt::new(Arc::clone(context.session()));
    let lent: Lent = Arc::new(Mutex::new(Some(Own::new(context.lend()))));
    let result = Python::attach(|py| -> PyResult<Failure> {
        let object = Context::new(Arc::clone(&attempt), Arc::clone(&lent));
        handler.call1(py, (Py::new(py, object)?,))?.extract(py)
    });
    let result = match result {
        Ok(None) => Ok(()),
        Ok(Some((text, true))) => Err(Error::unread(text)),
        Ok(Some((text, false))) => Err(Error::new(text)),
        Err(error) => Err(Error::new(error.to_string())),
    };
    let flushed = attempt.end(result.is_ok());
    if let Some(lent) = lock(&lent).take() {
        *context = lent.into_inner();
    }
    result.and(flushed)
}
