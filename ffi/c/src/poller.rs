//! A descriptor for event loops.

use crate::context::{dflow_context, session_of, with_context};
use crate::fan_in::{InputsState, dflow_inputs};
use crate::handle::{self, kind};
use crate::status::dflow_status::{self, *};
use crate::status::{Failure, guard};
use crate::text::out;
use crate::wait::{AnyPort, Locked, check_ports, listed};
use dflow_ports::{Armed, Poller, Port, Session};
use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

/// A poller, and what it waits for.
pub(crate) struct PollerState {
    poller: Poller,
    session: Arc<Session>,
    armed: Vec<AnyPort>,
    armed_list: Option<Arc<Mutex<InputsState>>>,
}

/// A descriptor that becomes readable when ports can go on: for `poll`, `epoll` and event loops.
#[allow(non_camel_case_types, reason = "the names of the C interface")]
pub struct dflow_poller {
    _opaque: [u8; 0],
}
kind!(dflow_poller, "poller", 8, PollerState);

impl PollerState {
    fn disarm(&mut self) {
        let armed = std::mem::take(&mut self.armed);
        let mut locked: Vec<Locked<'_>> = armed.iter().map(AnyPort::lock_armed).collect();
        locked.iter_mut().for_each(|port| port.set_armed(false));
        let mut ports: Vec<&mut dyn Port> = locked.iter_mut().filter_map(Locked::port).collect();
        self.poller.disarm(&mut ports);
        if let Some(list) = self.armed_list.take() {
            let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
            self.poller.disarm_fan_in(list.streams());
        }
    }

    fn check_unarmed(&self) -> Result<(), Failure> {
        if self.armed.is_empty() && self.armed_list.is_none() {
            return Ok(());
        }
        Err(Failure::new(DFLOW_ERROR_STATE, "the poller is armed already: call dflow_poller_disarm first"))
    }
}

impl Drop for PollerState {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Makes a poller, which has a thread of its own. The order of calls is: try every port; arm those that would block; wait
/// until the descriptor is readable; disarm; try again.
///
/// # Safety
/// `poller` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_poller_open(
    context: *mut dflow_context,
    poller: *mut *mut dflow_poller,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(poller, "poller")? };
        let session = session_of(context)?;
        let poller = Poller::new(&session)?;
        let handle = with_context(context, |state| {
            handle::open(state.attempt, PollerState { poller, session, armed: Vec::new(), armed_list: None })
        })?;
        place.put(handle);
        Ok(DFLOW_OK)
    })
}

/// The descriptor to be watched for reading. It belongs to the poller: do not read, write or close it.
///
/// # Safety
/// `descriptor` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_poller_descriptor(poller: *mut dflow_poller, descriptor: *mut c_int) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that it may be written.
        let place = unsafe { out(descriptor, "descriptor")? };
        let number = handle::with::<PollerState, _>(poller, |state| Ok(state.poller.as_fd().as_raw_fd()))?;
        place.put(number);
        Ok(DFLOW_OK)
    })
}

/// Arms the descriptor for these ports, inputs or outputs that would block. They cannot be used until
/// `dflow_poller_disarm`. DFLOW_READY if one may be able to go on already: nothing is armed, try again. Arm only while the
/// function has nothing else to do: dflow may give its slot to another meanwhile.
///
/// # Safety
/// `ports` points to `count` handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_poller_arm(
    poller: *mut dflow_poller,
    ports: *const *mut c_void,
    count: usize,
) -> dflow_status {
    guard(|| {
        // SAFETY: the caller promises that there are so many handles.
        let listed = unsafe { listed(ports, count)? };
        handle::with::<PollerState, _>(poller, |state| {
            state.check_unarmed()?;
            let mut locked = listed.iter().map(AnyPort::lock).collect::<Result<Vec<_>, _>>()?;
            check_ports(&mut locked, &state.session)?;
            let mut ports: Vec<&mut dyn Port> = locked.iter_mut().filter_map(Locked::port).collect();
            if state.poller.arm(&mut ports)? == Armed::Ready {
                return Ok(DFLOW_READY);
            }
            locked.iter_mut().for_each(|port| port.set_armed(true));
            state.armed = listed.clone();
            Ok(DFLOW_OK)
        })
    })
}

/// Arms the descriptor for a list of streams, for which `dflow_inputs_try_next` would block: a stream that is in it may be
/// able to go on, or another has come. It must not be used until `dflow_poller_disarm`. DFLOW_READY as for
/// `dflow_poller_arm`.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_poller_arm_inputs(poller: *mut dflow_poller, inputs: *mut dflow_inputs) -> dflow_status {
    guard(|| {
        let (_, list) = handle::find::<InputsState>(inputs)?;
        handle::with::<PollerState, _>(poller, |state| {
            state.check_unarmed()?;
            if state.poller.arm_fan_in(handle::lock(&list)?.streams())? == Armed::Ready {
                return Ok(DFLOW_READY);
            }
            state.armed_list = Some(Arc::clone(&list));
            Ok(DFLOW_OK)
        })
    })
}

/// Ends the arming, whether or not the descriptor has become readable. It is not readable any more.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_poller_disarm(poller: *mut dflow_poller) -> dflow_status {
    guard(|| {
        handle::with::<PollerState, _>(poller, |state| {
            state.disarm();
            Ok(DFLOW_OK)
        })
    })
}

/// Disarms and closes a poller and its descriptor.
#[unsafe(no_mangle)]
pub extern "C" fn dflow_poller_close(poller: *mut dflow_poller) -> dflow_status {
    guard(|| {
        handle::close::<PollerState>(poller)?;
        Ok(DFLOW_OK)
    })
}
