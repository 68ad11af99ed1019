"""Running workflows from Python."""

import pytest

import dflow

SLOW = """
workflow: slow
inputs: [text]
functions:
  work: { command: [sh, -c, "cat; exec sleep 60"], inputs: [inputs.text] }
outputs: { out: work.out }
"""

SORT = """
workflow: sort
inputs: [texts]
functions:
  work: { command: [sort, "${params.how}"], inputs: [inputs.texts] }
params: { how: -n }
outputs: { out: work.out }
"""


def test_a_run_and_its_report(tmp_path, program):
    (tmp_path / "sort.yaml").write_text(SORT)
    (tmp_path / "a").write_text("2\n10\n")
    (tmp_path / "b").write_text("1\n")
    texts = [tmp_path / "a", tmp_path / "b"]
    more = {"dflow": program, "options": ["--logs", "none"], "progress": False}
    report = dflow.run(tmp_path / "sort.yaml", {"texts": texts}, tmp_path / "out", **more)
    assert report.read("out") == b"1\n2\n10\n" and report.outputs["out"].parent == tmp_path / "out"
    assert report.seconds > 0 and report.report["workflow"] == "sort"
    report = dflow.run(tmp_path / "sort.yaml", {"texts": texts}, tmp_path / "other", {"how": "-r"}, **more)
    assert report.read("out") == b"2\n10\n1\n"


def test_errors_have_their_reason(tmp_path, program, monkeypatch):
    (tmp_path / "wrong.yaml").write_text("workflow: wrong\nfunctions: 7\n")
    with pytest.raises(dflow.RunError, match="wrong.yaml:2"):
        dflow.run(tmp_path / "wrong.yaml", dflow=program, progress=False)
    (tmp_path / "sort.yaml").write_text(SORT)
    (tmp_path / "a").write_text("1\n")
    with pytest.raises(dflow.RunError, match="'work'") as caught:
        dflow.run(
            tmp_path / "sort.yaml", {"texts": tmp_path / "a"}, tmp_path / "out", {"how": "--no-such-option"},
            dflow=program, progress=False, options=["--logs", "none"],
        )
    assert caught.value.report["state"] == "failed"
    with pytest.raises(dflow.RunError, match="cannot start"):
        dflow.run(tmp_path / "sort.yaml", dflow=tmp_path / "nothing")
    monkeypatch.delenv("DFLOW_PROGRAM")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(dflow.RunError, match="there is no program 'dflow' in PATH"):
        dflow.run(tmp_path / "sort.yaml")


def test_a_submission_is_cancelled_and_shows_its_progress(tmp_path, program):
    (tmp_path / "slow.yaml").write_text(SLOW)
    (tmp_path / "text").write_text("x")
    seen = []
    started = dflow.submit(
        tmp_path / "slow.yaml", {"text": tmp_path / "text"}, tmp_path / "out",
        dflow=program, options=["--logs", "none"], progress=seen.append,
    )
    with pytest.raises(Exception, match="timed out"):
        started.wait(timeout=1)
    assert not started.done()
    started.cancel()
    with pytest.raises(dflow.RunError):
        started.wait()
    assert started.done()
    assert any("slow" in text for text in seen), seen
    assert not any("\x1b" in text or "\r" in text for text in seen)


def test_a_submission_that_is_left_is_cancelled(tmp_path, program):
    (tmp_path / "slow.yaml").write_text(SLOW)
    (tmp_path / "text").write_text("x")
    with dflow.submit(
        tmp_path / "slow.yaml", {"text": tmp_path / "text"}, tmp_path / "out",
        dflow=program, options=["--logs", "none"], progress=False,
    ) as started:
        pass
    assert started.done()
