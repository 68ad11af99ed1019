"""Functions of dflow workflows in Python: streams read and written in shared memory.

The file `errors.py`, which must be executable (`chmod +x errors.py`)::

    #!/usr/bin/env python3
    import dflow

    @dflow.function
    def errors(lines: dflow.Input, out: dflow.Output):
        for line in lines.lines():
            if line.startswith(b"ERROR"):
                out.write(line + b"\\n")

    if __name__ == "__main__":
        dflow.serve(errors)

In the workflow file: `errors: { program: errors.py, inputs: { lines: inputs.log }, outputs: [out] }`.
"""

import os

from dflow import _dflow
from dflow._client import Report, Submission, run, submit
from dflow._dflow import Room, View
from dflow._errors import Busy, Ended, Error, InputError, OutputError, PortError, RunError, Unread
from dflow._function import Function, function, serve
from dflow._streams import Context, Input, Inputs, Output, Partition

__version__ = _dflow.__version__

__all__ = [
    "Busy",
    "Context",
    "Ended",
    "Error",
    "Function",
    "Input",
    "InputError",
    "Inputs",
    "Output",
    "OutputError",
    "Partition",
    "PortError",
    "Report",
    "Room",
    "RunError",
    "Submission",
    "Unread",
    "View",
    "function",
    "run",
    "serve",
    "submit",
]

# A forked process shares the streams of its parent and must not use them.
os.register_at_fork(after_in_child=_dflow._note_fork)
