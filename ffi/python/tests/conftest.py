"""What the tests share: real runs of workflows, with functions in files beside them."""

import os
import sys
import textwrap

import pytest

import dflow


@pytest.fixture(scope="session")
def program():
    """The program dflow, which scripts/test names."""
    path = os.environ.get("DFLOW_PROGRAM")
    assert path and os.access(path, os.X_OK), "DFLOW_PROGRAM must be the program dflow: run scripts/test --only python"
    return path


class Workflow:
    """A workflow with Python functions, in a directory of its own."""

    def __init__(self, directory, program):
        self.directory = directory
        self.program = program

    def write(self, name, text):
        path = self.directory / name
        if isinstance(text, bytes):
            path.write_bytes(text)
        else:
            path.write_text(textwrap.dedent(text))
        return path

    def run(self, workflow, functions="", inputs=None, **more):
        """Runs a workflow whose functions in Python are those in `functions`."""
        self.write("workflow.yaml", workflow)
        head = f"#!{sys.executable}\nimport dflow\nimport os, sys, time, signal, ctypes\n"
        self.write("functions.py", head + textwrap.dedent(functions)).chmod(0o755)
        paths = {name: self.write(f"input-{name}", data) for name, data in (inputs or {}).items()}
        options = ["--logs", str(self.directory / "logs"), *more.pop("options", [])]
        more.setdefault("progress", False)
        return dflow.run(
            self.directory / "workflow.yaml",
            paths,
            self.directory / "out",
            dflow=self.program,
            options=options,
            directory=self.directory,
            **more,
        )


@pytest.fixture
def workflow(tmp_path, program):
    return Workflow(tmp_path, program)
