"""Reading and writing streams in all ways, on bytes."""

import array
import io
import threading

import numpy
import pytest

import dflow
from dflow.testing import record, run


def test_lines_however_they_are_cut():
    text = b"one\n\nthree is longer\nlast"

    @dflow.function
    def work(text: dflow.Input, out: dflow.Output, more: dflow.Output):
        for number, line in enumerate(text.lines(keepends=True)):
            (out if number % 2 else more).write(line)

    for pieces in (1, 2, 5, None):
        result = run(work, {"text": text}, pieces=pieces)
        assert result["more"] == b"one\nthree is longer\n" and result["out"] == b"\nlast\n"
        assert set(result) == {"out", "more"} and len(result) == 2


def test_records():
    records = [b"", b"a", b"x" * 100_000]

    @dflow.function
    def work(data: dflow.Input, out: dflow.Output):
        for each in data.records():
            out.record(each)
        with pytest.raises(ValueError, match="a record may have"):
            out.record(bytes((64 << 20) + 1))

    for pieces in (7, None):
        result = run(work, {"data": b"".join(map(record, records))}, pieces=pieces)
        assert result.records("out") == records
    with pytest.raises(dflow.InputError, match="middle of a record"):
        run(work, {"data": record(b"abc")[:-1]})
    with pytest.raises(dflow.InputError, match="probably no records"):
        run(work, {"data": b"this is just some text"})


def test_reading_as_a_file():
    text = bytes(range(256)) * 5000

    @dflow.function
    def work(data: dflow.Input, more: dflow.Input, lines: dflow.Input, out: dflow.Output):
        assert data.read(10) == text[:10] and data.position == 10
        assert data.read(0) == b""
        buffer = bytearray(1000)
        count = data.readinto(buffer)
        assert buffer[:count] == text[10 : 10 + count]
        rest = data.read()
        assert rest == text[10 + count :] and data.read(5) == b"" and data.readinto(buffer) == 0
        assert more.file().read() == text
        with io.TextIOWrapper(lines.file(), "utf-8") as file:
            assert [line.rstrip() for line in file] == ["grün", "blau"]
        with out.file() as file:
            file.write(b"through a file")
        with pytest.raises(io.UnsupportedOperation):
            out.file().raw.readinto(buffer)

    inputs = {"data": text, "more": text, "lines": "grün\nblau\n".encode()}
    assert run(work, inputs, pieces=1111)["out"] == b"through a file"


def test_outputs_take_everything_with_the_buffer_protocol():
    @dflow.function
    def work(out: dflow.Output):
        assert out.write(b"bytes,") == 6
        out.write(bytearray(b"bytearray,"))
        out.write(memoryview(b"__memoryview,__")[2:-2])
        out.write(memoryview(b"g-a-p-s-,-")[::2])
        out.write(array.array("H", [0x2C61]))
        out.write(numpy.frombuffer(b"numpy,", "u1"))
        out.write(numpy.arange(6, dtype="u1").reshape(2, 3).T + ord("0"))
        out.write(b"")
        out.writelines([b"x", bytearray(b"y")])
        for wrong in ("text", 7, None, [b"list"]):
            with pytest.raises(TypeError):
                out.write(wrong)
        assert out.written == len(b"bytes,bytearray,memoryview,gaps,a,numpy,031425xy")

    assert run(work)["out"] == b"bytes,bytearray,memoryview,gaps,a,numpy,031425xy"


def test_writing_in_place():
    @dflow.function
    def work(out: dflow.Output):
        room = out.reserve(10)
        assert len(room) >= 10
        target = numpy.frombuffer(room, "u1")
        target[:5] = list(b"place")
        with pytest.raises(BufferError, match="1 buffers"):
            room.commit(5)
        with pytest.raises(BufferError, match="1 buffers"):
            out.write(b"between")
        del target
        room.commit(5)
        with pytest.raises(dflow.Ended):
            room.commit(5)
        with pytest.raises(dflow.Ended):
            memoryview(room)
        room = out.reserve(3)
        with pytest.raises(ValueError, match="were reserved"):
            room.commit(len(room) + 1)
        with memoryview(room) as view:
            view[:3] = b", b"
        # A write gives a room back that was not committed.
        out.write(b", a")
        with pytest.raises(dflow.Ended):
            room.commit(3)
        for wrong in (0, 1 << 40):
            with pytest.raises((ValueError, dflow.OutputError)):
                out.reserve(wrong)
        with pytest.raises(OverflowError):
            out.reserve(-1)
        # More than a window: it is put together.
        room = out.reserve(3 << 20)
        with memoryview(room) as view:
            view[: 3 << 20] = b"z" * (3 << 20)
        room.commit(3 << 20)

    assert run(work)["out"] == b"place, a" + b"z" * (3 << 20)


def test_a_room_that_outlives_its_function_is_no_crash():
    kept = []

    @dflow.function
    def work(out: dflow.Output):
        out.write(b"before")
        room = out.reserve(1000)
        kept.extend([room, numpy.frombuffer(room, "u1")])

    assert run(work)["out"] == b"before"
    room, target = kept
    target[:] = 7
    with pytest.raises(dflow.Ended):
        room.commit(3)
    kept.clear()
    del target
    with pytest.raises(dflow.Ended):
        memoryview(room)


def test_outputs_are_finished_once():
    @dflow.function
    def work(out: dflow.Output):
        out.write(b"all")
        out.finish()
        for late in (lambda: out.write(b"x"), lambda: out.reserve(1), lambda: out.finish(), lambda: out.written):
            with pytest.raises(dflow.Ended):
                late()

    assert run(work)["out"] == b"all"


def test_fan_ins_in_order_and_as_they_come():
    streams = [bytes([number]) * (number * 137) for number in range(60)]

    @dflow.function
    def work(all: dflow.Inputs, any: dflow.Inputs, out: dflow.Output):
        assert all.count() == len(streams)
        for stream in all:
            out.record(stream.read())
        sizes = [0] * len(streams)
        for number, view in any.ready():
            assert set(bytes(view)) == {number}
            sizes[number] += len(view)
        assert sizes == [len(stream) for stream in streams]

    assert run(work, {"all": streams, "any": streams}, pieces=1000).records("out") == streams


def test_parts():
    @dflow.function
    def work(deal: list[dflow.Output], more: dflow.Partition):
        assert len(deal) == 3
        for number, part in enumerate(deal):
            part.write(bytes([number]))
        for number in range(5):
            with_part = more.open()
            with_part.write(b"%d" % number)
            with_part.finish()

    result = run(work, parts={"deal": 3})
    assert result.parts("deal") == [b"\0", b"\1", b"\2"]
    assert result.parts("more") == [b"0", b"1", b"2", b"3", b"4"]


def test_closed_and_busy_inputs():
    @dflow.function
    def work(one: dflow.Input, two: dflow.Input, out: dflow.Output):
        one.close()
        one.close()
        with pytest.raises(dflow.Ended, match="'one' is closed"):
            one.chunk()
        found = []
        # An input of a test always has bytes, so a second thread may use it at any time.
        thread = threading.Thread(target=lambda: found.append(bytes(two.chunk())))
        thread.start()
        thread.join()
        assert found == [b"two"] and two.chunk() is None and two.try_chunk() is None
        with pytest.raises(ValueError):
            two.view(0)

    run(work, {"one": b"one", "two": b"two"})


def test_a_limit_on_outputs():
    @dflow.function
    def work(out: dflow.Output):
        while True:
            out.write(bytes(10_000))

    with pytest.raises(dflow.Unread):
        run(work, limit=1 << 20)
