//! Run times and sizes of a function.

use dflow_workflow::{Amount, Function};
use std::time::Duration;

/// The time that a function is assumed to compute if nothing is known: too short to be worth a transfer, so it stays
/// beside its data.
const UNKNOWN_TIME: Duration = Duration::from_millis(1);
/// The same for an instance of a `foreach`: its author asked for many of them, so they are worth spreading.
const UNKNOWN_EACH_TIME: Duration = Duration::from_millis(100);
/// A learned time is scaled with the size of the input, but not below this share, because part of it does not depend on
/// the input.
const LEAST_SCALE: f64 = 1.0 / 8.0;

/// Averages over finished runs, per instance of a function. Later runs count more.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// How many runs it is from.
    pub runs: u32,
    /// How long it computed.
    pub time: Duration,
    /// How much of that passed before its first output byte, if it wrote any.
    pub first_output: Option<Duration>,
    /// How much of that remained after its last input byte, if it started before that byte.
    pub tail: Option<Duration>,
    /// Bytes that it read.
    pub input: u64,
    /// Bytes that it wrote, to all outputs together.
    pub output: u64,
    /// How many parts it opened, if it discovers them.
    pub parts: Option<u32>,
}

/// The figures of one instance of a function, as a plan uses them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// How long it computes; `None` if nothing is known.
    pub time: Option<Duration>,
    /// How much of that passes before its first output byte.
    pub first_output: Duration,
    /// How much of that remains after its last input byte.
    pub tail: Duration,
    /// The bytes of the input at which `time` was measured; `None` if `time` holds for every input.
    pub measured_at: Option<u64>,
    /// The bytes of each output, in the order of the function's outputs.
    pub outputs: Vec<Option<Amount>>,
    /// The bytes of all outputs without an entry together; if nothing is known, as many as the input has.
    pub rest: Option<Amount>,
    /// How many parts it opens on an output whose parts are discovered.
    pub parts: Option<u32>,
}

impl Profile {
    /// The profile of a function. Declared figures win over learned ones, key by key: the author of the file wrote them
    /// down on purpose, and may know that the next run differs.
    #[must_use]
    pub fn of(function: &Function, learned: Option<&Learned>) -> Self {
        let mut profile = Self::default();
        if let Some(learned) = learned {
            profile.time = Some(learned.time);
            profile.first_output = learned.first_output.unwrap_or_default();
            profile.tail = learned.tail.unwrap_or_default();
            profile.measured_at = (learned.input > 0).then_some(learned.input);
            profile.rest = Some(match learned.input {
                0 => Amount::Bytes(learned.output),
                input => Amount::OfInput(learned.output as f64 / input as f64),
            });
            profile.parts = learned.parts;
        }
        let Some(declared) = &function.expect else { return profile };
        if let Some(time) = declared.time {
            // The parts of the learned time keep their share of the declared one.
            let share = |part: Duration| match profile.time {
                Some(all) if !all.is_zero() => time.mul_f64((part.as_secs_f64() / all.as_secs_f64()).min(1.0)),
                _ => Duration::ZERO,
            };
            (profile.first_output, profile.tail) = (share(profile.first_output), share(profile.tail));
            (profile.time, profile.measured_at) = (Some(time), None);
        }
        profile.first_output = declared.first_output.unwrap_or(profile.first_output);
        profile.tail = declared.tail.unwrap_or(profile.tail);
        profile.outputs.clone_from(&declared.outputs);
        profile.parts = declared.parts.or(profile.parts);
        profile
    }

    /// The work of an instance that reads so many bytes.
    pub(super) fn work(&self, each: bool, input: u64) -> Work {
        let time = self.time.unwrap_or(if each { UNKNOWN_EACH_TIME } else { UNKNOWN_TIME });
        let scale = match self.measured_at {
            Some(at) if input > 0 => (input as f64 / at as f64).max(LEAST_SCALE),
            _ => 1.0,
        };
        let scaled = |part: Duration| (part.as_nanos() as f64 * scale) as u64;
        let total = scaled(time);
        Work { total, head: scaled(self.first_output).min(total), tail: scaled(self.tail).min(total) }
    }

    /// The bytes of an output of an instance that reads so many.
    pub(super) fn output(&self, port: usize, ports: usize, input: u64) -> u64 {
        if let Some(amount) = self.outputs.get(port).copied().flatten() {
            return amount.of(input);
        }
        let known = self.outputs.iter().flatten();
        let open = ports.saturating_sub(known.clone().count()).max(1) as u64;
        let rest = self.rest.map_or(input, |amount| amount.of(input));
        let known =
            if self.rest.is_some() { known.map(|amount| amount.of(input)).fold(0, u64::saturating_add) } else { 0 };
        rest.saturating_sub(known) / open
    }
}

/// The work of an instance, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) total: u64,
    /// Before its first output byte.
    pub(super) head: u64,
    /// After its last input byte.
    pub(super) tail: u64,
}
