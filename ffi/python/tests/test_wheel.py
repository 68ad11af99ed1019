"""The wheel, as users get it."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest


@pytest.fixture(scope="module")
def wheel():
    folder = os.environ.get("DFLOW_WHEELS")
    found = list(pathlib.Path(folder).glob("dflow-*.whl")) if folder else []
    assert len(found) == 1, "DFLOW_WHEELS must be the directory of the wheel: run scripts/test --only python"
    return found[0]


def pip(*arguments, python=sys.executable):
    call = [python, "-m", "pip", "--isolated", "--disable-pip-version-check", *arguments]
    return subprocess.run(call, capture_output=True, text=True)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_one_wheel_for_all_versions_from_3_11(wheel, tmp_path, version):
    """pip chooses it for each of them. That it works there follows from the stable interface that it is built for."""
    options = ["--no-index", "--no-deps", "--only-binary", ":all:", "--find-links", str(wheel.parent), "--dest", str(tmp_path)]
    platform = wheel.stem.split("-")[-1]
    done = pip("download", "dflow", *options, "--python-version", version, "--platform", platform)
    assert done.returncode == 0, done.stderr


def test_another_python_is_refused_with_a_reason(wheel, tmp_path):
    done = pip("install", "--target", str(tmp_path), "--no-deps", "--python-version", "3.10", "--only-binary", ":all:", str(wheel))
    assert done.returncode != 0 and "is not a supported wheel" in done.stderr, done.stderr


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_it_works_in_other_versions(wheel, tmp_path, version):
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "--version"], capture_output=True).returncode != 0:
        pytest.skip(f"there is no Python {version}")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    program = """
import dflow
from dflow.testing import run

@dflow.function
async def work(data: dflow.Input, out: dflow.Output):
    room = out.reserve(3)
    with memoryview(room) as view:
        view[:3] = b"in "
    room.commit(3)
    async for chunk in data:
        await out.awrite(memoryview(chunk))

assert run(work, {"data": b"place"})["out"] == b"in place"
"""
    done = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "dflow/_dflow.abi3.so" in names and "dflow/py.typed" in names and "dflow/_dflow.pyi" in names
    assert not [name for name in names if "test_" in name or name.endswith(".rs")]


def test_the_stable_interface_only(wheel, tmp_path):
    """The extension asks for no function that another version of Python may not have."""
    with zipfile.ZipFile(wheel) as file:
        path = file.extract("dflow/_dflow.abi3.so", tmp_path)
    symbols = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1] for line in symbols.splitlines()}
    assert "PyObject_GetBuffer" in names
    assert not [name for name in names if name.startswith("_Py") and name not in ("_Py_NoneStruct", "_Py_TrueStruct",
                "_Py_FalseStruct", "_Py_Dealloc", "_Py_IncRef", "_Py_DecRef", "_Py_NotImplementedStruct", "_Py_EllipsisObject")]


def test_pip_install_and_five_lines_are_a_function(wheel, tmp_path):
    """The example of the main README."""
    readme = pathlib.Path(__file__).parents[3] / "README.md"
    section = readme.read_text().split("## A function in Python")[1]
    program = section.split("```python\n")[1].split("```")[0]
    assert len(program.split("\n\n")[0].splitlines()) <= 6
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python3"
    done = pip("install", "--no-index", str(wheel), python=str(python))
    assert done.returncode == 0, done.stderr
    (tmp_path / "errors.py").write_text(program)
    (tmp_path / "log").write_bytes(b"ERROR one\nfine\nERROR two\n")
    done = subprocess.run(
        [python, tmp_path / "errors.py", "--in", f"lines={tmp_path / 'log'}", "--out", "out=-"], capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"ERROR one\nERROR two\n"), done.stderr
