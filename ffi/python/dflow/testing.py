"""Runs a function on bytes, in a unit test, without a node::

    from dflow.testing import run

    def test_top():
        result = run(top, inputs={"lines": b"a\\nb\\na\\n"}, params={"count": 1})
        assert result["table"] == b"2\\ta\\n"

The function runs as in a workflow: over the same shared memory, served by threads of the test. What it raises is raised here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from dflow import _dflow
from dflow._errors import Error
from dflow._function import Function, Runner

if TYPE_CHECKING:
    from typing_extensions import Buffer

# The most bytes of all outputs together, unless a test says otherwise.
MAX_OUTPUT = 1 << 30


class Result(Mapping[str, bytes]):
    """What a function has written. As a mapping, it has the outputs that are one stream."""

    def __init__(self, streams: list[tuple[str, int | None, bytes]]) -> None:
        self._streams = {(name, part): data for name, part, data in streams}

    def __getitem__(self, name: str) -> bytes:
        return self._streams[name, None]

    def __iter__(self) -> Iterator[str]:
        return (name for name, part in self._streams if part is None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def parts(self, name: str) -> list[bytes]:
        """The bytes of each part of an output, in the order of the parts."""
        return [data for (output, part), data in self._streams.items() if output == name and part is not None]

    def records(self, name: str) -> list[bytes]:
        """The length-delimited records of an output."""
        data, records = self[name], []
        while data:
            end = 4 + int.from_bytes(data[:4], "little")
            if len(data) < end or len(data) < 4:
                raise ValueError(f"the output '{name}' does not end with a record")
            records.append(data[4:end])
            data = data[end:]
        return records


def record(data: Buffer) -> bytes:
    """One length-delimited record, for an input that is read with records()."""
    view = memoryview(data)
    return view.nbytes.to_bytes(4, "little") + view.tobytes()


def run(
    function: Function,
    inputs: Mapping[str, Buffer | Sequence[Buffer]] | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    parts: Mapping[str, int] | None = None,
    part: int | None = None,
    part_file: str | PathLike[str] | None = None,
    attempt: int = 1,
    pieces: int | None = None,
    limit: int | None = MAX_OUTPUT,
) -> Result:
    """Runs a function on these inputs: bytes, or a list of them for a fan-in. `parts` says how many parts an output has,
    `pieces` cuts inputs into pieces of so many bytes, and `limit` is the most bytes of all outputs together."""
    if not isinstance(function, Function):
        raise TypeError("dflow.testing.run needs a function that is decorated with @dflow.function")
    if pieces is not None and pieces < 1:
        raise ValueError("a piece has at least one byte")
    streams = []
    for name, data in (inputs or {}).items():
        if isinstance(data, list | tuple):
            streams.append((name, True, [bytes(each) for each in data]))
        else:
            streams.append((name, False, [bytes(data)]))  # type: ignore[arg-type]
    runner = Runner(function)
    try:
        written = _dflow._test(
            runner,
            inputs=streams,
            params=[(name, str(value)) for name, value in (params or {}).items()],
            parts=list((parts or {}).items()),
            part=part,
            part_file=None if part_file is None else fspath(part_file),
            attempt=attempt,
            pieces=pieces,
            limit=limit,
        )
    except Error:
        if runner.raised is not None:
            raise runner.raised from None
        raise
    return Result(written)
