//! The attempt of a function: its name, its part, its parameters, and how it fails.

use crate::handle::{self, kind};
use crate::status::dflow_status::{self, *};
use crate::status::{Failure, guard};
use crate::text::{self, out, to_c};
use dflow_function::{Context, Session};
use dflow_ports::Interrupter;
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;
use std::sync::{Arc, MutexGuard, PoisonError};

/// An attempt of a function.
pub(crate) struct ContextState {
    /// Its number in this process: what its handles belong to.
    pub(crate) attempt: u64,
    /// Until the function has returned.
    pub(crate) context: Option<Context>,
    /// The reason of `dflow_fail`.
    pub(crate) failure: Option<String>,
    interrupter: Interrupter,
    /// Parameters and other texts that the function has pointers to.
    texts: HashMap<String, CString>,
}

/// An attempt of a function. Any number of threads may use it at the same time.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
pub struct dflow_context {
    _opaque: [u8; 0],
}
kind!(dflow_context, "context", 1, ContextState);

impl ContextState {
    pub(crate) fn new(attempt: u64, context: Context) -> Self {
        let interrupter = context.session().interrupter();
        Self { attempt, context: Some(context), failure: None, interrupter, texts: HashMap::new() }
    }

    pub(crate) fn context(&mut self) -> Result<&mut Context, Failure> {
        let ended = || Failure::new(DFLOW_ERROR_HANDLE, "the function of this context has ended");
        self.context.as_mut().ok_or_else(ended)
    }

    /// A pointer to the text that stays valid until the attempt ends.
    fn keep(&mut self, key: &str, text: &[u8]) -> (*const c_char, usize) {
        let kept = self.texts.entry(key.to_owned()).or_insert_with(|| to_c(text));
        (kept.as_ptr(), kept.as_bytes().len())
    }
}

/// Runs `work` on a context. Its calls are short, so other threads wait for each other.
pub(crate) fn with_context<R>(
    handle: *const dflow_context,
    work: impl FnOnce(&mut ContextState) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let (_, state) = handle::find::<ContextState>(handle)?;
    let mut state: MutexGuard<'_, ContextState> = state.lock().unwrap_or_else(PoisonError::into_inner);
    work(&mut state)
}

/// The session of a context.
pub(crate) fn session_of(handle: *const dflow_context) -> Result<Arc<Session>, Failure> {
    with_context(handle, |state| Ok(Arc::clone(state.context()?.session())))
}

/// The name of this instance, such as `count[3]`. It stays valid until the function returns.
///
/// # Safety
/// `name` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_instance(context: *mut dflow_context, name: *mut *const c_char) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let name = unsafe { out(name, "name")? };
        let text = with_context(context, |state| {
            let text = state.context()?.instance().to_owned();
            Ok(state.keep("instance", text.as_bytes()).0)
        })?;
        name.put(text);
        Ok(DFLOW_OK)
    })
}

/// In a `foreach`, the number of the part that this instance works on. DFLOW_UNSET if there is none.
///
/// # Safety
/// `part` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_part(context: *mut dflow_context, part: *mut u32) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let part = unsafe { out(part, "part")? };
        let Some(number) = with_context(context, |state| Ok(state.context()?.part()))? else { return Ok(DFLOW_UNSET) };
        part.put(number);
        Ok(DFLOW_OK)
    })
}

/// In a `foreach` over files, the path of this instance's file as the command line names it: for a label, because on
/// another node there may be no such file. It stays valid until the function returns. DFLOW_UNSET if there is none.
///
/// # Safety
/// `path` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_part_file(context: *mut dflow_context, path: *mut *const c_char) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let path = unsafe { out(path, "path")? };
        let text = with_context(context, |state| {
            let found = state.context()?.part_file().map(|file| file.as_os_str().as_bytes().to_vec());
            Ok(found.map(|text| state.keep("part file", &text).0))
        })?;
        let Some(text) = text else { return Ok(DFLOW_UNSET) };
        path.put(text);
        Ok(DFLOW_OK)
    })
}

/// The number of this attempt of the instance, from 1 on.
///
/// # Safety
/// `attempt` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_attempt(context: *mut dflow_context, attempt: *mut u32) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let attempt = unsafe { out(attempt, "attempt")? };
        attempt.put(with_context(context, |state| Ok(state.context()?.attempt()))?);
        Ok(DFLOW_OK)
    })
}

