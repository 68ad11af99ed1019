"""Arrow IPC over streams, for pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.ipc  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from dflow._streams import Input, Output


# What is shorter is copied: a view would cost more.
_SHORT = 4096


class _Source:
    """A stream as a file that pyarrow reads. It asks for one part of a message after the other, by their lengths, and gets
    the producer's memory where that holds a part in one piece, and a copy otherwise."""

    closed = False

    def __init__(self, source: Input) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def tell(self) -> int:
        return self._source.position

    def read(self, size: int = -1) -> Any:
        if size <= _SHORT:
            return self._source.read(size)
        first = self._source.view(size)
        if first is None:
            return b""
        if len(first) == size:
            return memoryview(first)
        parts = [bytes(first)]
        first.release()
        parts.append(self._source.read(size - len(parts[0])))
        return b"".join(parts)

    def read_buffer(self, size: int = -1) -> Any:
        return self.read(size)


def open_reader(source: Input) -> pyarrow.RecordBatchStreamReader:
    return pyarrow.ipc.open_stream(pyarrow.PythonFile(_Source(source), mode="r"))


def read_batches(source: Input) -> Iterator[pyarrow.RecordBatch]:
    with open_reader(source) as reader:
        yield from reader


class _Sink:
    """Collects the buffers of a message without copying them, until they are written as one piece."""

    closed = False

    def __init__(self) -> None:
        self.parts: list[memoryview] = []
        self._written = 0

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def write(self, data: Any) -> int:
        part = memoryview(data).cast("B")
        self.parts.append(part)
        self._written += len(part)
        return len(part)


class BatchWriter:
    """Writes record batches as an Arrow IPC stream. Each is written in place in the stream, in one piece where it is not
    larger than 64 MiB, so that its reader finds it in one piece."""

    # The longest message that is written in one piece, in bytes.
    _LONGEST = 64 << 20

    def __init__(self, output: Output, schema: pyarrow.Schema, **options: Any) -> None:
        self._output = output
        self._sink = _Sink()
        self._file = pyarrow.PythonFile(self._sink, mode="w")
        self._writer = pyarrow.ipc.new_stream(self._file, schema, **options)
        self._closed = False
        self._send()

    def write(self, data: pyarrow.RecordBatch | pyarrow.Table) -> None:
        """Writes a batch, or all batches of a table."""
        if isinstance(data, pyarrow.RecordBatch):
            self._writer.write_batch(data)
            self._send()
            return
        for batch in data.to_batches():
            self.write(batch)

    def close(self) -> None:
        """Writes the end of the stream of batches. The output itself stays open."""
        if not self._closed:
            self._closed = True
            self._writer.close()
            self._send()

    def _send(self) -> None:
        parts, self._sink.parts = self._sink.parts, []
        length = sum(map(len, parts))
        if length > self._LONGEST:
            for part in parts:
                self._output.write(part)
            return
        if length == 0:
            return
        room = self._output.reserve(length)
        with memoryview(room) as target:
            at = 0
            for part in parts:
                target[at : at + len(part)] = part
                at += len(part)
        room.commit(length)

    def __enter__(self) -> BatchWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
