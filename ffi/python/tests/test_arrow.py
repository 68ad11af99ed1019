"""Arrow IPC over streams."""

import numpy
import pytest

import dflow
from dflow.testing import run

pyarrow = pytest.importorskip("pyarrow")

TABLE = pyarrow.table({"number": numpy.arange(100_000), "text": [f"row {row}" for row in range(100_000)]})


def written(table=TABLE, rows=10_000):
    @dflow.function
    def write(out: dflow.Output):
        with out.arrow(table.schema) as sink:
            for batch in table.to_batches(max_chunksize=rows):
                sink.write(batch)

    return run(write)["out"]


def test_the_stream_is_that_of_pyarrow():
    with pyarrow.ipc.open_stream(written()) as reader:
        assert reader.read_all().equals(TABLE)


def test_batches_however_they_are_cut():
    @dflow.function
    def read(data: dflow.Input):
        assert pyarrow.Table.from_batches(data.batches()).equals(TABLE)

    data = written()
    for pieces in (1000, 99_991, None):
        run(read, {"data": data}, pieces=pieces)


def test_the_reader_knows_the_schema_and_tables_are_written_whole():
    @dflow.function
    def copy(data: dflow.Input, out: dflow.Output):
        reader = data.arrow()
        assert reader.schema.equals(TABLE.schema)
        with out.arrow(reader.schema) as sink:
            sink.write(reader.read_all())
        out.write(b"behind")

    result = run(copy, {"data": written()})["out"]
    assert result.endswith(b"behind")
    with pyarrow.ipc.open_stream(result) as reader:
        assert reader.read_all().equals(TABLE)


def test_no_arrow_in_the_stream():
    @dflow.function
    def read(data: dflow.Input):
        list(data.batches())

    for data in (b"this is no arrow stream, but a text", written()[:-5000]):
        with pytest.raises((pyarrow.ArrowInvalid, OSError)):
            run(read, {"data": data})


def test_an_error_within_leaves_no_end_of_stream():
    @dflow.function
    def work(out: dflow.Output):
        with out.arrow(TABLE.schema) as sink:
            sink.write(TABLE)
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        run(work)
