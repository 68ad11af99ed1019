//! Reading one stream.

use crate::context::{dflow_context, with_context};
use crate::handle::{self, kind};
use crate::status::dflow_status::{self, *};
use crate::status::{Failure, Outcome, guard};
use crate::text::{self, bytes_mut, out, out_bytes};
use crate::view::{View, dflow_view};
use crate::wait::check_unarmed;
use dflow_function::{Input, Next};
use dflow_ports::{Available, InPort, Waited};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// An open input.
pub(crate) struct InputState {
    pub(crate) input: Input,
    /// A poller waits for it.
    pub(crate) armed: bool,
    /// How many bytes the last call has shown that `dflow_input_consume` may move past.
    shown: u64,
}

/// An open input: one stream. Bytes that are not yet read, and views that are not yet released, hold the producer back.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
pub struct dflow_input {
    _opaque: [u8; 0],
}
kind!(dflow_input, "input", 2, InputState);

/// What a call that may wait has found.
pub(crate) enum Found<T> {
    /// This.
    Ready(T),
    /// Nothing; this is why.
    Nothing(dflow_status),
}

impl InputState {
    pub(crate) fn new(input: Input) -> Self {
        Self { input, armed: false, shown: 0 }
    }

    /// The port, for a call that moves on.
    fn begin(&mut self) -> Result<&mut InPort, Failure> {
        check_unarmed(self.armed)?;
        self.shown = 0;
        Ok(self.input.as_mut())
    }

    /// How many bytes there are; with `waits`, at least one.
    fn poll(&mut self, waits: bool) -> Result<Found<u64>, Failure> {
        let port = self.begin()?;
        loop {
            match port.poll()? {
                Available::Bytes(length) => return Ok(Found::Ready(length)),
                Available::End => return Ok(Found::Nothing(DFLOW_END)),
                Available::Nothing => {
                    if let Some(status) = pause(port, waits) {
                        return Ok(Found::Nothing(status));
                    }
                }
            }
        }
    }

    /// Runs a step that takes bytes until it finds some; with `waits`, waits in between.
    pub(crate) fn retry<T>(
        &mut self,
        waits: bool,
        mut step: impl FnMut(&mut Input) -> Result<Next<T>, Failure>,
    ) -> Result<Found<T>, Failure> {
        self.begin()?;
        loop {
            match step(&mut self.input)? {
                Next::Ready(found) => return Ok(Found::Ready(found)),
                Next::End => return Ok(Found::Nothing(DFLOW_END)),
                Next::WouldBlock => {
                    if let Some(status) = pause(self.input.as_mut(), waits) {
                        return Ok(Found::Nothing(status));
                    }
                }
            }
        }
    }
}

/// Waits for bytes, or says why not.
fn pause(port: &mut InPort, waits: bool) -> Option<dflow_status> {
    if !waits {
        // A reader that never waits has to tell its producer where it is, because that may wait for room.
        port.publish();
        return Some(DFLOW_WOULD_BLOCK);
    }
    let session = Arc::clone(port.session());
    (session.wait(port, None) == Waited::Interrupted).then_some(DFLOW_INTERRUPTED)
}

/// Opens the input of this name, which is one stream, once. A list of streams (a fan-in) is opened with `dflow_inputs_open`.
///
/// # Safety
/// `name` ends with a NUL; `input` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_open(
    context: *mut dflow_context,
    name: *const c_char,
    input: *mut *mut dflow_input,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that the name ends with a NUL and that the input may be written.
        let (name, input) = unsafe { (text::name(name, "name")?, out(input, "input")?) };
        let handle = with_context(context, |state| {
            let opened = state.context()?.input(name).map_err(|error| Failure::of(error, DFLOW_ERROR_NAME))?;
            handle::open(state.attempt, InputState::new(opened))
        })?;
        input.put(handle);
        Ok(DFLOW_OK)
    })
}

