"""Python functions in real runs."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy
import pytest

import dflow

pytestmark = pytest.mark.usefixtures("program")


def test_a_chain_streams_in_both_directions(workflow):
    """The first function goes on only when it has heard of the last one's answer: all three work at the same time."""
    report = workflow.run(
        """
        workflow: chain
        inputs: [text]
        functions:
          ask: { program: functions.py, inputs: { text: inputs.text }, outputs: [words] }
          shout: { program: functions.py, inputs: { words: ask.words }, outputs: [words] }
          answer: { program: functions.py, inputs: { words: shout.words }, outputs: [out], params: { path: "${params.path}" } }
        params: { path: null }
        outputs: { out: answer.out }
        """,
        """
        @dflow.function
        def ask(text: dflow.Input, words: dflow.Output):
            for line in text.lines():
                words.record(line)
            # Nothing more until the last function has read this.
            while not os.path.exists("answered"):
                words.record(b"are you there?")

        @dflow.function(output="words")
        async def shout(words: dflow.Input):
            async for word in words.arecords():
                yield len(word).to_bytes(4, "little") + word.upper()

        @dflow.function
        def answer(words: dflow.Input, out: dflow.Output, path: str):
            first = next(words.records())
            open(path, "w").close()
            out.write(first)

        if __name__ == "__main__":
            dflow.serve(ask, shout, answer)
        """,
        {"text": b"hello\n"},
        params={"path": "answered"},
    )
    assert report.read("out") == b"HELLO"


