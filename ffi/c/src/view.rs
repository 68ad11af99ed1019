//! Views: bytes of a stream that outlive the call that found them.

use crate::handle::{self, kind};
use crate::status::Failure;
use crate::status::dflow_status::{self, *};
use crate::status::guard;
use crate::text::{out, out_bytes};
use std::ffi::c_void;

/// Views belong to no attempt: they are released one by one.
const NO_ATTEMPT: u64 = 0;

/// A view that a handle refers to.
pub(crate) struct View(dflow_ports::View);

/// Bytes of a stream that stay where they are and as they are until the view is released, after the end of its input and
/// of its function, too.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
pub struct dflow_view {
    _opaque: [u8; 0],
}
kind!(dflow_view, "view", 3, View);

impl View {
    pub(crate) fn open(view: dflow_ports::View) -> Result<*mut dflow_view, Failure> {
        handle::open(NO_ATTEMPT, Self(view))
    }
}

/// The bytes of a view. They may be read, by any thread, until the view is released.
///
/// # Safety
/// `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_view_data(
    view: *mut dflow_view,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that both may be written.
        let place = unsafe { out_bytes(data, length)? };
        handle::with::<View, _>(view, |view| {
            place.put(&view.0);
            Ok(DFLOW_OK)
        })
    })
}

/// The offset in the stream of a view's first byte.
///
/// # Safety
/// `offset` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_view_offset(view: *mut dflow_view, offset: *mut u64) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(offset, "offset")? };
        place.put(handle::with::<View, _>(view, |view| Ok(view.0.offset()))?);
        Ok(DFLOW_OK)
    })
}

/// A view of `length` of a view's bytes, from its byte `start` on. It is released on its own, and keeps all memory of the
/// first one.
///
/// # Safety
/// `part` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_view_slice(
    view: *mut dflow_view,
    start: usize,
    length: usize,
    part: *mut *mut dflow_view,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(part, "part")? };
        let slice = handle::with::<View, _>(view, |view| {
            let have = view.0.len();
            let end = start.checked_add(length).filter(|end| *end <= have).ok_or_else(|| {
                let message = format!("{length} bytes from byte {start} on are not within the {have} of the view");
                Failure::new(DFLOW_ERROR_ARGUMENT, message)
            })?;
            Ok(view.0.slice(start..end))
        })?;
        place.put(View::open(slice)?);
        Ok(DFLOW_OK)
    })
}

/// Releases a view, from any thread. Its bytes must not be read any more. `NULL` is left alone, as by `free`.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_view_release(view: *mut dflow_view) -> dflow_status {
    guard(|| {
        if !view.is_null() {
            handle::close::<View>(view)?;
        }
        Ok(DFLOW_OK)
    })
}
