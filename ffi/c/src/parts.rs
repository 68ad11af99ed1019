//! Outputs with parts.

use crate::context::{dflow_context, with_context};
use crate::handle::{self, kind};
use crate::output::{OutputState, dflow_output};
use crate::status::dflow_status::{self, *};
use crate::status::{Failure, guard};
use crate::text::{self, out};
use dflow_function::Partition;
use dflow_ports::{Parts, Waited};
use std::ffi::c_char;
use std::sync::Arc;

/// An output whose parts are opened while the function runs.
pub(crate) struct PartitionState {
    partition: Partition,
    attempt: u64,
}

/// An output with `partition: discovered`: its parts are opened while the function runs.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
pub struct dflow_partition {
    _opaque: [u8; 0],
}
kind!(dflow_partition, "partition", 6, PartitionState);

/// The parts of an output with a fixed number of them.
pub(crate) struct OutputsState(Vec<*mut dflow_output>);

// SAFETY: handles are numbers, which nothing dereferences.
unsafe impl Send for OutputsState {}

/// The parts of an output with a fixed number of them.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
pub struct dflow_outputs {
    _opaque: [u8; 0],
}
kind!(dflow_outputs, "list of outputs", 7, OutputsState);

/// Opens an output with a fixed number of parts, such as `partition: 8`, once, and says how many there are. A single stream
/// is a list of one.
///
/// # Safety
/// `name` ends with a NUL; `outputs` and `count` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_outputs_open(
    context: *mut dflow_context,
    name: *const c_char,
    outputs: *mut *mut dflow_outputs,
    count: *mut u32,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that the name ends with a NUL and that the others may be written.
        let (name, place, count) =
            unsafe { (text::name(name, "name")?, out(outputs, "outputs")?, out(count, "count")?) };
        let (handle, parts) = with_context(context, |state| {
            let attempt = state.attempt;
            let parts = state.context()?.outputs(name).map_err(|error| Failure::of(error, DFLOW_ERROR_NAME))?;
            let parts = parts.into_iter().map(|part| handle::open(attempt, OutputState::new(part)));
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            let number = parts.len() as u32;
            Ok((handle::open(attempt, OutputsState(parts))?, number))
        })?;
        place.put(handle);
        count.put(parts);
        Ok(DFLOW_OK)
    })
}

/// The output that is this part of a list, from 0 on. Each call with the same part gives the same handle.
///
/// # Safety
/// `output` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_outputs_part(
    outputs: *mut dflow_outputs,
    part: u32,
    output: *mut *mut dflow_output,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(output, "output")? };
        let handle = handle::with::<OutputsState, _>(outputs, |state| {
            state.0.get(part as usize).copied().ok_or_else(|| {
                Failure::new(DFLOW_ERROR_ARGUMENT, format!("there is no part {part}: there are {}", state.0.len()))
            })
        })?;
        place.put(handle);
        Ok(DFLOW_OK)
    })
}

/// Opens an output with `partition: discovered`, once.
///
/// # Safety
/// `name` ends with a NUL; `partition` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_partition_open(
    context: *mut dflow_context,
    name: *const c_char,
    partition: *mut *mut dflow_partition,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that the name ends with a NUL and that the partition may be written.
        let (name, place) = unsafe { (text::name(name, "name")?, out(partition, "partition")?) };
        let handle = with_context(context, |state| {
            let partition = state.context()?.partition(name).map_err(|error| Failure::of(error, DFLOW_ERROR_NAME))?;
            handle::open(state.attempt, PartitionState { partition, attempt: state.attempt })
        })?;
        place.put(handle);
        Ok(DFLOW_OK)
    })
}

/// Opens one more part. Every `foreach` over this output gets one more instance, which starts reading at once.
/// DFLOW_ERROR_LIMIT if there are too many.
///
/// # Safety
/// `output` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_partition_next(
    partition: *mut dflow_partition,
    output: *mut *mut dflow_output,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(output, "output")? };
        handle::with::<PartitionState, _>(partition, |state| {
            loop {
                let opened = state.partition.try_open().map_err(|error| Failure::of(error, DFLOW_ERROR_LIMIT))?;
                if let Some(part) = opened {
                    place.put(handle::open(state.attempt, OutputState::new(part))?);
                    return Ok(DFLOW_OK);
                }
                let parts: &mut Parts = state.partition.as_mut();
                let session = Arc::clone(parts.session());
                if session.wait(parts, None) == Waited::Interrupted {
                    return Ok(DFLOW_INTERRUPTED);
                }
            }
        })
    })
}
