"""What a decorated function gets for its arguments, and what becomes of what it returns and raises."""

import decimal
import pathlib
from typing import Optional

import pytest

import dflow
from dflow.testing import run


def test_parameters_have_the_types_of_their_arguments():
    @dflow.function
    def work(
        text,
        count: int,
        share: float = 0.5,
        loud: bool = False,
        exact: Optional[decimal.Decimal] = None,
        path: pathlib.Path | None = None,
        left: int = 7,
    ):
        assert (text, count, share, loud, left) == ("a text", -3, 1.5, True, 7)
        assert exact == decimal.Decimal("0.1") and path == pathlib.Path("x/y")

    params = {"text": "a text", "count": -3, "share": "1.5", "loud": True, "exact": "0.1", "path": "x/y"}
    run(work, params=params)
    for name, value, reason in (
        ("count", "many", "'count' has the value 'many'"),
        ("loud", "perhaps", "neither true nor false"),
        ("exact", "x", "'exact' has the value 'x'"),
    ):
        with pytest.raises(ValueError, match=reason):
            run(work, params=params | {name: value})
    del params["count"]
    with pytest.raises(dflow.PortError, match="needs the parameter 'count'"):
        run(work, params=params)
    with pytest.raises(dflow.PortError, match="did you mean 'coutn'"):
        run(work, params=params | {"coutn": 3})


def test_names_that_are_none_in_python():
    @dflow.function(names={"old": "old-lines"})
    def work(in_: dflow.Input, old: dflow.Input, out: dflow.Output):
        out.write(in_.read() + old.read())

    assert run(work, {"in": b"a", "old-lines": b"b"})["out"] == b"ab"


def test_the_context():
    @dflow.function
    def work(context: dflow.Context):
        assert (context.part, context.part_file, context.attempt) == (3, pathlib.Path("a.fq"), 2)
        assert context.instance == "test" and context.param("x") == "1" and context.param("none") is None
        context.output("out").write(context.input("in").read())
        with pytest.raises(dflow.PortError, match="already been taken"):
            context.input("in")
        with pytest.raises(dflow.PortError, match="no input 'other'"):
            context.input("other")
        with pytest.raises(LookupError, match="list of streams"):
            context.input("many")

    result = run(work, {"in": b"x", "many": [b"", b""]}, {"x": 1}, part=3, part_file="a.fq", attempt=2)
    assert result["out"] == b"x"


def test_what_is_returned_or_yielded_is_written():
    @dflow.function
    def returned(data: dflow.Input):
        return data.read() * 2

    @dflow.function
    def yielded(data: dflow.Input):
        for line in data.lines():
            yield line
            yield bytearray(b";")

    @dflow.function(output="table")
    def named(out: dflow.Output):
        out.write(b"x")
        yield b"y"

    @dflow.function
    def wrong():
        yield "text"

    assert run(returned, {"data": b"ab"})["out"] == b"abab"
    assert run(yielded, {"data": b"a\nb"})["out"] == b"a;b;"
    assert dict(run(named)) == {"out": b"x", "table": b"y"}
    with pytest.raises(TypeError, match="encode it"):
        run(wrong)


def test_a_generator_is_closed_when_its_output_has_no_reader():
    closed = []

    @dflow.function
    def endless():
        try:
            while True:
                yield bytes(10_000)
        finally:
            closed.append(True)

    with pytest.raises(BrokenPipeError):
        run(endless, limit=100_000)
    assert closed == [True]


def test_what_is_raised_is_raised():
    class Mine(Exception):
        pass

    @dflow.function
    def work(data: dflow.Input):
        data.read()
        raise Mine("of my own")

    with pytest.raises(Mine, match="of my own") as caught:
        run(work, {"data": b""})
    assert caught.traceback[-1].name == "work"


def test_it_can_be_called_as_it_is():
    @dflow.function
    def double(x, y=2):
        """Doubles."""
        return x * y

    assert double(4) == 8 and double(4, y=3) == 12
    assert double.__name__ == "double" and double.__doc__ == "Doubles."


def test_wrong_uses():
    with pytest.raises(TypeError, match="decorated"):
        run(lambda: None)
    with pytest.raises(TypeError, match="decorated"):
        dflow.serve(print)
    with pytest.raises(TypeError, match="decorated"):
        dflow.serve()

    @dflow.function
    def many(*streams: dflow.Input):
        pass

    with pytest.raises(TypeError, match="by name"):
        run(many)
    with pytest.raises(ValueError, match="at least one byte"):
        run(many, pieces=0)
