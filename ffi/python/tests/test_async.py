"""Functions that are coroutines."""

import asyncio

import pytest

import dflow
from dflow.testing import record, run


def test_chunks_lines_and_records():
    @dflow.function
    async def work(data: dflow.Input, lines: dflow.Input, records: dflow.Input, out: dflow.Output):
        async for chunk in data:
            await out.awrite(chunk)
        async for line in lines.alines():
            await out.awrite(line + b";")
        async for each in records.arecords():
            await out.awrite(each + b".")
        assert await data.achunk() is None

    inputs = {"data": b"data ", "lines": b"a\nb", "records": record(b"c") + record(b"d")}
    for pieces in (1, None):
        assert run(work, inputs, pieces=pieces)["out"] == b"data a;b;c.d."


def test_an_asynchronous_generator_and_more_than_a_window():
    @dflow.function
    async def work(data: dflow.Input):
        async for chunk in data:
            yield bytes(chunk)

    data = bytes(range(256)) * 20_000
    assert run(work, {"data": data}, pieces=77_777)["out"] == data


def test_tasks_side_by_side():
    @dflow.function
    async def work(all: dflow.Inputs, any: dflow.Inputs, out: dflow.Output):
        async def size(stream):
            return sum([len(chunk) async for chunk in stream])

        sizes = await asyncio.gather(*[size(stream) async for stream in all])
        found = sum([len(view) async for _, view in any.aready()])
        return b"%d %d" % (sum(sizes), found)

    @dflow.function(output="result")
    async def named(all: dflow.Inputs, any: dflow.Inputs):
        return await work(all, any, None)

    streams = [bytes(1000 * number) for number in range(20)]
    assert run(named, {"all": streams, "any": streams}, pieces=999)["result"] == b"190000 190000"


def test_what_a_coroutine_raises():
    @dflow.function
    async def work(data: dflow.Input):
        await data.achunk()
        raise LookupError("within")

    with pytest.raises(LookupError, match="within"):
        run(work, {"data": b"x"})
