"""Functions that do what they should not: the run fails with the reason, or goes on, and the node is none the worse."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

import dflow

ONE = """
workflow: one
inputs: [text]
functions:
  work: { program: functions.py, inputs: { text: inputs.text }, outputs: [out], grace: 500ms }
outputs: { out: work.out }
"""

MAIN = """
if __name__ == "__main__":
    dflow.serve(work, other)

"""

OTHER = """
@dflow.function
def other():
    pass

"""


def functions(text):
    import textwrap

    return OTHER + textwrap.dedent(text) + MAIN


def test_an_exception_comes_back_with_its_traceback(workflow):
    with pytest.raises(dflow.RunError) as caught:
        workflow.run(
            ONE,
            functions("""
            def inner(value):
                raise ValueError(f"no good: {value}")

            @dflow.function
            def work(text: dflow.Input, out: dflow.Output):
                out.write(b"some")
                inner(text.read())
            """),
            {"text": b"x"},
        )
    reason = str(caught.value)
    assert reason.startswith("'work': ValueError: no good: b'x'"), reason
    assert re.search(r'functions.py", line \d+, in inner', reason) and "in work" in reason
    assert caught.value.report["state"] == "failed"
    assert not (workflow.directory / "out").exists()


def test_a_long_message_and_a_deep_traceback_are_cut(workflow):
    with pytest.raises(dflow.RunError) as caught:
        workflow.run(
            ONE,
            functions("""
            def deep(number):
                if number == 0:
                    raise RuntimeError("the bottom")
                exec(f"def step_{number}(): deep({number - 1})")
                locals()[f"step_{number}"]()

            @dflow.function
            def work(text: dflow.Input, out: dflow.Output):
                deep(300)
            """),
            {"text": b"x"},
        )
    assert str(caught.value).startswith("'work': RuntimeError: the bottom") and len(str(caught.value)) < 17_000


def test_a_crash_in_an_extension(workflow):
    with pytest.raises(dflow.RunError, match="'work': .*(SIGSEGV|signal 11|segmentation)"):
        workflow.run(
            ONE,
            functions("""
            @dflow.function
            def work(text: dflow.Input, out: dflow.Output):
                out.write(b"some")
                ctypes.string_at(0)
            """),
            {"text": b"x"},
        )


def test_an_exit(workflow):
    with pytest.raises(dflow.RunError, match=r"has called sys.exit\(3\)"):
        workflow.run(ONE, functions("""
            @dflow.function
            def work(text: dflow.Input, out: dflow.Output):
                sys.exit(3)
            """), {"text": b"x"})
    report = workflow.run(ONE, functions("""
            @dflow.function
            def work(text: dflow.Input, out: dflow.Output):
                out.write(b"done")
                sys.exit()
            """), {"text": b"x"})
    assert report.read("out") == b"done"


def test_forks(workflow):
    """Forked processes that use the streams, that return from the function, and that multiprocessing makes. The function
    itself goes on undisturbed."""
    report = workflow.run(
        ONE,
        functions("""
        import multiprocessing

        def double(number):
            return 2 * number

        @dflow.function
        def work(text: dflow.Input, out: dflow.Output):
            view = text.view(5)
            process = os.fork()
            if process == 0:
                status = 0
                for use in (text.chunk, lambda: out.write(b"x"), lambda: memoryview(view), lambda: out.reserve(1)):
                    try:
                        use()
                        status = 1
                    except dflow.Ended as error:
                        status |= "forked" not in str(error)
                del view
                os._exit(status)
            assert os.waitpid(process, 0)[1] == 0
            process = os.fork()
            if process == 0:
                return
            assert os.waitpid(process, 0)[1] == 0
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(double, range(100)) == [2 * number for number in range(100)]
            out.write(bytes(view) + text.read())
        """),
        {"text": b"one two three"},
    )
    assert report.read("out") == b"one two three"


def test_a_gigabyte_of_prints_leaves_a_bounded_log(workflow):
    workflow.run(
        ONE,
        functions("""
        @dflow.function
        def work(text: dflow.Input, out: dflow.Output):
            line = b"x" * 99 + b"\\n"
            for _ in range(1 << 10):
                os.write(2, line * 10_000)
            out.write(b"done")
        """),
        {"text": b"x"},
    )
    kept = sum(path.stat().st_size for path in (workflow.directory / "logs").rglob("*") if path.is_file())
    assert 0 < kept < 1 << 20


def test_a_function_that_ignores_sigterm_is_killed(workflow):
    started = time.monotonic()
    with pytest.raises(dflow.RunError, match="'work'"):
        workflow.run(
            ONE.replace("grace: 500ms", "grace: 500ms, timeout: 1s"),
            functions("""
            @dflow.function
            def work(text: dflow.Input, out: dflow.Output):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    pass
            """),
            {"text": b"x"},
        )
    assert time.monotonic() - started < 30


ALONE = """
import os, signal, sys
import dflow

