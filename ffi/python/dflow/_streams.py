"""Streams and the context of a function, as users see them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dflow import _dflow
from dflow._dflow import Room, View

if TYPE_CHECKING:
    import numpy
    import pyarrow  # type: ignore[import-untyped]
    from typing_extensions import Buffer

    from dflow._arrow import BatchWriter

# How much a copying read asks for at once, in bytes.
_BLOCK = 1 << 20


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class _Waiting:
    """Waits for ports in asyncio, with a few descriptors that are used again and again."""

    def __init__(self, context: _dflow.Context) -> None:
        self._context = context
        self._idle: list[_dflow.Poller] = []

    async def until_ready(self, port: _dflow.Input | _dflow.Inputs | _dflow.Output) -> None:
        loop = asyncio.get_running_loop()
        poller = self._idle.pop() if self._idle else self._context._poller()
        try:
            if not poller.arm(port):
                return
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(poller.fileno(), _wake, ready)
            try:
                await ready
            finally:
                loop.remove_reader(poller.fileno())
                poller.disarm()
        finally:
            self._idle.append(poller)


class Input:
    """One input stream.

    The ways to read it can be mixed, because each continues where the one before has stopped::

        for chunk in lines: ...            # views of all bytes that are there, in the producer's memory
        for line in lines.lines(): ...     # lines as bytes
        for record in lines.records(): ... # length-delimited records as bytes
        for array in lines.arrays("<f8"):  # numpy arrays on the producer's memory
        lines.read(100)                    # a copy, as from a file
        async for chunk in lines: ...      # in a coroutine

    A stream is cut into chunks anywhere. A chunk that is kept holds its producer back like bytes that are not read.
    """

    __slots__ = ("_core", "_waiting")

    def __init__(self, core: _dflow.Input, waiting: _Waiting) -> None:
        self._core = core
        self._waiting = waiting

    @property
    def name(self) -> str:
        """The name in the workflow file."""
        return self._core.name

    @property
    def position(self) -> int:
        """The offset in the stream of the next byte."""
        return self._core.position

    def chunk(self) -> View | None:
        """The bytes that are there now, as a view; waits for the first. None at the end of the stream."""
        return self._core.view(None, True)

    def view(self, most: int) -> View | None:
        """The next bytes, at most so many, as a view; waits for the first. None at the end of the stream."""
        return self._core.view(most, True)

    def try_chunk(self) -> View | None:
        """Like chunk(), but raises BlockingIOError if there are no bytes at present."""
        found = self._core.view(None, False)
        if found is False:
            raise BlockingIOError(f"the input '{self.name}' has no bytes at present")
        return found

    def __iter__(self) -> Iterator[View]:
        view = self._core.view
        while (chunk := view(None, True)) is not None:
            yield chunk

    def lines(self, keepends: bool = False) -> Iterator[bytes]:
        """The lines, without their newlines unless they are to be kept. A last line without a newline counts."""
        line = self._core.line
        end = b"\n" if keepends else b""
        while (found := line(True)) is not None:
            yield found + end if keepends else found

    def records(self) -> Iterator[bytes]:
        """The length-delimited records, as Output.record writes them."""
        record = self._core.record
        while (found := record(True)) is not None:
            yield found

    def arrays(self, dtype: Any) -> Iterator[numpy.ndarray]:
        """The stream as numpy arrays of this type, in the producer's memory where an element lies in one piece."""
        import numpy

        dtype = numpy.dtype(dtype)
        size = dtype.itemsize
        rest = b""
        for chunk in self:
            bytes_ = memoryview(chunk)
            if rest:
                need = size - len(rest)
                rest += bytes_[:need]
                bytes_ = bytes_[need:]
                if len(rest) < size:
                    continue
                yield numpy.frombuffer(rest, dtype)
            whole = len(bytes_) // size * size
            if whole:
                yield numpy.frombuffer(bytes_[:whole], dtype)
            rest = bytes(bytes_[whole:])
            del bytes_, chunk
        if rest:
            raise EOFError(f"the input '{self.name}' ends within an element of {size} bytes")

    def read(self, size: int = -1) -> bytes:
        """A copy of the next bytes: so many, or fewer at the end of the stream; of all of them without a size."""
        parts = []
        while size != 0:
            view = self._core.view(_BLOCK if size < 0 else min(size, _BLOCK), True)
            if view is None:
                break
            parts.append(bytes(view))
            view.release()
            if size > 0:
                size -= len(parts[-1])
        return b"".join(parts)

    def readinto(self, buffer: Buffer) -> int:
        """Copies bytes into a buffer and returns how many; waits for the first. 0 at the end of the stream."""
        target = memoryview(buffer).cast("B")
        if not target:
            return 0
        view = self._core.view(len(target), True)
        if view is None:
            return 0
        target[: len(view)] = view[:]
        count = len(view)
        return count

    def file(self, buffer_size: int = _BLOCK) -> io.BufferedReader:
        """The rest of the stream as a file, for libraries that want one."""
        return io.BufferedReader(_Raw(source=self), buffer_size)

    def wait_for(self, length: int | None = None) -> int:
        """Waits until the stream has so many bytes in all, or is finished; returns how many it has. Only for an input with
        `keep: true` or `gate: whole` in the workflow file, as so_far()."""
        return self._core.wait_for(length)

    def so_far(self) -> View:
        """One view of everything from the first byte to the last that is there now, in place."""
        return self._core.view_so_far()

    def batches(self) -> Iterator[pyarrow.RecordBatch]:
        """The record batches of an Arrow IPC stream, in the producer's memory where a message lies in one piece."""
        from dflow._arrow import read_batches

        return read_batches(self)

    def arrow(self) -> pyarrow.RecordBatchStreamReader:
        """The stream as a reader of pyarrow, which knows its schema."""
        from dflow._arrow import open_reader

        return open_reader(self)

    def close(self) -> None:
        """Says that nothing more will be read, so that the producer need not wait for this reader."""
        self._core.close()

    async def achunk(self) -> View | None:
        """chunk() in a coroutine."""
        while (found := self._core.view(None, False)) is False:
            await self._waiting.until_ready(self._core)
        return found

    async def __aiter__(self) -> AsyncIterator[View]:
        while (chunk := await self.achunk()) is not None:
            yield chunk

    async def alines(self) -> AsyncIterator[bytes]:
        """lines() in a coroutine."""
        while True:
            while (line := self._core.line(False)) is False:
                await self._waiting.until_ready(self._core)
            if line is None:
                return
            yield line

    async def arecords(self) -> AsyncIterator[bytes]:
        """records() in a coroutine."""
        while True:
            while (record := self._core.record(False)) is False:
                await self._waiting.until_ready(self._core)
            if record is None:
                return
            yield record

    def __repr__(self) -> str:
        return f"<dflow.Input '{self.name}'>"