/// The text of a parameter, with a NUL behind it, and its length without that. It stays valid until the function returns.
/// DFLOW_UNSET if the workflow file does not set it, and DFLOW_ERROR_NAME if it sets one whose name is nearly the same.
///
/// # Safety
/// `name` ends with a NUL; `text` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_param(
    context: *mut dflow_context,
    name: *const c_char,
    text: *mut *const c_char,
    length: *mut usize,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that the name ends with a NUL and that the others may be written.
        let (name, text, length) = unsafe { (text::name(name, "name")?, out(text, "text")?, out(length, "length")?) };
        let found = with_context(context, |state| {
            let found = param_text(state, name)?;
            Ok(found.map(|found| state.keep(&format!("param {name}"), found.as_bytes())))
        })?;
        let Some(found) = found else { return Ok(DFLOW_UNSET) };
        text.put(found.0);
        length.put(found.1);
        Ok(DFLOW_OK)
    })
}

/// The value of a parameter that is a whole number. DFLOW_UNSET if the workflow file does not set it; then `value` is left
/// as it is, so that it may hold a default.
///
/// # Safety
/// `name` ends with a NUL; `value` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_param_int(
    context: *mut dflow_context,
    name: *const c_char,
    value: *mut i64,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { parsed_param(context, name, value, "a whole number") })
}

/// The value of a parameter that is a number. DFLOW_UNSET if the workflow file does not set it; then `value` is left as it
/// is, so that it may hold a default.
///
/// # Safety
/// `name` ends with a NUL; `value` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_param_double(
    context: *mut dflow_context,
    name: *const c_char,
    value: *mut f64,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { parsed_param(context, name, value, "a number") })
}

fn param_text(state: &mut ContextState, name: &str) -> Result<Option<String>, Failure> {
    let found = state.context()?.param_text(name).map_err(|error| Failure::of(error, DFLOW_ERROR_NAME))?;
    Ok(found.map(str::to_owned))
}

/// # Safety
/// As [`dflow_param_int`].
unsafe fn parsed_param<T: FromStr>(
    context: *mut dflow_context,
    name: *const c_char,
    value: *mut T,
    what: &str,
) -> Result<dflow_status, Failure>
where
    T::Err: std::fmt::Display,
{
    // SAFETY: the caller promises that the name ends with a NUL and that the value may be written.
    let (name, value) = unsafe { (text::name(name, "name")?, out(value, "value")?) };
    let Some(text) = with_context(context, |state| param_text(state, name))? else { return Ok(DFLOW_UNSET) };
    let parsed = text.trim().parse().map_err(|error| {
        let message = format!("the parameter '{name}' has the value '{text}', which is not {what}: {error}");
        Failure::new(DFLOW_ERROR_VALUE, message)
    })?;
    value.put(parsed);
    Ok(DFLOW_OK)
}

/// Says why the function fails. It returns DFLOW_ERROR_FAILED, for `return dflow_fail(context, "…")`: the attempt fails with
/// this message once the function returns anything but DFLOW_OK. Of several messages the first counts.
///
/// # Safety
/// `message` ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_fail(context: *mut dflow_context, message: *const c_char) -> dflow_status {
    guard(|| {
        if message.is_null() {
            return Err(Failure::null("message"));
        }
        // SAFETY: it is not NULL, and the caller promises that it ends with a NUL.
        let message = unsafe { std::ffi::CStr::from_ptr(message) }.to_string_lossy().into_owned();
        with_context(context, |state| {
            state.failure.get_or_insert_with(|| message.clone());
            Ok(())
        })?;
        Err(Failure::new(DFLOW_ERROR_FAILED, message))
    })
}

/// Ends all present waits of this attempt with DFLOW_INTERRUPTED, and all later ones at once, until
/// `dflow_interrupt_clear`. For any thread; not for a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_interrupt(context: *mut dflow_context) -> dflow_status {
    guard(|| {
        with_context(context, |state| Ok(state.interrupter.clone()))?.interrupt();
        Ok(DFLOW_OK)
    })
}

/// Lets this attempt wait again after `dflow_interrupt`.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_interrupt_clear(context: *mut dflow_context) -> dflow_status {
    guard(|| {
        with_context(context, |state| Ok(state.interrupter.clone()))?.clear();
        Ok(DFLOW_OK)
    })
}
