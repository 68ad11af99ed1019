//! Handles: numbers in the shape of pointers, which are looked up in a table for each kind.
//!
//! A number holds the kind, the place in the table, and how often that place has been used. It is never dereferenced, so
//! that a handle that was closed, or was never one, is found out.

use crate::status::{Failure, dflow_status};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// Bits of a handle's place in its table. So many handles of a kind may be open at the same time.
const PLACE_BITS: u32 = 20;
/// Bits of the number of uses.
const USE_BITS: u32 = 36;
/// The most handles of one kind.
pub(crate) const MAX_HANDLES: usize = 1 << PLACE_BITS;

const _: () = assert!(usize::BITS == 64, "a handle has 64 bits");

/// Something that handles refer to.
pub(crate) trait Kind: Sized + Send + 'static {
    /// Its number, not 0.
    const NUMBER: u64;
    /// Its name in messages.
    const NAME: &'static str;
    /// The type behind the pointers of the interface.
    type Raw;
    /// Where they are.
    fn table() -> &'static Table<Self>;
}

/// All handles of a kind.
pub(crate) struct Table<T> {
    places: RwLock<Places<T>>,
}

struct Places<T> {
    list: Vec<Place<T>>,
    free: Vec<usize>,
}

struct Place<T> {
    /// How often it has been used.
    uses: u64,
    /// The attempt that it belongs to, and the value.
    value: Option<(u64, Arc<Mutex<T>>)>,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self { places: RwLock::new(Places { list: Vec::new(), free: Vec::new() }) }
    }

    // Nothing panics while it holds these locks in an inconsistent state, so poisoned ones can be used.
    fn read(&self) -> RwLockReadGuard<'_, Places<T>> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Places<T>> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a handle of a value that belongs to this attempt.
pub(crate) fn open<T: Kind>(attempt: u64, value: T) -> Result<*mut T::Raw, Failure> {
    let mut places = T::table().write();
    let at = match places.free.pop() {
        Some(at) => at,
        None if places.list.len() < MAX_HANDLES => {
            places.list.push(Place { uses: 0, value: None });
            places.list.len() - 1
        }
        None => {
            let message = format!("{MAX_HANDLES} handles are the most that may be open of the kind {}", T::NAME);
            return Err(Failure::new(dflow_status::DFLOW_ERROR_LIMIT, message));
        }
    };
    let place = &mut places.list[at];
    place.uses = (place.uses + 1) & ((1 << USE_BITS) - 1);
    place.value = Some((attempt, Arc::new(Mutex::new(value))));
    let number = T::NUMBER << (PLACE_BITS + USE_BITS) | place.uses << PLACE_BITS | at as u64;
    Ok(std::ptr::without_provenance_mut(number as usize))
}

/// The place of a handle and the number of uses that it was made with.
fn place_of<T: Kind>(handle: *const T::Raw) -> Result<(usize, u64), Failure> {
    if handle.is_null() {
        return Err(Failure::null(T::NAME));
    }
    let number = handle.addr() as u64;
    if number >> (PLACE_BITS + USE_BITS) != T::NUMBER {
        return Err(unknown::<T>());
    }
    let uses = (number >> PLACE_BITS) & ((1 << USE_BITS) - 1);
    Ok((number as usize & (MAX_HANDLES - 1), uses))
}

fn unknown<T: Kind>() -> Failure {
    let message = format!("the handle is not an open {}: it was closed, or its function has ended", T::NAME);
    Failure::new(dflow_status::DFLOW_ERROR_HANDLE, message)
}

/// What a handle refers to, and its attempt.
pub(crate) fn find<T: Kind>(handle: *const T::Raw) -> Result<(u64, Arc<Mutex<T>>), Failure> {
    let (at, uses) = place_of::<T>(handle)?;
    let places = T::table().read();
    let found = places.list.get(at).filter(|place| place.uses == uses).and_then(|place| place.value.clone());
    found.ok_or_else(unknown::<T>)
}

/// Locks what a handle refers to.
pub(crate) fn lock<T: Kind>(value: &Arc<Mutex<T>>) -> Result<MutexGuard<'_, T>, Failure> {
    match value.try_lock() {
        Ok(guard) => Ok(guard),
        // The value was left by a panic in the middle of a call; what it does then is defined, if not useful.
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another thread is using the {}: a handle is used by one thread at a time", T::NAME);
            Err(Failure::new(dflow_status::DFLOW_ERROR_BUSY, message))
        }
    }
}

/// Runs `work` on what a handle refers to.
pub(crate) fn with<T: Kind, R>(
    handle: *const T::Raw,
    work: impl FnOnce(&mut T) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let (_, value) = find::<T>(handle)?;
    let mut guard = lock(&value)?;
    work(&mut guard)
}