class Inputs:
    """A list of streams: an input with several sources, or all parts of a partitioned one. More may come while the function
    runs.

    Iteration gives one Input after the other; ready() gives bytes of whichever has some. Which one that is depends on time:
    a function that uses it is not `deterministic` unless its output does not depend on the order.
    """

    __slots__ = ("_core", "_waiting")

    def __init__(self, core: _dflow.Inputs, waiting: _Waiting) -> None:
        self._core = core
        self._waiting = waiting

    @property
    def name(self) -> str:
        """The name in the workflow file."""
        return self._core.name

    def __iter__(self) -> Iterator[Input]:
        while (core := self._core.next(True)) is not None:
            yield Input(core, self._waiting)

    async def __aiter__(self) -> AsyncIterator[Input]:
        while True:
            while (core := self._core.next(False)) is False:
                await self._waiting.until_ready(self._core)
            if core is None:
                return
            yield Input(core, self._waiting)

    def ready(self) -> Iterator[tuple[int, View]]:
        """Bytes of whichever stream has some, each with the stream's number, until all have ended."""
        while (found := self._core.ready(True)) is not None:
            yield found

    async def aready(self) -> AsyncIterator[tuple[int, View]]:
        """ready() in a coroutine."""
        while True:
            while (found := self._core.ready(False)) is False:
                await self._waiting.until_ready(self._core)
            if found is None:
                return
            yield found

    def count(self) -> int:
        """How many streams there are; waits until that is known."""
        return self._core.count()

    def close(self) -> None:
        """Says that none of the streams that were not taken will be read."""
        self._core.close()

    def __repr__(self) -> str:
        return f"<dflow.Inputs '{self.name}'>"


