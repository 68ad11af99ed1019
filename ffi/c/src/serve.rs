//! A program's main function hands its work to [`dflow_serve`].

use crate::context::{ContextState, dflow_context};
use crate::fan_in::InputsState;
use crate::fork;
use crate::handle;
use crate::input::InputState;
use crate::output::OutputState;
use crate::parts::{OutputsState, PartitionState};
use crate::poller::PollerState;
use crate::status::dflow_status::{self, *};
use crate::status::{Failure, guard, last_text};
use ::dflow_function::{Context, Error};
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The exit status of a program that was called wrongly.
const WRONG_CALL: c_int = 2;

/// The most arguments of a program; the kernel allows fewer.
const MAX_ARGUMENTS: usize = 1 << 20;

/// A function of a workflow: it opens its inputs and outputs by their names in `context`, and returns DFLOW_OK, or any other
/// number if it has failed. `data` is what was given to `dflow_serve`. The reason is the text of `dflow_fail`, or of the
/// error of dflow that it returns. It must return: an exception of C++ must not leave it, nor a `longjmp`.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
pub type dflow_function = Option<unsafe extern "C" fn(context: *mut dflow_context, data: *mut c_void) -> c_int>;

/// Serves a function: call this from `main` and return its result, the exit status. Under dflow the program works for the
/// run that has started it. Started by hand, it runs alone on the files that its arguments name; `--help` says how. `argc` may
/// be 0: then the arguments are those of the process. A program that runs alone ignores SIGPIPE.
///
/// Handles that the function leaves open are closed when it returns, except views.
///
/// # Safety
/// `argv` points to `argc` texts, as `main` gets them. `function` keeps to the interface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_serve(
    argc: c_int,
    argv: *const *mut c_char,
    function: dflow_function,
    data: *mut c_void,
) -> c_int {
    let mut exit_status = WRONG_CALL;
    let status = guard(|| {
        let function = function.ok_or_else(|| Failure::null("function"))?;
        // SAFETY: the caller promises that there are so many arguments.
        let arguments = unsafe { arguments(argc, argv)? };
        fork::watch();
        if std::env::var_os("DFLOW_SOCKET").is_none() {
            ignore_broken_pipes();
        }
        let work = |context: &mut Context| {
            // SAFETY: the caller promises that the function keeps to the interface; the context is one of its handles.
            attempt(context, |handle| unsafe { function(handle, data) })
        };
        exit_status = c_int::from(::dflow_function::serve_arguments(arguments, work));
        Ok(DFLOW_OK)
    });
    if status != DFLOW_OK {
        let text = last_text(status as c_int).unwrap_or_default();
        eprintln!("dflow_serve: {text}");
    }
    exit_status
}

/// A function that runs alone may write to a pipe whose reader has seen enough. It is to be told so, as in a workflow, and
/// not killed by SIGPIPE. Programs in Rust and Python begin like this.
fn ignore_broken_pipes() {
    // SAFETY: no handler is installed; a disposition that the program has chosen itself is put back.
    unsafe {
        let before = libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        if before != libc::SIG_DFL && before != libc::SIG_ERR {
            libc::signal(libc::SIGPIPE, before);
        }
    }
}

/// # Safety
/// As [`dflow_serve`].
unsafe fn arguments(argc: c_int, argv: *const *mut c_char) -> Result<Vec<OsString>, Failure> {
    let count = usize::try_from(argc).unwrap_or(0).min(MAX_ARGUMENTS);
    if count == 0 || argv.is_null() {
        return Ok(std::env::args_os().collect());
    }
    // SAFETY: it is not NULL, and the caller promises that there are so many.
    let texts = unsafe { std::slice::from_raw_parts(argv, count) };
    let texts = texts.iter().take_while(|text| !text.is_null());
    // SAFETY: each ends with a NUL, as the caller promises.
    Ok(texts.map(|text| OsStr::from_bytes(unsafe { CStr::from_ptr(*text) }.to_bytes()).to_owned()).collect())
}

/// Runs one attempt of the function.
fn attempt(context: &mut Context, function: impl FnOnce(*mut dflow_context) -> c_int) -> Result<(), Error> {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(1);
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    let to_error = |failure: Failure| Error::new(failure.message);
    let state = ContextState::new(attempt, context.lend());
    let handle = handle::open(attempt, state).map_err(to_error)?;
    let returned = function(handle);
    if fork::is_forked() {
        // A forked process that returns here must not speak for the function.
        // SAFETY: it ends this process, and runs nothing of what the two share.
        unsafe { libc::_exit(returned) };
    }
    let result = end(context, attempt, handle, returned);
    close_all(attempt);
    result
}

/// Takes the context back, and turns what the function has returned into its result.
fn end(context: &mut Context, attempt: u64, handle: *mut dflow_context, returned: c_int) -> Result<(), Error> {
    let state: Arc<Mutex<ContextState>> =
        handle::close::<ContextState>(handle).map_err(|failure| Error::new(failure.message))?;
    let (lent, failure) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.context.take(), state.failure.take())
    };
    if let Some(lent) = lent {
        *context = lent;
    }
    if returned == DFLOW_OK as c_int {
        context.session().interrupter().clear();
        return flush_all(attempt);
    }
    let known = failure.or_else(|| last_text(returned));
    if returned == DFLOW_ERROR_UNREAD as c_int {
        return Err(Error::unread(known.unwrap_or_else(|| "nobody reads the outputs any more".to_owned())));
    }
    Err(Error::new(known.unwrap_or_else(|| format!("the function has returned {returned} without a reason"))))
}

/// Moves what was committed to where it can be read.
fn flush_all(attempt: u64) -> Result<(), Error> {
    for output in handle::owned::<OutputState>(attempt) {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.port().is_err() {
            continue;
        }
        output.armed = false;
        match output.flush(true) {
            Ok(_) => {}
            // What nobody reads need not arrive.
            Err(failure) if failure.status == dflow_status::DFLOW_ERROR_UNREAD => {}
            Err(failure) => return Err(Error::new(failure.message)),
        }
    }
    Ok(())
}

fn close_all(attempt: u64) {
    // Pollers first: they wait for ports.
    handle::close_all::<PollerState>(attempt);
    handle::close_all::<InputState>(attempt);
    handle::close_all::<InputsState>(attempt);
    handle::close_all::<OutputState>(attempt);
    handle::close_all::<OutputsState>(attempt);
    handle::close_all::<PartitionState>(attempt);
}
