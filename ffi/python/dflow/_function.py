"""Functions: what a decorated function gets, and how a program serves it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import signal
import sys
import threading
import traceback
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterator, Sequence
from typing import Any, NoReturn, overload

from dflow import _dflow
from dflow._errors import PortError, Unread, describe
from dflow._streams import Context, Input, Inputs, Output, Partition

# The environment variable by which dflow tells a program that it is one of its functions.
SOCKET = "DFLOW_SOCKET"


class Function:
    """A Python function as a function of workflows: `@dflow.function`. It can be called like any other function, too."""

    __name__: str

    def __init__(self, work: Callable[..., Any], output: str | None, names: dict[str, str]) -> None:
        functools.update_wrapper(self, work)
        self._work = work
        self._output = output
        self._names = names

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._work(*arguments, **named)

    def run(self, context: Context) -> None:
        """Runs it in this context: takes the inputs, outputs and parameters that its arguments name."""
        taken: set[str] = set()
        result = self._work(**self._arguments(context, taken))
        if inspect.iscoroutine(result) or isinstance(result, AsyncIterable):
            asyncio.run(self._finish_async(context, result, taken))
        else:
            self._finish(context, result, taken)

    def _finish(self, context: Context, result: Any, taken: set[str]) -> None:
        """Writes what the function returns or yields."""
        if result is None:
            return
        output = context.output(self._target(context, taken))
        if isinstance(result, Generator):
            # Its `finally` runs now, and not when somebody collects it.
            with contextlib.closing(result):
                output.writelines(result)
        elif isinstance(result, Iterator):
            output.writelines(result)
        else:
            output.write(result)

    async def _finish_async(self, context: Context, result: Any, taken: set[str]) -> None:
        if inspect.iscoroutine(result):
            self._finish(context, await result, taken)
            return
        output = context.output(self._target(context, taken))
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(result, AsyncGenerator):
                stack.push_async_callback(result.aclose)
            async for item in result:
                await output.awrite(item)

    def _target(self, context: Context, taken: set[str]) -> str:
        """The name of the output for what the function returns or yields."""
        if self._output is not None:
            return self._output
        free = [name for name in context._core.output_names() if name not in taken]
        if len(free) > 1:
            raise PortError(
                f"'{self.__name__}' returns or yields bytes, and has the outputs {', '.join(free)}: "
                "say which, as in @dflow.function(output='NAME')"
            )
        return free[0] if free else "out"

    def _arguments(self, context: Context, taken: set[str]) -> dict[str, Any]:
        hints = typing.get_type_hints(self._work)
        arguments: dict[str, Any] = {}
        for parameter in inspect.signature(self._work).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(f"'{self.__name__}' cannot have the argument '{parameter}': dflow gives them by name")
            name = self._names.get(parameter.name, parameter.name.rstrip("_"))
            hint = hints.get(parameter.name, str)
            if hint is Context:
                arguments[parameter.name] = context
            elif hint is Input:
                arguments[parameter.name] = context.input(name)
            elif hint is Inputs:
                arguments[parameter.name] = context.inputs(name)
            elif hint is Output:
                arguments[parameter.name] = context.output(name)
                taken.add(name)
            elif hint is Partition:
                arguments[parameter.name] = context.partition(name)
                taken.add(name)
            elif typing.get_origin(hint) is list and typing.get_args(hint) == (Output,):
                arguments[parameter.name] = context.outputs(name)
                taken.add(name)
            elif (text := context.param(name)) is not None:
                arguments[parameter.name] = _value(name, text, hint)
            elif parameter.default is parameter.empty:
                raise PortError(
                    f"'{self.__name__}' needs the parameter '{name}'; if that is an input or an output, "
                    f"write '{parameter.name}: dflow.Input' or '{parameter.name}: dflow.Output'"
                )
        return arguments


def _value(name: str, text: str, hint: Any) -> Any:
    """The value of a parameter."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next((kind for kind in typing.get_args(hint) if kind is not types.NoneType), str)
    if hint is bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.strip().lower() not in known:
            raise ValueError(f"the parameter '{name}' has the value '{text}', which is neither true nor false")
        return known[text.strip().lower()]
    if hint in (str, Any):
        return text
    try:
        return hint(text)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"the parameter '{name}' has the value '{text}': {error}") from error


