"""Views: bytes in place, which stay for as long as anything refers to them, and not longer."""

import gc
import threading

import numpy
import pytest

import dflow
from dflow.testing import run

DATA = bytes(range(256)) * 4096


def test_a_view_is_the_stream_in_place_and_read_only():
    @dflow.function
    def work(data: dflow.Input):
        seen = b""
        for chunk in data:
            view = memoryview(chunk)
            assert view.readonly and view.format == "B" and view.c_contiguous
            assert len(chunk) == len(view) and chunk.offset == len(seen)
            with pytest.raises(TypeError):
                view[0] = 1
            with pytest.raises((BufferError, TypeError)):
                (ctypes_char * 1).from_buffer(chunk)
            seen += view
        assert seen == DATA

    import ctypes

    ctypes_char = ctypes.c_char
    run(work, {"data": DATA})


def test_a_view_cannot_be_released_while_a_buffer_of_it_exists():
    @dflow.function
    def work(data: dflow.Input):
        view = data.view(100)
        array = numpy.frombuffer(view, "u1")
        part = array[10:20]
        del array
        with pytest.raises(BufferError, match="1 buffers"):
            view.release()
        assert bytes(part) == DATA[10:20]
        del part
        view.release()
        view.release()
        assert view.released and len(view) == 100
        with pytest.raises(dflow.Ended, match="released"):
            memoryview(view)
        with pytest.raises(dflow.Ended, match="released"):
            bytes(view)
        with data.view(100) as second:
            assert second[0] == DATA[100] and second[1:3] == DATA[101:103]
        assert second.released

    run(work, {"data": DATA})


def test_slices_of_arrays_keep_the_bytes_alive_without_the_view():
    @dflow.function
    def work(data: dflow.Input):
        kept = []
        while (view := data.view(1000)) is not None:
            kept.append(numpy.frombuffer(view, "u1")[5:-5][::2])
            del view
        data.close()
        gc.collect()
        at = 0
        for array in kept:
            length = min(1000, len(DATA) - at)
            assert bytes(array) == DATA[at + 5 : at + length - 5 : 2]
            at += length

    run(work, {"data": DATA}, pieces=50_000)


def test_a_view_that_outlives_its_function_is_an_error_and_its_arrays_are_no_crash():
    kept = []

    @dflow.function
    def work(data: dflow.Input, out: dflow.Output):
        view = data.view(1 << 16)
        kept.extend([view, numpy.frombuffer(view, "u1"), memoryview(view)[3:], data, out])

    run(work, {"data": DATA})
    view, array, rest, data, out = kept
    with pytest.raises(dflow.Ended, match="has ended"):
        memoryview(view)
    with pytest.raises(dflow.Ended, match="has ended"):
        bytes(view)
    with pytest.raises(dflow.Ended, match="has ended"):
        data.chunk()
    with pytest.raises(dflow.Ended, match="has ended"):
        out.write(b"late")
    # What refers to the memory already can be read. The bytes mean nothing any more.
    assert array.sum() >= 0 and len(bytes(rest)) == len(array) - 3
    with pytest.raises(BufferError):
        view.release()
    del array, rest
    kept.clear()
    view.release()


def test_a_view_may_be_dropped_by_another_thread():
    @dflow.function
    def work(data: dflow.Input):
        total = 0
        while (view := data.view(10_000)) is not None:
            found = []
            thread = threading.Thread(target=lambda view: found.append(numpy.frombuffer(view, "u1").sum()), args=(view,))
            del view
            thread.start()
            thread.join()
            total += int(found[0])
        assert total == sum(DATA)

    run(work, {"data": DATA})


def test_one_view_over_everything():
    @dflow.function
    def work(data: dflow.Input):
        assert data.wait_for(5000) >= 5000
        early = data.so_far()
        assert data.wait_for() == len(DATA)
        whole = data.so_far()
        assert bytes(early) == DATA[: len(early)] and bytes(whole) == DATA

    run(work, {"data": DATA}, pieces=4096)


def test_elements_that_are_cut_are_put_together():
    numbers = numpy.arange(10_000, dtype="<f8")
    for pieces in (1, 3, 8, 13, 4096, None):
        @dflow.function
        def work(data: dflow.Input):
            found = [array.copy() for array in data.arrays("<f8")]
            assert numpy.array_equal(numpy.concatenate(found), numbers[: 500 if pieces == 1 else None])

        run(work, {"data": numbers[: 500 if pieces == 1 else None].tobytes()}, pieces=pieces)

    @dflow.function
    def cut(data: dflow.Input):
        list(data.arrays("<f8"))

    with pytest.raises(EOFError, match="within an element of 8 bytes"):
        run(cut, {"data": b"123456789"})


def test_the_same_view_many_times():
    """Counts of exports are kept when many threads export and release."""

    @dflow.function
    def work(data: dflow.Input):
        view = data.view(1000)

        def use():
            for _ in range(2000):
                assert numpy.frombuffer(view, "u1")[999] == DATA[999]

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        view.release()

    run(work, {"data": DATA})