class Output:
    """One output stream. What is written can be read at once, and is published when the function returns.

    To write in place::

        room = out.reserve(len(data))
        numpy.frombuffer(room, "u1")[: len(data)] = data
        room.commit(len(data))

    A room is committed when no memoryview and no array of it exists any more; otherwise commit() raises BufferError.
    """

    __slots__ = ("_core", "_waiting")

    def __init__(self, core: _dflow.Output, waiting: _Waiting) -> None:
        self._core = core
        self._waiting = waiting

    @property
    def name(self) -> str:
        """The name in the workflow file."""
        return self._core.name

    @property
    def written(self) -> int:
        """How many bytes have been committed."""
        return self._core.written

    def write(self, data: Buffer) -> int:
        """Writes all bytes of an object with the buffer protocol; waits for room. Returns their number."""
        return self._core.write(data)

    def writelines(self, lines: Iterable[Buffer]) -> None:
        """Writes each of these, without adding anything."""
        for line in lines:
            self._core.write(line)

    def record(self, data: Buffer) -> None:
        """Writes one length-delimited record of at most 64 MiB, for Input.records."""
        self._core.record(data)

    def reserve(self, length: int) -> Room:
        """Room for at least so many bytes in the stream itself, at most 256 MiB; waits for it."""
        return self._core.reserve(length)

    def file(self, buffer_size: int = _BLOCK) -> io.BufferedWriter:
        """The stream as a file, for libraries that want one. Close or flush it before the function returns."""
        return io.BufferedWriter(_Raw(target=self), buffer_size)

    def arrow(self, schema: pyarrow.Schema, **options: Any) -> BatchWriter:
        """Writes an Arrow IPC stream: `with out.arrow(schema) as sink: sink.write(batch)`. The options are those of
        pyarrow.ipc.new_stream."""
        from dflow._arrow import BatchWriter

        return BatchWriter(self, schema, **options)

    def finish(self) -> None:
        """Finishes the stream, so that its readers reach its end while the function continues."""
        self._core.finish()

    async def awrite(self, data: Buffer) -> int:
        """write() in a coroutine."""
        data = memoryview(data)
        length = data.nbytes
        written = 0
        while True:
            written += self._core.write(data, False, written)
            if written == length:
                return written
            await self._waiting.until_ready(self._core)

    def __repr__(self) -> str:
        return f"<dflow.Output '{self.name}'>"


class Partition:
    """An output with `partition: discovered`: its parts are opened while the function runs."""

    __slots__ = ("_core", "_waiting")

    def __init__(self, core: _dflow.Partition, waiting: _Waiting) -> None:
        self._core = core
        self._waiting = waiting

    @property
    def name(self) -> str:
        """The name in the workflow file."""
        return self._core.name

    def open(self) -> Output:
        """Opens one more part. Every `foreach` over this output gets one more instance, which starts reading at once."""
        return Output(self._core.open(), self._waiting)


class Context:
    """The parameters, inputs and outputs of a function, for one that does not name them as its arguments."""

    __slots__ = ("_core", "_waiting")

    def __init__(self, core: _dflow.Context) -> None:
        self._core = core
        self._waiting = _Waiting(core)

    @property
    def instance(self) -> str:
        """The name of this instance, such as `count[3]`."""
        return self._core.instance

    @property
    def part(self) -> int | None:
        """In a `foreach`, the number of the part that this instance works on."""
        return self._core.part

    @property
    def part_file(self) -> Path | None:
        """In a `foreach` over files, the path of this instance's file as the command line names it."""
        return self._core.part_file

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1 on."""
        return self._core.attempt

    def param(self, name: str) -> str | None:
        """The text of a parameter; None if the workflow file does not set it."""
        return self._core.param(name)

    def input(self, name: str) -> Input:
        """The input of this name, which is one stream. Each input and output can be taken once."""
        return Input(self._core.input(name), self._waiting)

    def inputs(self, name: str) -> Inputs:
        """The input of this name as a list of streams; a single stream is a list of one."""
        return Inputs(self._core.inputs(name), self._waiting)

    def output(self, name: str) -> Output:
        """The output of this name, which is one stream."""
        return Output(self._core.output(name), self._waiting)

    def outputs(self, name: str) -> list[Output]:
        """The streams of an output with a fixed number of parts."""
        return [Output(core, self._waiting) for core in self._core.outputs(name)]

    def partition(self, name: str) -> Partition:
        """An output whose parts are opened while the function runs."""
        return Partition(self._core.partition(name), self._waiting)

    def __repr__(self) -> str:
        return f"<dflow.Context of '{self.instance}'>"


class _Raw(io.RawIOBase):
    """A stream as a file without a buffer."""

    def __init__(self, source: Input | None = None, target: Output | None = None) -> None:
        self._source = source
        self._target = target

    def readable(self) -> bool:
        return self._source is not None

    def writable(self) -> bool:
        return self._target is not None

    def readinto(self, buffer: Buffer) -> int:
        if self._source is None:
            raise io.UnsupportedOperation("read")
        return self._source.readinto(buffer)

    def write(self, data: Buffer) -> int:
        if self._target is None:
            raise io.UnsupportedOperation("write")
        return self._target.write(data)