def test_zero_copy_broadcast_of_arrays_in_place(workflow):
    """64 MiB of numbers, written in place and read in place by three readers, one of which keeps everything."""
    report = workflow.run(
        """
        workflow: broadcast
        functions:
          write: { program: functions.py, outputs: [numbers] }
          one: { program: functions.py, inputs: { numbers: write.numbers }, outputs: [out] }
          two: { program: functions.py, inputs: { numbers: write.numbers }, outputs: [out] }
          all: { program: functions.py, inputs: { numbers: { from: write.numbers, keep: true } }, outputs: [out] }
        outputs: { one: one.out, two: two.out, all: all.out }
        """,
        """
        import numpy

        COUNT, BATCH = 8 << 20, 1 << 16

        @dflow.function
        def write(numbers: dflow.Output):
            for start in range(0, COUNT, BATCH):
                room = numbers.reserve(BATCH * 8)
                numpy.frombuffer(room, "<i8", BATCH)[:] = numpy.arange(start, start + BATCH)
                room.commit(BATCH * 8)

        def add(numbers):
            copies = 0
            total = 0
            for chunk in numbers:
                copies += chunk.is_copy
                array = numpy.frombuffer(chunk, "u1")
                total += int(array[::8].size)
            return f"{total} {copies}".encode()

        @dflow.function
        def one(numbers: dflow.Input):
            return add(numbers)

        @dflow.function
        def two(numbers: dflow.Input):
            return add(numbers)

        @dflow.function
        def all(numbers: dflow.Input):
            numbers.wait_for()
            array = numpy.frombuffer(numbers.so_far(), "<i8")
            assert array[-1] == COUNT - 1
            return str(int(array.sum())).encode()

        if __name__ == "__main__":
            dflow.serve(write, one, two, all)
        """,
    )
    count = 8 << 20
    assert report.read("all") == str(count * (count - 1) // 2).encode()
    for name in ("one", "two"):
        total, copies = map(int, report.read(name).split())
        assert total >= count and copies == 0


def test_a_view_that_is_kept_for_ever_does_not_stop_the_run(workflow):
    report = workflow.run(
        """
        workflow: keeper
        functions:
          write: { command: [head, -c, "100000000", /dev/zero] }
          keep: { program: functions.py, inputs: { data: write.out }, outputs: [out] }
        outputs: { out: keep.out }
        """,
        """
        kept = []

        @dflow.function
        def keep(data: dflow.Input):
            for chunk in data:
                kept.append(memoryview(chunk))
            return b"%d" % sum(map(len, kept))

        if __name__ == "__main__":
            dflow.serve(keep)
        """,
        options=["--memory", "64MiB"],
    )
    assert report.read("out") == b"100000000"


def test_arrow_between_functions_is_not_copied(workflow):
    pytest.importorskip("pyarrow")
    report = workflow.run(
        """
        workflow: arrow
        functions:
          write: { program: functions.py, outputs: [table] }
          read: { program: functions.py, inputs: { table: write.table }, outputs: [out] }
        outputs: { out: read.out }
        """,
        """
        import numpy, pyarrow
        import dflow._arrow

        ROWS, BATCHES = 10_000, 200

        @dflow.function
        def write(table: dflow.Output):
            with table.arrow(pyarrow.schema({"number": pyarrow.int64()})) as sink:
                for start in range(BATCHES):
                    numbers = numpy.arange(start * ROWS, (start + 1) * ROWS)
                    sink.write(pyarrow.record_batch({"number": numbers}))

        @dflow.function
        def read(table: dflow.Input):
            copied = []
            whole = dflow._arrow._Source.read

            def counted(self, size=-1):
                found = whole(self, size)
                if isinstance(found, bytes) and size > dflow._arrow._SHORT:
                    copied.append(len(found))
                return found

            dflow._arrow._Source.read = counted
            total = sum(int(numpy.sum(batch["number"].to_numpy())) for batch in table.batches())
            assert total == (ROWS * BATCHES) * (ROWS * BATCHES - 1) // 2, total
            return b"%d" % (100 * sum(copied) // (8 * ROWS * BATCHES))

        if __name__ == "__main__":
            dflow.serve(write, read)
        """,
    )
    assert int(report.read("out")) < 25, "percent that were copied because a message was in two pieces"


def test_shapes(workflow):
    """Parts that are discovered, a foreach over them, and a fan-in of the results."""
    report = workflow.run(
        """
        workflow: shapes
        inputs: [text]
        functions:
          split: { program: functions.py, inputs: { text: inputs.text }, outputs: { parts: { partition: discovered } } }
          count: { program: functions.py, foreach: split.parts, outputs: [size] }
          merge: { program: functions.py, inputs: { sizes: count.size }, outputs: [out] }
        outputs: { out: merge.out }
        """,
        """
        @dflow.function
        def split(text: dflow.Input, parts: dflow.Partition):
            for line in text.lines():
                part = parts.open()
                part.write(line)
                part.finish()

        @dflow.function
        def count(context: dflow.Context, part: dflow.Input):
            return b"%d:%d" % (context.part, len(part.read()))

        @dflow.function
        def merge(sizes: dflow.Inputs):
            return b" ".join(stream.read() for stream in sizes)

        if __name__ == "__main__":
            dflow.serve(split, count, merge)
        """,
        {"text": b"a\nbb\n\ncccc\n"},
    )
    assert report.read("out") == b"0:1 1:2 2:0 3:4"


def test_a_retry_and_a_reader_that_has_seen_enough(workflow):
    report = workflow.run(
        """
        workflow: retry
        functions:
          write: { program: functions.py, outputs: [out], retries: 1 }
          head: { command: [head, -c, "10"], inputs: [write.out] }
        outputs: { out: head.out }
        """,
        """
        @dflow.function
        def write(context: dflow.Context, out: dflow.Output):
            if context.attempt == 1:
                raise RuntimeError("the first attempt")
            while True:
                out.write(b"0123456789" * 1000)

        if __name__ == "__main__":
            dflow.serve(write)
        """,
    )
    assert report.read("out") == b"0123456789"


def test_the_climate_in_five_languages(workflow):
    """Rust, C, C++, Fortran and Python in one workflow. DFLOW_CLIMATE has the programs."""
    programs = os.environ.get("DFLOW_CLIMATE")
    assert programs, "DFLOW_CLIMATE must be the directory of the example's programs: run scripts/test --only python"
    example = pathlib.Path(__file__).parents[3] / "functions/examples/climate"
    for file in ("climate.yaml", "summary.py"):
        shutil.copy(example / file, workflow.directory)
    for name in ("climate-parse", "climate-smooth", "climate-histogram", "climate-report"):
        (workflow.directory / name).symlink_to(pathlib.Path(programs) / name)
    generator = numpy.random.default_rng(1)
    values = generator.integers(-200, 400, 200_000) / 10
    readings = workflow.write("readings", "".join(f"Station {at % 413};{value:.1f}\n" for at, value in enumerate(values)))
    python = str(pathlib.Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{python}:{os.environ['PATH']}"}
    subprocess.run(
        [workflow.program, "run", "climate.yaml", "--input", f"readings={readings}", "--output", "out", "--logs", "logs"],
        cwd=workflow.directory, env=environment, check=True, capture_output=True,
    )
    report = (workflow.directory / "out" / "report").read_text().splitlines()

    # The same in the plainest way.
    smooth = [sum(values[max(0, at - 4) : at + 1].tolist()) / min(at + 1, 5) for at in range(len(values))]
    degrees, counts = numpy.unique(numpy.floor(smooth).astype(int), return_counts=True)
    expected = [f"count {len(values)}", f"least {min(smooth):.3f}", f"most {max(smooth):.3f}"]
    assert report[:3] == expected
    found = [(int(line.split()[0]), int(line.split()[-1])) for line in report[3:]]
    assert found == list(zip(degrees.tolist(), counts.tolist(), strict=True))
