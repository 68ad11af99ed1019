//! How a call ended: a code, and a text for each error.

use dflow_function::Error;
use dflow_ports::{ReadError, SessionError, WriteError};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a call ended. Errors are negative; `dflow_last_error` has the text of the last one.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum dflow_status {
    /// It is done.
    DFLOW_OK = 0,
    /// The stream, or the list of streams, has ended.
    DFLOW_END = 1,
    /// Nothing is there at present, or there is no room: wait, and try again. Only calls whose name contains `try`.
    DFLOW_WOULD_BLOCK = 2,
    /// The time limit of a wait has passed.
    DFLOW_TIMED_OUT = 3,
    /// `dflow_interrupt` has ended a wait. Nothing is lost; call again after `dflow_interrupt_clear`.
    DFLOW_INTERRUPTED = 4,
    /// The parameter, or the part, is not set.
    DFLOW_UNSET = 5,
    /// A port may be able to go on already, so nothing was armed: try again.
    DFLOW_READY = 6,
    /// An argument is `NULL` or out of its range.
    DFLOW_ERROR_ARGUMENT = -1,
    /// A handle is closed, or it is not one of this kind.
    DFLOW_ERROR_HANDLE = -2,
    /// Another thread is using the handle.
    DFLOW_ERROR_BUSY = -3,
    /// The call is not possible at this point, such as a commit without a reservation.
    DFLOW_ERROR_STATE = -4,
    /// There is no such input, output or parameter, or it has another form, or it was opened before.
    DFLOW_ERROR_NAME = -5,
    /// A parameter is not a number, or not one in the range of its type.
    DFLOW_ERROR_VALUE = -6,
    /// The input was given up by its producer, cannot be read, or does not hold lines or records.
    DFLOW_ERROR_INPUT = -7,
    /// The output cannot be written.
    DFLOW_ERROR_OUTPUT = -8,
    /// Nobody reads the output any more. A function that returns this has not failed.
    DFLOW_ERROR_UNREAD = -9,
    /// A limit is reached; the text names it.
    DFLOW_ERROR_LIMIT = -10,
    /// The connection with dflow is lost or the system refused something.
    DFLOW_ERROR_SYSTEM = -11,
    /// An error in dflow itself. Please report it.
    DFLOW_ERROR_INTERNAL = -12,
    /// The function has failed for a reason of its own: what `dflow_fail` returns.
    DFLOW_ERROR_FAILED = -13,
}

use dflow_status::*;

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: dflow_status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: dflow_status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// An argument is `NULL`.
    pub(crate) fn null(argument: &str) -> Self {
        Self::new(DFLOW_ERROR_ARGUMENT, format!("the argument '{argument}' is NULL"))
    }

    /// An error of the SDK, which does not say of which kind it is.
    pub(crate) fn of(error: Error, otherwise: dflow_status) -> Self {
        Self::new(if error.is_unread() { DFLOW_ERROR_UNREAD } else { otherwise }, error.to_string())
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::new(DFLOW_ERROR_SYSTEM, error.to_string())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let status = match error {
            ReadError::Session(_) => DFLOW_ERROR_SYSTEM,
            ReadError::NotKept { .. } => DFLOW_ERROR_STATE,
            _ => DFLOW_ERROR_INPUT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        let status = match error {
            WriteError::Session(_) => DFLOW_ERROR_SYSTEM,
            WriteError::Unread { .. } => DFLOW_ERROR_UNREAD,
            WriteError::TooLarge { .. } | WriteError::PartRefused { .. } => DFLOW_ERROR_LIMIT,
            WriteError::Overcommitted { .. } => DFLOW_ERROR_ARGUMENT,
            WriteError::NoWindow { .. } => DFLOW_ERROR_OUTPUT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(DFLOW_ERROR_SYSTEM, error.to_string())
    }
}

/// What a function of the interface works with.
pub(crate) type Outcome = Result<dflow_status, Failure>;

thread_local! {
    /// The code and the text of this thread's last error.
    static LAST: RefCell<(dflow_status, CString)> = RefCell::new((DFLOW_OK, CString::default()));
}

/// Runs the body of a function of the interface: no panic leaves it, and the text of an error is kept for
/// [`dflow_last_error`].
pub(crate) fn guard(body: impl FnOnce() -> Outcome) -> dflow_status {
    let checked = || {
        crate::fork::check()?;
        body()
    };
    let failure = match catch_unwind(AssertUnwindSafe(checked)) {
        Ok(Ok(status)) => return status,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(DFLOW_ERROR_INTERNAL, format!("an error in dflow: {}", panic_text(&*panic))),
    };
    let status = failure.status;
    keep(failure);
    status
}

/// The text of a panic.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}

/// Makes this the last error of the thread.
fn keep(failure: Failure) {
    let text = crate::text::to_c(failure.message);
    // A thread that is ending has no last error any more.
    let _ = LAST.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = (failure.status, text);
        }
    });
}