/// Closes a handle and gives what it referred to. Another thread that is using it finishes its call.
pub(crate) fn close<T: Kind>(handle: *const T::Raw) -> Result<Arc<Mutex<T>>, Failure> {
    let (at, uses) = place_of::<T>(handle)?;
    let mut places = T::table().write();
    let place = places.list.get_mut(at).filter(|place| place.uses == uses);
    let (_, value) = place.and_then(|place| place.value.take()).ok_or_else(unknown::<T>)?;
    places.free.push(at);
    Ok(value)
}

/// What the handles of an attempt refer to.
pub(crate) fn owned<T: Kind>(attempt: u64) -> Vec<Arc<Mutex<T>>> {
    let places = T::table().read();
    let values = places.list.iter().filter_map(|place| place.value.as_ref());
    values.filter(|(owner, _)| *owner == attempt).map(|(_, value)| Arc::clone(value)).collect()
}

/// Closes every handle of an attempt.
pub(crate) fn close_all<T: Kind>(attempt: u64) {
    let mut closed = Vec::new();
    let mut places = T::table().write();
    for at in 0..places.list.len() {
        let place = &mut places.list[at];
        if place.value.as_ref().is_some_and(|(owner, _)| *owner == attempt) {
            closed.extend(place.value.take());
            places.free.push(at);
        }
    }
    // Unlocked: what is dropped may take a while.
    drop(places);
}

/// Makes a type a kind of handle: the type behind its pointers, its name, its number, and the type itself.
macro_rules! kind {
    ($raw:ident, $name:literal, $number:literal, $value:ty) => {
        impl $crate::handle::Kind for $value {
            const NUMBER: u64 = $number;
            const NAME: &'static str = $name;
            type Raw = $raw;
            fn table() -> &'static $crate::handle::Table<Self> {
                static TABLE: $crate::handle::Table<$value> = $crate::handle::Table::new();
                &TABLE
            }
        }
    };
}
pub(crate) use kind;

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(u32);
    /// For these tests.
    #[allow(non_camel_case_types, reason = "the names of the C interface")]
    pub struct raw_number {
        _opaque: [u8; 0],
    }
    kind!(raw_number, "number", 101, Number);
    struct Other;
    /// For these tests.
    #[allow(non_camel_case_types, reason = "the names of the C interface")]
    pub struct raw_other {
        _opaque: [u8; 0],
    }
    kind!(raw_other, "other", 102, Other);

    fn status<T>(result: Result<T, Failure>) -> dflow_status {
        result.err().expect("it fails").status
    }

    #[test]
    fn a_handle_is_valid_until_it_is_closed() {
        let one = open(1, Number(1)).unwrap();
        let two = open(1, Number(2)).unwrap();
        assert_eq!(with::<Number, _>(one, |number| Ok(number.0)).unwrap(), 1);
        close::<Number>(one).unwrap();
        assert_eq!(status(with::<Number, _>(one, |_| Ok(()))), dflow_status::DFLOW_ERROR_HANDLE);
        assert_eq!(status(close::<Number>(one)), dflow_status::DFLOW_ERROR_HANDLE);
        // The place is used again, and the old handle does not lead there.
        let three = open(1, Number(3)).unwrap();
        assert_ne!(one, three);
        assert_eq!(status(with::<Number, _>(one, |_| Ok(()))), dflow_status::DFLOW_ERROR_HANDLE);
        assert_eq!(with::<Number, _>(two, |number| Ok(number.0)).unwrap(), 2);
    }

    #[test]
    fn made_up_and_foreign_handles_are_errors() {
        let other = open(1, Other).unwrap();
        assert_eq!(status(with::<Number, _>(other.cast(), |_| Ok(()))), dflow_status::DFLOW_ERROR_HANDLE);
        assert_eq!(status(with::<Number, _>(std::ptr::null(), |_| Ok(()))), dflow_status::DFLOW_ERROR_ARGUMENT);
        for bits in [1, 8, usize::MAX, 101 << 56, (101 << 56) | (MAX_HANDLES - 1)] {
            let made_up = std::ptr::without_provenance(bits);
            assert_eq!(status(with::<Number, _>(made_up, |_| Ok(()))), dflow_status::DFLOW_ERROR_HANDLE, "{bits:x}");
        }
    }

    #[test]
    fn a_second_thread_gets_an_error_and_an_attempt_closes_its_own() {
        let (mine, others) = (open(7, Number(1)).unwrap(), open(8, Number(2)).unwrap());
        let (attempt, value) = find::<Number>(mine).unwrap();
        assert_eq!(attempt, 7);
        let guard = lock(&value).unwrap();
        assert_eq!(status(with::<Number, _>(mine, |_| Ok(()))), dflow_status::DFLOW_ERROR_BUSY);
        drop(guard);
        close_all::<Number>(7);
        assert_eq!(status(with::<Number, _>(mine, |_| Ok(()))), dflow_status::DFLOW_ERROR_HANDLE);
        assert_eq!(with::<Number, _>(others, |number| Ok(number.0)).unwrap(), 2);
    }
}
