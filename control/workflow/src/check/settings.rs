//! The settings of a function that refer to nothing else in the file: time limits, retries, resources.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::diagnostics::Diagnostic;
use crate::file::{FunctionFile, Spanned, Time};
use crate::limits::MAX_GRACE;
use crate::model::{Resources, Retries};
use crate::report::Report;

/// The pause before the first retry, if the file does not say.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause between retries, if the file does not say.
const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The exit statuses that mean success.
pub(super) fn success(file: &FunctionFile, report: &mut Report) -> BTreeSet<u8> {
    let Some(statuses) = file.success.get() else { return BTreeSet::from([0]) };
    if !file.program.is_absent() && file.command.is_absent() {
        report.push(
            Diagnostic::at(statuses.span, "`success` is only for a `command`")
                .with_help("a program that links the SDK reports success or failure itself: remove this key"),
        );
    }
    statuses.value.0.clone()
}

/// A limit on time, which is not zero.
pub(super) fn limit(limit: Option<&Spanned<Time>>, what: &str, report: &mut Report) -> Option<Duration> {
    let limit = limit?;
    if limit.value.0.is_zero() {
        report.push(
            Diagnostic::at(limit.span, format!("{what} of zero ends every attempt at once"))
                .with_help("leave the key out, or write a duration such as `30s`"),
        );
    }
    Some(limit.value.0)
}

/// The grace; zero means that functions are killed at once.
pub(super) fn grace(grace: Option<&Spanned<Time>>, report: &mut Report) -> Option<Duration> {
    let grace = grace?;
    if grace.value.0 > MAX_GRACE {
        report.push(
            Diagnostic::at(grace.span, "a grace of more than a day")
                .with_help("a run that is cancelled or fails waits this long for its functions: write at most `1d`"),
        );
    }
    Some(grace.value.0)
}

/// The number of retries and the pauses before them.
pub(super) fn retries(file: &FunctionFile, report: &mut Report) -> Retries {
    let details = file.retries.get().map(|retries| &retries.0);
    let backoff = details.and_then(|it| it.backoff.get()).map_or(DEFAULT_BACKOFF, |it| it.0);
    let max_backoff = match details.and_then(|it| it.max_backoff.get()) {
        Some(max) if max.value.0 < backoff => {
            report.push(
                Diagnostic::at(max.span, "`max_backoff` is shorter than the first pause, `backoff`")
                    .with_help("make it at least as long, or leave it out"),
            );
            backoff
        }
        Some(max) => max.value.0,
        None => DEFAULT_MAX_BACKOFF.max(backoff),
    };
    Retries { count: details.and_then(|it| it.count.get()).map_or(0, |it| it.0), backoff, max_backoff }
}

/// The slots and the memory of an instance.
pub(super) fn resources(file: &FunctionFile, report: &mut Report) -> Resources {
    let file = file.resources.get();
    let memory = file.and_then(|it| it.memory.get());
    if let Some(memory) = memory.filter(|memory| memory.value.0 == 0) {
        report.push(
            Diagnostic::at(memory.span, "a function cannot run without memory")
                .with_help("leave the key out for no limit, or write a size such as `512MiB`"),
        );
    }
    Resources { slots: file.and_then(|it| it.cpu.get()).map_or(1, |it| it.0), memory: memory.map(|it| it.value.0) }
}