/// All bytes that are there now, in the memory that the producer wrote them to; waits for the first. DFLOW_END at the end of
/// the stream. They may be read until the next call with this input. How a stream is cut into chunks depends on time and has
/// no meaning.
///
/// # Safety
/// `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_chunk(
    input: *mut dflow_input,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { chunk(input, data, length, true) })
}

/// Like `dflow_input_chunk`, but DFLOW_WOULD_BLOCK if there are no bytes at present.
///
/// # Safety
/// `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_try_chunk(
    input: *mut dflow_input,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { chunk(input, data, length, false) })
}

/// # Safety
/// As [`dflow_input_chunk`].
unsafe fn chunk(input: *mut dflow_input, data: *mut *const c_void, length: *mut usize, waits: bool) -> Outcome {
    // SAFETY: the caller promises that both may be written.
    let place = unsafe { out_bytes(data, length)? };
    handle::with::<InputState, _>(input, |state| match state.poll(waits)? {
        Found::Ready(length) => {
            let port: &mut InPort = state.input.as_mut();
            place.put(port.take(length));
            Ok(DFLOW_OK)
        }
        Found::Nothing(status) => Ok(status),
    })
}

/// All bytes that are there now, like `dflow_input_chunk`, without moving past them: `dflow_input_consume` does.
///
/// # Safety
/// `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_peek(
    input: *mut dflow_input,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that both may be written.
        let place = unsafe { out_bytes(data, length)? };
        handle::with::<InputState, _>(input, |state| match state.poll(true)? {
            Found::Ready(length) => {
                state.shown = length;
                let port: &mut InPort = state.input.as_mut();
                place.put(port.bytes(length));
                Ok(DFLOW_OK)
            }
            Found::Nothing(status) => Ok(status),
        })
    })
}

/// Moves past the first `length` of the bytes that `dflow_input_peek` has just shown.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_input_consume(input: *mut dflow_input, length: usize) -> dflow_status {
    guard(|| {
        handle::with::<InputState, _>(input, |state| {
            check_unarmed(state.armed)?;
            if length as u64 > state.shown {
                let message = format!(
                    "{length} bytes are more than the {} of the input '{}' that the last call, dflow_input_peek, has shown",
                    state.shown,
                    state.input.name()
                );
                return Err(Failure::new(DFLOW_ERROR_ARGUMENT, message));
            }
            state.shown -= length as u64;
            state.input.consume_bytes(length);
            Ok(DFLOW_OK)
        })
    })
}

/// Copies the next bytes, at most `capacity`, to `buffer`, and says how many; waits for the first. DFLOW_END at the end of
/// the stream.
///
/// # Safety
/// `buffer` has room for `capacity` bytes; `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_read(
    input: *mut dflow_input,
    buffer: *mut c_void,
    capacity: usize,
    length: *mut usize,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that there is room for so many bytes, and that the length may be written.
        let (buffer, place) = unsafe { (bytes_mut(buffer, capacity)?, out(length, "length")?) };
        handle::with::<InputState, _>(input, |state| {
            let have = match state.poll(true)? {
                Found::Ready(have) => have,
                Found::Nothing(status) => return Ok(status),
            };
            let length = buffer.len().min(usize::try_from(have).unwrap_or(usize::MAX));
            let port: &mut InPort = state.input.as_mut();
            buffer[..length].copy_from_slice(port.bytes(length as u64));
            port.advance(length as u64);
            place.put(length);
            Ok(DFLOW_OK)
        })
    })
}

/// The next bytes, at most `most`, as a view, which may be kept after the next call and after the function has closed the
/// input; waits for the first. Release it with `dflow_view_release`. DFLOW_END at the end of the stream.
///
/// Nothing is copied until the views of an input cover 64 MiB. A view that is kept holds the producer back like bytes that
/// are not read.
///
/// # Safety
/// `view` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_view(
    input: *mut dflow_input,
    most: usize,
    view: *mut *mut dflow_view,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { take_view(input, most, view, true) })
}

