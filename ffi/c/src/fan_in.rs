//! Reading a list of streams: a fan-in.

use crate::context::{dflow_context, with_context};
use crate::handle::{self, kind};
use crate::input::{InputState, dflow_input};
use crate::status::dflow_status::{self, *};
use crate::status::{Failure, Outcome, guard};
use crate::text::{self, out, out_bytes};
use dflow_function::{Input, Inputs, Next};
use dflow_ports::{FanIn, InPort, Waited};
use std::ffi::{c_char, c_void};

/// An open list of streams.
pub(crate) struct InputsState {
    pub(crate) inputs: Inputs,
    attempt: u64,
}

/// An open list of streams: an input with several sources, or all parts of a partitioned one. More may come while the
/// function runs.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
pub struct dflow_inputs {
    _opaque: [u8; 0],
}
kind!(dflow_inputs, "list of inputs", 4, InputsState);

impl InputsState {
    pub(crate) fn streams(&mut self) -> &mut FanIn<Input> {
        self.inputs.as_mut()
    }
}

/// Opens the input of this name as a list of streams, once; a single stream is a list of one.
///
/// # Safety
/// `name` ends with a NUL; `inputs` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_inputs_open(
    context: *mut dflow_context,
    name: *const c_char,
    inputs: *mut *mut dflow_inputs,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that the name ends with a NUL and that the list may be written.
        let (name, place) = unsafe { (text::name(name, "name")?, out(inputs, "inputs")?) };
        let handle = with_context(context, |state| {
            let inputs = state.context()?.inputs(name).map_err(|error| Failure::of(error, DFLOW_ERROR_NAME))?;
            handle::open(state.attempt, InputsState { inputs, attempt: state.attempt })
        })?;
        place.put(handle);
        Ok(DFLOW_OK)
    })
}

/// The next stream in order; waits for it if more may come. DFLOW_END when all have been taken.
///
/// # Safety
/// `input` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_inputs_next(inputs: *mut dflow_inputs, input: *mut *mut dflow_input) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { next(inputs, input, true) })
}

/// Like `dflow_inputs_next`, but DFLOW_WOULD_BLOCK if more streams may come and none is there.
///
/// # Safety
/// `input` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_inputs_try_next(
    inputs: *mut dflow_inputs,
    input: *mut *mut dflow_input,
) -> dflow_status {
    // SAFETY: the caller promises the same.
    guard(|| unsafe { next(inputs, input, false) })
}

/// # Safety
/// As [`dflow_inputs_next`].
unsafe fn next(inputs: *mut dflow_inputs, input: *mut *mut dflow_input, waits: bool) -> Outcome {
    // SAFETY: the caller promises that it may be written.
    let place = unsafe { out(input, "input")? };
    handle::with::<InputsState, _>(inputs, |state| {
        loop {
            match state.streams().try_next()? {
                Next::Ready(input) => {
                    place.put(handle::open(state.attempt, InputState::new(input))?);
                    return Ok(DFLOW_OK);
                }
                Next::End => return Ok(DFLOW_END),
                Next::WouldBlock if !waits => return Ok(DFLOW_WOULD_BLOCK),
                Next::WouldBlock => {
                    if state.streams().wait_for_streams(None) == Waited::Interrupted {
                        return Ok(DFLOW_INTERRUPTED);
                    }
                }
            }
        }
    })
}

/// All bytes that one of the streams has now, whichever has some, and its number in the list; waits for them. DFLOW_END when
/// all have ended. The bytes may be read until the next call with this list. Which stream it is depends on time, so a
/// function that uses this is not `deterministic` unless its output does not depend on the order.
///
/// # Safety
/// `number`, `data` and `length` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_inputs_ready(
    inputs: *mut dflow_inputs,
    number: *mut u32,
    data: *mut *const c_void,
    length: *mut usize,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that they may be written.
        let (number, place) = unsafe { (out(number, "number")?, out_bytes(data, length)?) };
        handle::with::<InputsState, _>(inputs, |state| {
            loop {
                match state.streams().poll()? {
                    Next::Ready(at) => {
                        let (found, input) = state.streams().stream(at);
                        let port: &mut InPort = input.as_mut();
                        if let dflow_ports::Available::Bytes(length) = port.poll()? {
                            number.put(found);
                            place.put(port.take(length));
                            return Ok(DFLOW_OK);
                        }
                    }
                    Next::End => return Ok(DFLOW_END),
                    Next::WouldBlock => {
                        if state.streams().wait_for_bytes(None) == Waited::Interrupted {
                            return Ok(DFLOW_INTERRUPTED);
                        }
                    }
                }
            }
        })
    })
}

/// How many streams there are; waits until that is known.
///
/// # Safety
/// `count` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_inputs_count(inputs: *mut dflow_inputs, count: *mut u32) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(count, "count")? };
        handle::with::<InputsState, _>(inputs, |state| {
            loop {
                if let Some(count) = state.streams().count()? {
                    place.put(count);
                    return Ok(DFLOW_OK);
                }
                if state.streams().wait_for_streams(None) == Waited::Interrupted {
                    return Ok(DFLOW_INTERRUPTED);
                }
            }
        })
    })
}

/// Closes a list: none of the streams that were not taken from it will be read.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_inputs_close(inputs: *mut dflow_inputs) -> dflow_status {
    guard(|| {
        handle::close::<InputsState>(inputs)?;
        Ok(DFLOW_OK)
    })
}
