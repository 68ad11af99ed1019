"""Runs workflows from Python, with the program `dflow`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import tty
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any

from dflow._errors import RunError

# The variable that names the program, where it is not in PATH.
PROGRAM = "DFLOW_PROGRAM"

# The most that is kept of what dflow prints, in characters.
_MAX_PRINTED = 256 * 1024

_PANEL = re.compile(r"\r(?:\x1b\[\d+A)?")
_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_Path = str | PathLike[str]


class Report:
    """A run that has succeeded."""

    def __init__(self, report: dict[str, Any]) -> None:
        # What `dflow run --format json` prints.
        self.report = report

    @property
    def seconds(self) -> float:
        """How long it took."""
        return float(self.report["duration_ns"] / 1e9)

    @property
    def outputs(self) -> dict[str, Path]:
        """The published files, by the names of the outputs. An output with parts is a directory."""
        outputs: dict[str, Path] = {}
        for output in self.report["outputs"]:
            outputs[output["name"]] = Path(output["path"])
        return outputs

    def read(self, name: str) -> bytes:
        """The bytes of an output that is one file."""
        return self.outputs[name].read_bytes()

    def __repr__(self) -> str:
        return f"<dflow.Report of '{self.report['workflow']}': {self.seconds:.2f} s>"


class Submission:
    """A run that is under way: wait() for it, or cancel() it. As a context manager, it cancels what has not ended."""

    def __init__(self, command: list[str], progress: bool | Callable[[str], object] | None, directory: _Path | None) -> None:
        self._printed = ""
        self._reader: threading.Thread | None = None
        self._report = tempfile.TemporaryFile()
        show = _shower(progress)
        inherits = progress is not False and show is None and _is_terminal()
        if inherits:
            stderr: int | None = None
        elif show is not None:
            ours, stderr = os.openpty()
            # Newlines as they are, and room for the panel: rows and columns.
            tty.setraw(stderr)
            termios.tcsetwinsize(stderr, (40, 100))
        else:
            ours, stderr = os.pipe()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._report, stderr=stderr, cwd=directory
            )
        except OSError as error:
            self._report.close()
            if not inherits:
                os.close(ours)
            raise RunError(f"cannot start '{command[0]}': {error}") from error
        finally:
            if stderr is not None:
                os.close(stderr)
        if not inherits:
            self._reader = threading.Thread(target=self._read, args=(ours, show), name="dflow-progress", daemon=True)
            self._reader.start()

    def _read(self, descriptor: int, show: Callable[[str], object] | None) -> None:
        """Reads what dflow prints, so that it never waits for that."""
        panel = ""
        with os.fdopen(descriptor, "rb", buffering=0) as source:
            while True:
                try:
                    data = source.read(65536)
                except OSError:
                    # A terminal whose other end is closed.
                    data = b""
                if not data:
                    return
                text = data.decode(errors="replace")
                if show is None:
                    self._printed = (self._printed + text)[-_MAX_PRINTED:]
                    continue
                panel = _PANEL.split((panel + text)[-_MAX_PRINTED:])[-1]
                clean = _CODE.sub("", panel).replace("\r", "").rstrip()
                if clean:
                    self._printed = clean
                    with contextlib.suppress(Exception):
                        show(clean)

    @property
    def pid(self) -> int:
        """The process of `dflow run`."""
        return self._process.pid

    def done(self) -> bool:
        """Whether the run has ended."""
        return self._process.poll() is not None

    def wait(self, timeout: float | None = None) -> Report:
        """Waits for the run, and gives its report; RunError says why it has failed. subprocess.TimeoutExpired if it takes
        longer than so many seconds. Ctrl-C cancels the run."""
        try:
            self._process.wait(timeout)
        except KeyboardInterrupt:
            self.cancel()
            self._process.wait()
            raise
        if self._reader is not None:
            self._reader.join()
        self._report.seek(0)
        text = self._report.read()
        try:
            report = json.loads(text)
        except ValueError:
            reason = self._printed.strip() or f"dflow has ended with {self._process.returncode}, and without a report"
            raise RunError(reason) from None
        if "state" not in report:
            # It has not begun; what dflow has printed says more than the report.
            raise RunError(self._printed.strip() or _reason(report), report)
        if report["state"] != "succeeded":
            raise RunError(_reason(report), report)
        return Report(report)

    def cancel(self) -> None:
        """Ends the run, as Ctrl-C does. wait() then raises RunError."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def __enter__(self) -> Submission:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if not self.done():
            self.cancel()
            self._process.wait()


def _reason(report: dict[str, Any]) -> str:
    error = report.get("error")
    if error is None:
        return f"the run was cancelled by {report.get('cancelled_by', 'a signal')}"
    instance = error.get("instance")
    return f"'{instance}': {error['reason']}" if instance else error["reason"]


def _is_terminal() -> bool:
    """Whether what dflow prints on standard error is seen where Python prints."""
    try:
        return sys.stderr.fileno() == 2 and os.isatty(2)
    except (AttributeError, OSError, ValueError):
        return False


def _shower(progress: bool | Callable[[str], object] | None) -> Callable[[str], object] | None:
    """What shows the progress, if that is not the terminal itself."""
    if callable(progress):
        return progress
    # In a notebook, sys.modules has IPython, and its shell has a kernel.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and progress is not False else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import DisplayHandle  # type: ignore[import-not-found]

    handle = DisplayHandle()
    handle.display({"text/plain": "starting"}, raw=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)


def _program(dflow: _Path | None) -> str:
    if dflow is not None:
        return fspath(dflow)
    found = os.environ.get(PROGRAM) or shutil.which("dflow")
    if not found:
        raise RunError(f"there is no program 'dflow' in PATH: install it there, set {PROGRAM}, or pass dflow='/path/to/dflow'")
    return found


def submit(
    file: _Path,
    inputs: Mapping[str, _Path | Sequence[_Path]] | None = None,
    outputs: _Path | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    options: Iterable[str] = (),
    directory: _Path | None = None,
    progress: bool | Callable[[str], object] | None = None,
    dflow: _Path | None = None,
) -> Submission:
    """Starts a run of a workflow file and returns at once.

    `inputs` are paths of files and directories by the names of the inputs; `outputs` is the directory for the outputs, by
    default `dflow-out/WORKFLOW`. `options` are further options of `dflow run`, such as `["--slots", "2"]`. The progress is
    shown in terminals and notebooks, unless `progress` is False; it may be a function that gets it as text.
    """
    command = [_program(dflow), "run", fspath(file), "--format", "json"]
    for name, paths in (inputs or {}).items():
        several = [paths] if isinstance(paths, str | PathLike) else list(paths)
        command += ["--input", *(f"{name}={fspath(path)}" for path in several)]
    for name, value in (params or {}).items():
        command += ["--param", f"{name}={_text(value)}"]
    if outputs is not None:
        command += ["--output", fspath(outputs)]
    if progress is False:
        command.append("--quiet")
    command += options
    return Submission(command, progress, directory)


def _text(value: Any) -> str:
    """A value as a workflow file writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def run(
    file: _Path,
    inputs: Mapping[str, _Path | Sequence[_Path]] | None = None,
    outputs: _Path | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    options: Iterable[str] = (),
    directory: _Path | None = None,
    progress: bool | Callable[[str], object] | None = None,
    dflow: _Path | None = None,
) -> Report:
    """Runs a workflow file and returns its report; RunError says why it has failed. The arguments are those of submit()."""
    started = submit(
        file, inputs, outputs, params, options=options, directory=directory, progress=progress, dflow=dflow
    )
    with started:
        return started.wait()
