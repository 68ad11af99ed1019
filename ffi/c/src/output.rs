//! Writing one stream.

use crate::context::{dflow_context, with_context};
use crate::handle::{self, kind};
use crate::status::dflow_status::{self, *};
use crate::status::{Failure, Outcome, guard};
use crate::text::{self, bytes, check_length, out};
use crate::wait::check_unarmed;
use dflow_function::Output;
use dflow_ports::{OutPort, Space, Suspended, Waited};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// The most bytes of a record (`dflow_protocol::limits::MAX_RECORD`).
const MAX_RECORD: usize = 64 << 20;
/// The bytes of a record's length.
const HEADER: usize = 4;

/// An open output.
pub(crate) struct OutputState {
    output: Option<Output>,
    /// A poller waits for it.
    pub(crate) armed: bool,
    /// The room that the caller fills, and its length.
    reserved: Option<(Suspended, usize)>,
}

/// An open output: one stream. Its readers may read what is committed while the function goes on.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
pub struct dflow_output {
    _opaque: [u8; 0],
}
kind!(dflow_output, "output", 5, OutputState);

impl OutputState {
    pub(crate) fn new(output: Output) -> Self {
        Self { output: Some(output), armed: false, reserved: None }
    }

    /// The port, whatever it is used for at present.
    pub(crate) fn port(&mut self) -> Result<&mut OutPort, Failure> {
        let finished = || Failure::new(DFLOW_ERROR_STATE, "the output is finished");
        self.output.as_mut().map(AsMut::as_mut).ok_or_else(finished)
    }

    /// The port, for a call that ends a reservation.
    fn begin(&mut self) -> Result<&mut OutPort, Failure> {
        check_unarmed(self.armed)?;
        self.reserved = None;
        self.port()
    }

    /// Moves committed bytes into the stream that its window was too short for.
    pub(crate) fn flush(&mut self, waits: bool) -> Outcome {
        let port = self.begin()?;
        while !port.try_flush()? {
            if let Some(status) = pause(port, waits) {
                return Ok(status);
            }
        }
        Ok(DFLOW_OK)
    }

    fn reserve(&mut self, length: usize, waits: bool) -> Result<Result<(*mut u8, usize), dflow_status>, Failure> {
        let port = self.begin()?;
        loop {
            match port.poll_room(length as u64)? {
                Space::WouldBlock => {
                    if let Some(status) = pause(port, waits) {
                        return Ok(Err(status));
                    }
                }
                space => {
                    let mut room = port.reservation(length, space);
                    let (pointer, length) = (room.as_mut_ptr(), room.len());
                    self.reserved = Some((room.suspend(), length));
                    return Ok(Ok((pointer, length)));
                }
            }
        }
    }

    fn commit(&mut self, length: usize, waits: bool) -> Outcome {
        check_unarmed(self.armed)?;
        match &self.reserved {
            None => {
                let message = "nothing is reserved: dflow_output_commit must follow dflow_output_reserve";
                return Err(Failure::new(DFLOW_ERROR_STATE, message));
            }
            Some((_, room)) if length > *room => {
                let message = format!("{length} bytes are more than the {room} that were reserved");
                return Err(Failure::new(DFLOW_ERROR_ARGUMENT, message));
            }
            Some(_) => {}
        }
        if let Some((suspended, _)) = self.reserved.take() {
            self.port()?.resume(suspended).commit(length)?;
        }
        self.flush(waits)
    }
}

/// Waits for room, or says why not.
fn pause(port: &mut OutPort, waits: bool) -> Option<dflow_status> {
    if !waits {
        return Some(DFLOW_WOULD_BLOCK);
    }
    let session = Arc::clone(port.session());
    (session.wait(port, None) == Waited::Interrupted).then_some(DFLOW_INTERRUPTED)
}

/// Opens the output of this name, which is one stream, once. One with parts is opened with `dflow_outputs_open` or
/// `dflow_partition_open`.
///
/// # Safety
/// `name` ends with a NUL; `output` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_output_open(
    context: *mut dflow_context,
    name: *const c_char,
    output: *mut *mut dflow_output,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that the name ends with a NUL and that the output may be written.
        let (name, place) = unsafe { (text::name(name, "name")?, out(output, "output")?) };
        let handle = with_context(context, |state| {
            let output = state.context()?.output(name).map_err(|error| Failure::of(error, DFLOW_ERROR_NAME))?;
            handle::open(state.attempt, OutputState::new(output))
        })?;
        place.put(handle);
        Ok(DFLOW_OK)
    })
}

/// Writes and commits all of these bytes; waits for room. After DFLOW_INTERRUPTED, `dflow_output_written` tells how many
/// have been.
///
/// # Safety
/// `data` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_output_write(
    output: *mut dflow_output,
    data: *const c_void,
    length: usize,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that there are so many bytes.
        let mut data = unsafe { bytes(data, length)? };
        handle::with::<OutputState, _>(output, |state| {
            let port = state.begin()?;
            while !data.is_empty() {
                match port.try_write(data)? {
                    0 => {
                        if let Some(status) = pause(port, true) {
                            return Ok(status);
                        }
                    }
                    written => data = &data[written..],
                }
            }
            Ok(DFLOW_OK)
        })
    })
}

