//! Waiting for any of several ports.

use crate::context::{dflow_context, session_of};
use crate::handle::{self, Kind};
use crate::input::{InputState, dflow_input};
use crate::output::{OutputState, dflow_output};
use crate::status::dflow_status::{self, *};
use crate::status::{Failure, guard};
use dflow_ports::{InPort, Port, Session, Waited};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most ports that one call takes.
const MAX_PORTS: usize = 16_384;

/// An input or an output.
#[derive(Clone)]
pub(crate) enum AnyPort {
    Input(Arc<Mutex<InputState>>),
    Output(Arc<Mutex<OutputState>>),
}

/// A port that nothing else uses meanwhile.
pub(crate) enum Locked<'a> {
    Input(MutexGuard<'a, InputState>),
    Output(MutexGuard<'a, OutputState>),
}

/// A call with a port for which a poller waits.
pub(crate) fn check_unarmed(armed: bool) -> Result<(), Failure> {
    if armed {
        return Err(Failure::new(DFLOW_ERROR_STATE, "a poller waits for this port: call dflow_poller_disarm first"));
    }
    Ok(())
}

/// The ports that the caller lists.
///
/// # Safety
/// `ports` points to `count` handles.
pub(crate) unsafe fn listed(ports: *const *mut c_void, count: usize) -> Result<Vec<AnyPort>, Failure> {
    if ports.is_null() {
        return Err(Failure::null("ports"));
    }
    if !(1..=MAX_PORTS).contains(&count) {
        let message = format!("{count} ports are not between 1 and {MAX_PORTS}");
        return Err(Failure::new(DFLOW_ERROR_ARGUMENT, message));
    }
    // SAFETY: it is not NULL, and the caller promises that there are so many handles.
    let handles = unsafe { std::slice::from_raw_parts(ports, count) };
    handles.iter().map(|handle| find(*handle)).collect()
}

fn find(handle: *mut c_void) -> Result<AnyPort, Failure> {
    let input = handle::find::<InputState>(handle.cast::<dflow_input>().cast_const());
    if let Ok((_, input)) = input {
        return Ok(AnyPort::Input(input));
    }
    match handle::find::<OutputState>(handle.cast::<dflow_output>().cast_const()) {
        Ok((_, output)) => Ok(AnyPort::Output(output)),
        Err(failure) if failure.status == DFLOW_ERROR_ARGUMENT => Err(Failure::null("ports[…]")),
        Err(_) => {
            let (input, output) = (InputState::NAME, OutputState::NAME);
            let message = format!("a handle in the list is neither an {input} nor an {output} that is open");
            Err(Failure::new(DFLOW_ERROR_HANDLE, message))
        }
    }
}

impl AnyPort {
    /// Locks it; an error if another thread uses it or it is listed twice.
    pub(crate) fn lock(&self) -> Result<Locked<'_>, Failure> {
        Ok(match self {
            Self::Input(input) => Locked::Input(handle::lock(input)?),
            Self::Output(output) => Locked::Output(handle::lock(output)?),
        })
    }

    /// Locks it while a poller waits for it, which keeps all others from using it for long.
    pub(crate) fn lock_armed(&self) -> Locked<'_> {
        match self {
            Self::Input(input) => Locked::Input(input.lock().unwrap_or_else(PoisonError::into_inner)),
            Self::Output(output) => Locked::Output(output.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl Locked<'_> {
    pub(crate) fn is_armed(&self) -> bool {
        match self {
            Self::Input(input) => input.armed,
            Self::Output(output) => output.armed,
        }
    }

    pub(crate) fn set_armed(&mut self, armed: bool) {
        match self {
            Self::Input(input) => input.armed = armed,
            Self::Output(output) => output.armed = armed,
        }
    }

    /// The port; `None` for an output that was finished.
    pub(crate) fn port(&mut self) -> Option<&mut dyn Port> {
        match self {
            Self::Input(input) => {
                let port: &mut InPort = input.input.as_mut();
                Some(port)
            }
            Self::Output(output) => output.port().ok().map(|port| port as &mut dyn Port),
        }
    }

    /// The session that it belongs to.
    fn session(&mut self) -> Option<Arc<Session>> {
        match self {
            Self::Input(input) => {
                let port: &mut InPort = input.input.as_mut();
                Some(Arc::clone(port.session()))
            }
            Self::Output(output) => output.port().ok().map(|port| Arc::clone(port.session())),
        }
    }
}

/// Checks that ports belong to this session and that no poller waits for them.
pub(crate) fn check_ports(ports: &mut [Locked<'_>], session: &Arc<Session>) -> Result<(), Failure> {
    for port in ports {
        check_unarmed(port.is_armed())?;
        if port.session().is_none_or(|own| !Arc::ptr_eq(&own, session)) {
            return Err(Failure::new(DFLOW_ERROR_HANDLE, "a port in the list belongs to another attempt"));
        }
    }
    Ok(())
}

/// Waits until a call with one of these ports, inputs or outputs, may find something: bytes, an end, or room. Call the
/// `try` function of each after it. Do not wait for an input that has ended: it is always ready. DFLOW_TIMED_OUT after
/// `timeout` milliseconds; a negative one is no limit.
///
/// # Safety
/// `ports` points to `count` handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dflow_wait(
    context: *mut dflow_context,
    ports: *const *mut c_void,
    count: usize,
    timeout: i64,
) -> dflow_status {
    guard(|| {
        let session = session_of(context)?;
        // SAFETY: the caller promises that there are so many handles.
        let ports = unsafe { listed(ports, count)? };
        let mut locked = ports.iter().map(AnyPort::lock).collect::<Result<Vec<_>, _>>()?;
        check_ports(&mut locked, &session)?;
        let mut ports: Vec<&mut dyn Port> = locked.iter_mut().filter_map(Locked::port).collect();
        let limit = u64::try_from(timeout).ok().map(Duration::from_millis);
        Ok(match session.wait_any(&mut ports, limit) {
            Waited::Ready => DFLOW_OK,
            Waited::TimedOut => DFLOW_TIMED_OUT,
            Waited::Interrupted => DFLOW_INTERRUPTED,
        })
    })
}
