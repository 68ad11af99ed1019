//! A stream as lines or as records.

use crate::handle;
use crate::input::{Found, InputState, dflow_input};
use crate::output::{dflow_output, write_record};
use crate::status::dflow_status::{self, *};
use crate::status::{Failure, Outcome, guard};
use crate::text::{bytes, out_bytes};
use dflow_function::{Error, Input, Next};
use std::ffi::c_void;

/// Where the bytes of a line or record are, until the next call with the input.
struct Framed(*const u8, usize);

/// The next line of an input, without its newline; waits for it. A last line without a newline counts. DFLOW_END at the end
/// of the stream. The line may be read until the next call with this input.
///
/// # Safety
/// `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_line(
    input: *mut dflow_input,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { framed(input, data, length, true, line) })
}

/// Like `dflow_input_line`, but DFLOW_WOULD_BLOCK if the line has not come as a whole. The next call continues with it, and
/// must be one of these two.
///
/// # Safety
/// `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_try_line(
    input: *mut dflow_input,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { framed(input, data, length, false, line) })
}

/// The next record of an input, as `dflow_output_record` writes them (a little-endian 32-bit length, and so many bytes);
/// waits for it. DFLOW_END at the end of the stream. The record may be read until the next call with this input.
///
/// # Safety
/// `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_record(
    input: *mut dflow_input,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { framed(input, data, length, true, record) })
}

/// Like `dflow_input_record`, but DFLOW_WOULD_BLOCK if the record has not come as a whole. The next call continues with it,
/// and must be one of these two.
///
/// # Safety
/// `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_try_record(
    input: *mut dflow_input,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { framed(input, data, length, false, record) })
}

/// Writes one record of at most 64 MiB: its length as a little-endian 32-bit number, and its bytes.
///
/// # Safety
/// `data` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_output_record(
    output: *mut dflow_output,
    data: *const c_void,
    length: usize,
) -> dflow_status {
    // SAFETY: the caller promises that there are so many bytes.
    guard(|| write_record(output, unsafe { bytes(data, length)? }))
}

fn line(input: &mut Input) -> Result<Next<&[u8]>, Error> {
    input.lines_bytes().into_next()
}

fn record(input: &mut Input) -> Result<Next<&[u8]>, Error> {
    input.records().into_next()
}

/// # Safety
/// `data` and `length` may be written.
unsafe fn framed(
    input: *mut dflow_input,
    data: *mut *const c_void,
    length: *mut usize,
    waits: bool,
    next: fn(&mut Input) -> Result<Next<&[u8]>, Error>,
) -> Outcome {
    // SAFETY: the caller promises that both may be written.
    let place = unsafe { out_bytes(data, length)? };
    handle::with::<InputState, _>(input, |state| {
        let step = |input: &mut Input| {
            Ok(match next(input).map_err(|error| Failure::of(error, DFLOW_ERROR_INPUT))? {
                Next::Ready(bytes) => Next::Ready(Framed(bytes.as_ptr(), bytes.len())),
                Next::WouldBlock => Next::WouldBlock,
                Next::End => Next::End,
            })
        };
        match state.retry(waits, step)? {
            Found::Ready(Framed(pointer, length)) => {
                // SAFETY: the input has just lent these bytes, and nothing was done with it since.
                place.put(unsafe { std::slice::from_raw_parts(pointer, length) });
                Ok(DFLOW_OK)
            }
            Found::Nothing(status) => Ok(status),
        }
    })
}