/// Like `dflow_input_view`, but DFLOW_WOULD_BLOCK if there are no bytes at present.
///
/// # Safety
/// `view` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_try_view(
    input: *mut dflow_input,
    most: usize,
    view: *mut *mut dflow_view,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { take_view(input, most, view, false) })
}

/// # Safety
/// As [`dflow_input_view`].
unsafe fn take_view(input: *mut dflow_input, most: usize, view: *mut *mut dflow_view, waits: bool) -> Outcome {
    // SAFETY: the caller promises that it may be written.
    let place = unsafe { out(view, "view")? };
    if most == 0 {
        return Err(Failure::new(DFLOW_ERROR_ARGUMENT, "a view has at least one byte: 'most' is 0"));
    }
    handle::with::<InputState, _>(input, |state| {
        let step = |input: &mut Input| {
            let port: &mut InPort = input.as_mut();
            Ok(port.try_next_view(most)?)
        };
        match state.retry(waits, step)? {
            Found::Ready(view) => {
                place.put(View::open(view)?);
                Ok(DFLOW_OK)
            }
            Found::Nothing(status) => Ok(status),
        }
    })
}

/// Waits until the stream has at least `length` bytes in all or is finished, and says how many it has (`have` may be
/// `NULL`); with SIZE_MAX for the whole stream. Only for an input with `keep: true` or `gate: whole` in the workflow file.
///
/// # Safety
/// `have` is `NULL` or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_wait_for(
    input: *mut dflow_input,
    length: usize,
    have: *mut usize,
) -> dflow_status {
    guard(|| {
        handle::with::<InputState, _>(input, |state| {
            loop {
                state.begin()?;
                let found = {
                    let port: &mut InPort = state.input.as_mut();
                    port.so_far()?.len()
                };
                let status = if found >= length { DFLOW_OK } else { DFLOW_END };
                if status == DFLOW_END {
                    match state.poll(true)? {
                        Found::Ready(_) => continue,
                        Found::Nothing(DFLOW_END) => {}
                        Found::Nothing(status) => return Ok(status),
                    }
                }
                if !have.is_null() {
                    // SAFETY: it is not NULL, and the caller promises that it may be written.
                    unsafe { out(have, "have")? }.put(found);
                }
                return Ok(DFLOW_OK);
            }
        })
    })
}

/// Everything from the first byte of the stream to the last that is there now, in one piece and in place. It may be read
/// until the next call with this input. Only for an input with `keep: true` or `gate: whole` in the workflow file.
///
/// # Safety
/// `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_so_far(
    input: *mut dflow_input,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that both may be written.
        let place = unsafe { out_bytes(data, length)? };
        handle::with::<InputState, _>(input, |state| {
            place.put(state.begin()?.so_far()?);
            Ok(DFLOW_OK)
        })
    })
}

/// `dflow_input_so_far` as a view.
///
/// # Safety
/// `view` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_view_so_far(input: *mut dflow_input, view: *mut *mut dflow_view) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(view, "view")? };
        handle::with::<InputState, _>(input, |state| {
            place.put(View::open(state.begin()?.view_so_far()?)?);
            Ok(DFLOW_OK)
        })
    })
}

/// The offset in the stream of the next byte.
///
/// # Safety
/// `offset` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_input_position(input: *mut dflow_input, offset: *mut u64) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(offset, "offset")? };
        place.put(handle::with::<InputState, _>(input, |state| Ok(state.input.position()))?);
        Ok(DFLOW_OK)
    })
}

/// Says that nothing more will be read, so that the producer need not wait for this reader, and closes the handle. What is
/// not closed is closed when the function returns.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_input_close(input: *mut dflow_input) -> dflow_status {
    guard(|| {
        handle::close::<InputState>(input)?;
        Ok(DFLOW_OK)
    })
}