/// Writes and commits as many of these bytes as there is room for, and says how many. DFLOW_WOULD_BLOCK if there is no room.
///
/// # Safety
/// `data` points to `length` bytes; `written` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_output_try_write(
    output: *mut dflow_output,
    data: *const c_void,
    length: usize,
    written: *mut usize,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that there are so many bytes, and that the number may be written.
        let (data, place) = unsafe { (bytes(data, length)?, out(written, "written")?) };
        handle::with::<OutputState, _>(output, |state| {
            let written = state.begin()?.try_write(data)?;
            place.put(written);
            Ok(if written == 0 && !data.is_empty() { DFLOW_WOULD_BLOCK } else { DFLOW_OK })
        })
    })
}

/// Room for at least `length` bytes in the stream itself, at most 256 MiB, to be filled and then committed with
/// `dflow_output_commit`; waits for it. `room` is how long it is, which may be more. What is in it before it is filled has no
/// meaning. It may be written until the next call with this output. A reservation that is not committed is given back by the
/// next call with the output.
///
/// # Safety
/// `data` and `room` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_output_reserve(
    output: *mut dflow_output,
    length: usize,
    data: *mut *mut c_void,
    room: *mut usize,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { reserve(output, length, data, room, true) })
}

/// Like `dflow_output_reserve`, but DFLOW_WOULD_BLOCK if there is no such room at present.
///
/// # Safety
/// `data` and `room` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_output_try_reserve(
    output: *mut dflow_output,
    length: usize,
    data: *mut *mut c_void,
    room: *mut usize,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { reserve(output, length, data, room, false) })
}

/// # Safety
/// As [`dflow_output_reserve`].
unsafe fn reserve(
    output: *mut dflow_output,
    length: usize,
    data: *mut *mut c_void,
    room: *mut usize,
    waits: bool,
) -> Outcome {
    // SAFETY: the caller promises that both may be written.
    let (data, room) = unsafe { (out(data, "data")?, out(room, "room")?) };
    if length == 0 {
        return Err(Failure::new(DFLOW_ERROR_ARGUMENT, "a reservation has at least one byte: 'length' is 0"));
    }
    check_length(length)?;
    handle::with::<OutputState, _>(output, |state| match state.reserve(length, waits)? {
        Ok((pointer, length)) => {
            data.put(pointer.cast());
            room.put(length);
            Ok(DFLOW_OK)
        }
        Err(status) => Ok(status),
    })
}

/// Makes the first `length` bytes of the reserved room readable. It may wait where the room did not fit into the rest of the
/// stream's window; after DFLOW_INTERRUPTED, they are committed and will be there with the next call.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_output_commit(output: *mut dflow_output, length: usize) -> dflow_status {
    guard(|| handle::with::<OutputState, _>(output, |state| state.commit(length, true)))
}

/// Like `dflow_output_commit`, but never waits. After DFLOW_WOULD_BLOCK the bytes are committed, and some of them become
/// readable with a later call.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_output_try_commit(output: *mut dflow_output, length: usize) -> dflow_status {
    guard(|| handle::with::<OutputState, _>(output, |state| state.commit(length, false)))
}

/// How many bytes have been committed.
///
/// # Safety
/// `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_output_written(output: *mut dflow_output, length: *mut u64) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(length, "length")? };
        place.put(handle::with::<OutputState, _>(output, |state| Ok(state.port()?.written()))?);
        Ok(DFLOW_OK)
    })
}

/// Finishes the stream, so that its readers reach its end while the function continues, and closes the handle. Outputs that
/// are not finished are when the function returns DFLOW_OK, and are discarded when it fails.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_output_finish(output: *mut dflow_output) -> dflow_status {
    guard(|| {
        let status = handle::with::<OutputState, _>(output, |state| {
            let status = state.flush(true)?;
            if status == DFLOW_OK
                && let Some(output) = state.output.take()
            {
                output.finish().map_err(|error| Failure::of(error, DFLOW_ERROR_SYSTEM))?;
            }
            Ok(status)
        })?;
        if status == DFLOW_OK {
            handle::close::<OutputState>(output)?;
        }
        Ok(status)
    })
}

/// Writes one length-delimited record.
pub(crate) fn write_record(output: *mut dflow_output, bytes: &[u8]) -> Outcome {
    if bytes.len() > MAX_RECORD {
        let message = format!("a record of {} bytes is longer than the {MAX_RECORD} that one may have", bytes.len());
        return Err(Failure::new(DFLOW_ERROR_LIMIT, message));
    }
    handle::with::<OutputState, _>(output, |state| {
        let whole = bytes.len() + HEADER;
        if let Err(status) = state.reserve(whole, true)? {
            return Ok(status);
        }
        if let Some((suspended, _)) = state.reserved.take() {
            let mut room = state.port()?.resume(suspended);
            room[..HEADER].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            room[HEADER..whole].copy_from_slice(bytes);
            room.commit(whole)?;
        }
        state.flush(true)
    })
}
