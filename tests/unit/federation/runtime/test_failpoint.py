"""A failpoint kills the process at the named passage, and at no other."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from federation.runtime.failpoint import failpoint, watch

_PROGRAM = """
from federation.runtime.failpoint import failpoint
for number in range(4):
    failpoint("a")
    failpoint("b")
    print(number, flush=True)
"""


def _run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("specification", "passed"), [("b:3", "0\n1\n"), ("b", ""), ("other:1,a:2", "0\n"), ("b:9", None)]
)
def test_the_process_dies_by_sigkill_at_the_hit(specification: str, passed: str | None) -> None:
    run = _run(FEDMQ_FAILPOINT=specification)
    if passed is None:
        assert (run.returncode, run.stdout) == (0, "0\n1\n2\n3\n")
    else:
        assert (run.returncode, run.stdout) == (-signal.SIGKILL, passed)


def test_once_means_that_the_restarted_process_survives(tmp_path: Path) -> None:
    once = str(tmp_path / "died")
    assert _run(FEDMQ_FAILPOINT="a:2", FEDMQ_FAILPOINT_ONCE=once).returncode == -signal.SIGKILL
    assert _run(FEDMQ_FAILPOINT="a:2", FEDMQ_FAILPOINT_ONCE=once).returncode == 0


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDMQ_FAILPOINT", raising=False)
    failpoint("anything")


def test_a_disk_fails_for_as_many_passages_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_FAILPOINT", "breaks here:2+3,other:9")
    said: list[tuple[int | None, bool] | None] = []
    for _ in range(6):
        try:
            failpoint("breaks here")
        except OSError as error:
            said.append((error.errno, "failpoint breaks here" in str(error)))
        else:
            said.append(None)
    assert said == [None, *[(errno.EIO, True)] * 3, None, None]


@pytest.mark.parametrize("specification", ["a:0", "a:x", ":1", "a:-1", "a:1+", "a:1+0", "a+1"])
def test_a_malformed_variable_is_an_error_and_not_a_silence(
    monkeypatch: pytest.MonkeyPatch, specification: str
) -> None:
    monkeypatch.setenv("FEDMQ_FAILPOINT", specification)
    with pytest.raises(ValueError, match="FEDMQ_FAILPOINT"):
        failpoint("a")


def test_a_watcher_in_the_same_process_hears_of_each_passage_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_FAILPOINT", "here:1+1")
    heard: list[str] = []
    watch(heard.append)
    failpoint("here")
    watch(None)
    assert heard == ["here"]
    with pytest.raises(OSError, match="failpoint here"):
        failpoint("here")