class Stop(Exception):
    pass

@dflow.function
def work(text: dflow.Input, out: dflow.Output, how: str = ""):
    if how == "handler":
        def stop(*_):
            raise Stop("by a handler")
        signal.signal(signal.SIGUSR1, stop)
    out.write(b"waiting")
    while text.chunk() is not None:
        pass

@dflow.function
def full(text: dflow.Input, out: dflow.Output):
    out.write(b"waiting")
    while True:
        out.write(bytes(1 << 20))

@dflow.function
async def task(text: dflow.Input, out: dflow.Output):
    await out.awrite(b"waiting")
    async for chunk in text:
        pass

@dflow.function
def threads(text: dflow.Input, many: dflow.Inputs, out: dflow.Output):
    import threading
    ended = []
    def wait(call):
        try:
            call()
        except dflow.Ended:
            ended.append(call)
    calls = [text.chunk, lambda: [view for _, view in many.ready()]]
    waiting = [threading.Thread(target=wait, args=(call,)) for call in calls]
    for thread in waiting:
        thread.start()
    # They hold the inputs while they wait for them.
    for call in (text.try_chunk, many.count):
        while True:
            try:
                call()
            except dflow.Busy:
                break
            except BlockingIOError:
                pass
    out.write(b"done")
    def check():
        for thread in waiting:
            thread.join()
        os.write(2, b"%d have ended" % len(ended))
    threading.Thread(target=check).start()

if __name__ == "__main__":
    dflow.serve(work, full, task, threads)
"""


@pytest.mark.parametrize(
    ("function", "params", "number", "status", "text"),
    [
        ("work", [], signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
        ("full", [], signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
        ("task", [], signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
        ("work", ["--param", "how=handler"], signal.SIGUSR1, 1, "Stop: by a handler"),
        ("work", [], signal.SIGTERM, -signal.SIGTERM, ""),
    ],
)
def test_signals_end_waits(tmp_path, function, params, number, status, text):
    program = tmp_path / "alone.py"
    program.write_text(ALONE)
    call = [sys.executable, str(program), function, "--in", "text=-", "--out", "out=-", *params]
    process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(7) == b"waiting"
    # It is about to wait, or waits: both end.
    process.send_signal(number)
    # What it still writes is not read, so that one of the functions waits for room.
    error = process.stderr.read().decode()
    assert process.wait(timeout=30) == status, error
    assert text in error, error


def test_threads_that_wait_when_the_function_ends(tmp_path):
    program = tmp_path / "alone.py"
    program.write_text(ALONE)
    for name in ("one", "two"):
        os.mkfifo(tmp_path / name)
    # Their other ends stay open, and nothing comes.
    held = [os.open(tmp_path / name, os.O_RDWR) for name in ("one", "two")]
    call = [sys.executable, program, "threads", "--in", "text=-", "--in", "many=one", "--in", "many=two", "--out", "out=out"]
    process = subprocess.Popen(call, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    error = process.stderr.read().decode()
    assert process.wait(timeout=30) == 0, error
    assert (tmp_path / "out").read_bytes() == b"done" and "2 have ended" in error, error
    for descriptor in held:
        os.close(descriptor)


def test_a_function_alone(tmp_path):
    program = tmp_path / "alone.py"
    program.write_text(ALONE)
    (tmp_path / "x.txt").write_text("some text")

    def call(*arguments, status):
        done = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    assert "waiting" in call("work", "--in", "text=x.txt", "--out", "out=-", status=0)
    assert "must be one of: work, full, task, threads" in call("nothing", status=2)
    assert "must be one of" in call(status=2)
    assert "needs the input 'text'" in call("work", "--out", "out=-", status=1)
    assert "Usage: alone.py --in" in call("work", "--help", status=0)
    assert "is not one of its options" in call("work", "--wrong", status=2)
    # A reader that has seen enough is no failure.
    process = subprocess.Popen(
        [sys.executable, str(program), "full", "--in", "text=x.txt", "--out", "out=-"], stdout=subprocess.PIPE, cwd=tmp_path
    )
    assert os.read(process.stdout.fileno(), 7) == b"waiting"
    process.stdout.close()
    assert process.wait(timeout=30) == 0
