"""The exceptions of the package."""

from __future__ import annotations

import traceback
from typing import Any

# The longest text of a failure, in characters: dflow cuts what is longer.
MAX_TEXT = 12_000


class Error(Exception):
    """Something that dflow could not do."""


class InputError(Error):
    """An input was given up by its producer, cannot be read, or does not hold records."""


class OutputError(Error):
    """An output cannot be written."""


class Unread(OutputError, BrokenPipeError):
    """Nobody reads the output any more. A function that lets this through has not failed."""


class PortError(Error, LookupError):
    """There is no such input, output or parameter, it has another form, or it was taken before."""


class Ended(Error, ValueError):
    """An object of a function that has ended, or one that was closed, released, committed or finished."""


class Busy(Error, RuntimeError):
    """Another thread or task is using the object."""


class RunError(Error):
    """A run has failed. `report` is its report, if there is one."""

    def __init__(self, text: str, report: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.report = report


def describe(error: BaseException) -> str:
    """The text of a failure: what was raised, and where."""
    said = "".join(traceback.format_exception_only(error)).strip()
    where = "".join(traceback.format_exception(error)).strip()
    room = MAX_TEXT - len(said)
    if room < 0:
        return said[:MAX_TEXT] + " …"
    if len(where) > room:
        where = "… " + where[-room:]
    return f"{said}\n{where}"
