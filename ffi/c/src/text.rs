//! Pointers and texts that cross the interface.

use crate::status::{Failure, dflow_status};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

/// A text for C, which ends at the first NUL of the original.
pub(crate) fn to_c(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes = text.into();
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    CString::new(bytes).unwrap_or_default()
}

/// A name from the caller.
///
/// # Safety
/// `text` is `NULL` or ends with a NUL, and does not change meanwhile.
pub(crate) unsafe fn name<'a>(text: *const c_char, argument: &str) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::null(argument));
    }
    // SAFETY: the caller promises that it ends with a NUL.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| {
        Failure::new(dflow_status::DFLOW_ERROR_ARGUMENT, format!("the argument '{argument}' is not UTF-8 text"))
    })
}

/// Where the caller wants a result.
pub(crate) struct Out<T>(NonNull<T>);

/// A place for a result, which is checked before anything else happens.
///
/// # Safety
/// `place` is `NULL` or may be written until the function of the interface returns.
pub(crate) unsafe fn out<T>(place: *mut T, argument: &str) -> Result<Out<T>, Failure> {
    NonNull::new(place).map(Out).ok_or_else(|| Failure::null(argument))
}

impl<T> Out<T> {
    /// Writes the result.
    pub(crate) fn put(self, value: T) {
        // SAFETY: the caller of `out` has promised that it may be written; C need not align it as Rust would.
        unsafe { self.0.as_ptr().write_unaligned(value) };
    }
}

/// A pointer and a length as results: where bytes are.
pub(crate) struct OutBytes(Out<*const c_void>, Out<usize>);

/// Places for a pointer to bytes and for their number.
///
/// # Safety
/// As [`out`].
pub(crate) unsafe fn out_bytes(data: *mut *const c_void, length: *mut usize) -> Result<OutBytes, Failure> {
    // SAFETY: the caller of this function promises the same.
    unsafe { Ok(OutBytes(out(data, "data")?, out(length, "length")?)) }
}

impl OutBytes {
    /// Tells where these bytes are. They stay there for as long as the interface says.
    pub(crate) fn put(self, bytes: &[u8]) {
        // An empty slice may have a pointer that is no address of memory.
        self.0.put(if bytes.is_empty() { c"".as_ptr().cast() } else { bytes.as_ptr().cast() });
        self.1.put(bytes.len());
    }
}

/// Bytes from the caller.
///
/// # Safety
/// `data` points to `length` bytes that do not change while the result is used; it may be `NULL` if there are none.
pub(crate) unsafe fn bytes<'a>(data: *const c_void, length: usize) -> Result<&'a [u8], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::null("data"));
    }
    check_length(length)?;
    // SAFETY: it is not NULL, and the caller promises the rest.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), length) })
}

/// Room of the caller.
///
/// # Safety
/// `buffer` points to `capacity` bytes, initialized or not, that nothing else uses while the result is used.
pub(crate) unsafe fn bytes_mut<'a>(buffer: *mut c_void, capacity: usize) -> Result<&'a mut [u8], Failure> {
    if buffer.is_null() {
        return Err(Failure::null("buffer"));
    }
    if capacity == 0 {
        return Err(Failure::new(dflow_status::DFLOW_ERROR_ARGUMENT, "the buffer has a capacity of 0 bytes"));
    }
    check_length(capacity)?;
    // SAFETY: it is not NULL, and the caller promises the rest. The bytes are only written, so their values do not matter.
    Ok(unsafe { std::slice::from_raw_parts_mut(buffer.cast(), capacity) })
}

/// No object is larger than `PTRDIFF_MAX`; a length that is has been negative before.
pub(crate) fn check_length(length: usize) -> Result<(), Failure> {
    if length > isize::MAX as usize {
        let message = format!("a length of {length} bytes is more than memory can have");
        return Err(Failure::new(dflow_status::DFLOW_ERROR_ARGUMENT, message));
    }
    Ok(())
}