@overload
def function(work: Callable[..., Any], /) -> Function: ...
@overload
def function(
    *, output: str | None = None, names: dict[str, str] | None = None
) -> Callable[[Callable[..., Any]], Function]: ...
def function(
    work: Callable[..., Any] | None = None, /, *, output: str | None = None, names: dict[str, str] | None = None
) -> Function | Callable[[Callable[..., Any]], Function]:
    """Makes a Python function a function of workflows.

    Its arguments say by their types what they are: Input, Inputs, Output, list[Output] (the parts of an output), Partition,
    or Context; every other one is a parameter of the function in the workflow file, converted to its type (str, int, float,
    bool, or anything that is made from a text). They are named as in the workflow file; an underscore at the end is left out
    (`in_`), and `names` maps those that are no names in Python.

    Bytes that it returns, or yields one after the other, are written to its output; `output` says to which if it has several.
    It may be a coroutine or an asynchronous generator.
    """
    if work is not None:
        return Function(work, None, {})
    return lambda work: Function(work, output, dict(names or {}))


@contextlib.contextmanager
def _signals(context: _dflow.Context) -> Iterator[None]:
    """Lets signals, such as that of Ctrl-C, end the waits of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(theirs, False)
    before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    try:
        context._watch_signals(ours)
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(theirs)
        if not _dflow._is_forked():
            context._unwatch_signals()


class Runner:
    """Runs a function for the core, and keeps what it has raised."""

    def __init__(self, *works: Function, alone: bool = False) -> None:
        self._works = works
        self._alone = alone
        self.raised: BaseException | None = None

    def _work(self, context: Context) -> Function:
        """The function that the workflow names, if the program has several."""
        if len(self._works) == 1:
            return self._works[0]
        wanted = context.instance.split("[")[0]
        for work in self._works:
            if work.__name__ in (wanted, wanted.replace("-", "_")):
                return work
        known = ", ".join(work.__name__ for work in self._works)
        raise PortError(
            f"the program has no function '{wanted}', as this one is called in the workflow file; it has: {known}"
        )

    def __call__(self, core: _dflow.Context) -> tuple[str, bool] | None:
        process = os.getpid()
        try:
            with _signals(core):
                context = Context(core)
                self._work(context).run(context)
            failure = None
        except SystemExit as stop:
            failure = None if stop.code in (None, 0) else (f"the function has called sys.exit({stop.code!r})", False)
        except BaseException as error:
            self.raised = error
            failure = (describe(error), isinstance(error, Unread))
        if os.getpid() != process:
            # A forked process that gets here must not speak for the function.
            _leave(1 if failure else 0)
        if self._alone:
            _end_by_signals(self.raised)
        return failure


def _end_by_signals(raised: BaseException | None) -> None:
    """What is left to be done is done by the core, which runs no handlers: it may wait for the reader of a pipe. So Ctrl-C
    ends the process from now on, and one that has come ends it now."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if isinstance(raised, KeyboardInterrupt):
        traceback.print_exception(raised)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _leave(status: int) -> NoReturn:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def serve(*functions: Function, arguments: Sequence[str] | None = None) -> NoReturn:
    """Serves a function and ends the program: call it from the main program.

    Under dflow, the program works for the run that has started it; of several functions, the one with the name that it has in
    the workflow file is served. Started by hand, it runs alone on the files that its arguments name:
    `./top.py --in lines=x.txt --out table=-`; `--help` says how. With several functions, the first argument is the name of one.
    """
    arguments = list(sys.argv if arguments is None else arguments)
    if not functions or not all(isinstance(each, Function) for each in functions):
        raise TypeError("dflow.serve needs functions that are decorated with @dflow.function")
    alone = SOCKET not in os.environ
    runner = Runner(*functions, alone=alone)
    if len(functions) > 1 and alone:
        named = {each.__name__: each for each in functions}
        if len(arguments) < 2 or arguments[1] not in named:
            print(f"{arguments[0]}: the first argument must be one of: {', '.join(named)}", file=sys.stderr)
            sys.exit(2)
        runner = Runner(named[arguments.pop(1)], alone=True)
    sys.exit(_dflow._serve(runner, arguments))