/// The text of this thread's last error, if it has this code.
pub(crate) fn last_text(status: c_int) -> Option<String> {
    LAST.with_borrow(|(code, text)| (*code as c_int == status).then(|| text.to_string_lossy().into_owned()))
}

/// The text of the last error in this thread; empty if there was none. It is never `NULL`, and stays valid until the next
/// call of a dflow function in this thread that fails. Successful calls leave it as it is.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_last_error() -> *const c_char {
    let text = LAST.try_with(|last| last.try_borrow().map_or(c"".as_ptr(), |last| last.1.as_ptr()));
    text.unwrap_or(c"".as_ptr())
}

/// The name of a code, such as `DFLOW_ERROR_UNREAD`. It is never `NULL`, and valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_status_name(status: c_int) -> *const c_char {
    let name: &CStr = match NAMES.iter().find(|(known, _)| *known as c_int == status) {
        Some((_, name)) => name,
        None => c"an unknown status",
    };
    name.as_ptr()
}

/// The release of the library, such as `0.1.0`. It is never `NULL`, and valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}

const NAMES: [(dflow_status, &CStr); 20] = [
    (DFLOW_OK, c"DFLOW_OK"),
    (DFLOW_END, c"DFLOW_END"),
    (DFLOW_WOULD_BLOCK, c"DFLOW_WOULD_BLOCK"),
    (DFLOW_TIMED_OUT, c"DFLOW_TIMED_OUT"),
    (DFLOW_INTERRUPTED, c"DFLOW_INTERRUPTED"),
    (DFLOW_UNSET, c"DFLOW_UNSET"),
    (DFLOW_READY, c"DFLOW_READY"),
    (DFLOW_ERROR_ARGUMENT, c"DFLOW_ERROR_ARGUMENT"),
    (DFLOW_ERROR_HANDLE, c"DFLOW_ERROR_HANDLE"),
    (DFLOW_ERROR_BUSY, c"DFLOW_ERROR_BUSY"),
    (DFLOW_ERROR_STATE, c"DFLOW_ERROR_STATE"),
    (DFLOW_ERROR_NAME, c"DFLOW_ERROR_NAME"),
    (DFLOW_ERROR_VALUE, c"DFLOW_ERROR_VALUE"),
    (DFLOW_ERROR_INPUT, c"DFLOW_ERROR_INPUT"),
    (DFLOW_ERROR_OUTPUT, c"DFLOW_ERROR_OUTPUT"),
    (DFLOW_ERROR_UNREAD, c"DFLOW_ERROR_UNREAD"),
    (DFLOW_ERROR_LIMIT, c"DFLOW_ERROR_LIMIT"),
    (DFLOW_ERROR_SYSTEM, c"DFLOW_ERROR_SYSTEM"),
    (DFLOW_ERROR_INTERNAL, c"DFLOW_ERROR_INTERNAL"),
    (DFLOW_ERROR_FAILED, c"DFLOW_ERROR_FAILED"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let status = guard(|| panic!("the table is {}", "gone"));
        std::panic::set_hook(hook);
        assert_eq!(status, DFLOW_ERROR_INTERNAL);
        assert_eq!(last_text(status as c_int).unwrap(), "an error in dflow: the table is gone");
    }

    #[test]
    fn the_last_error_is_that_of_the_thread() {
        assert_eq!(guard(|| Err(Failure::null("x"))), DFLOW_ERROR_ARGUMENT);
        assert_eq!(guard(|| Ok(DFLOW_OK)), DFLOW_OK);
        let other = std::thread::spawn(|| last_text(DFLOW_OK as c_int)).join().unwrap();
        assert_eq!(other.unwrap(), "");
        assert_eq!(last_text(DFLOW_ERROR_ARGUMENT as c_int).unwrap(), "the argument 'x' is NULL");
    }
}
