"""The release before, built from its commit: its nodes here, its coordinator with nodes of this one, its stores.

`make test-upgrade` builds it (deploy/previous_release.sh) and names its environment by FEDMQ_PREVIOUS.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from federation.runtime.local_broker import LocalBroker, free_port

PREVIOUS = Path(os.environ.get("FEDMQ_PREVIOUS", "nowhere")).absolute()
pytestmark = [
    pytest.mark.upgrade,
    pytest.mark.broker,
    pytest.mark.cold,
    pytest.mark.slow,
    pytest.mark.skipif(not PREVIOUS.is_dir(), reason="FEDMQ_PREVIOUS names no release: make test-upgrade builds it"),
]
LIMIT_S = 60.0
LEAVES = "--exit-when-finished"
SETTINGS = """
[federation]
id = "plant"
[broker]
url = "{url}"
[task]
name = "quadratic-400"
[round]
concurrency = 2
buffer = 2
versions = {versions}
exit_when_finished = true
[evaluation]
every = 0
[store]
folder = "{{here}}/state"
"""


@dataclass(slots=True)
class Release:
    """The programs of one release, and those of them that run; never in a folder where sources of another one lie."""

    folder: Path
    home: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def program(self, words: Sequence[str]) -> list[str]:
        return [str(self.folder / words[0]), *words[1:]]

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            self.program(words), capture_output=True, text=True, cwd=self.home, timeout=LIMIT_S, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.program(words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.home,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def node(self, url: str, name: str, state: Path, *more: str) -> subprocess.Popen[str]:
        common = ["--broker", url, "--federation", "plant", "--task", "quadratic-400", *more]
        return self.start("edge-node", "run", *common, "--id", name, "--state", str(state))

    def stop(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=20)
            process.kill()
            process.communicate()
        self.running.clear()


def finished(process: subprocess.Popen[str]) -> str:
    """What a process has said that ended by itself and in order."""
    try:
        said, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise AssertionError((error.output or b"").decode()[-3000:]) from None
    assert process.returncode == 0, said
    return said


@pytest.fixture
def before(tmp_path: Path) -> Iterator[Release]:
    release = Release(PREVIOUS / "bin", tmp_path)
    yield release
    release.stop()


@pytest.fixture
def now(tmp_path: Path) -> Iterator[Release]:
    release = Release(Path(sys.executable).parent, tmp_path)
    yield release
    release.stop()


def settings(folder: Path, url: str, versions: int) -> Path:
    file = folder / "coordinator.toml"
    file.write_text(SETTINGS.format(url=url, versions=versions))
    return file


def rows(release: Release, file: Path) -> dict[str, int]:
    """How many updates of each node were applied."""
    status = json.loads(release.run("coordinator", "status", "--config", str(file), "--json"))
    return {row["id"]: row["updates_applied"] for row in status["nodes"]}


def audited(now: Release, file: Path, *states: Path) -> None:
    nodes = [word for state in states for word in ("--node", str(state))]
    now.run("coordinator", "audit", "--config", str(file), *nodes)


def test_nodes_of_the_release_before_train_with_this_coordinator(
    broker: LocalBroker, tmp_path: Path, before: Release, now: Release
) -> None:
    file = settings(tmp_path, broker.url, 5)
    coordinator = now.start("coordinator", "run", "--config", str(file))
    old, new = (
        before.node(broker.url, "old", tmp_path / "old", LEAVES),
        now.node(broker.url, "new", tmp_path / "new", LEAVES),
    )
    finished(coordinator)
    for node in (old, new):
        finished(node)
    assert rows(now, file) == {"old": 5, "new": 5}
    audited(now, file, tmp_path / "old", tmp_path / "new")


def test_nodes_of_this_release_train_with_the_coordinator_of_the_release_before(
    broker: LocalBroker, tmp_path: Path, before: Release, now: Release
) -> None:
    file = settings(tmp_path, broker.url, 5)
    coordinator = before.start("coordinator", "run", "--config", str(file))
    old, new = (
        before.node(broker.url, "old", tmp_path / "old", LEAVES),
        now.node(broker.url, "new", tmp_path / "new", LEAVES),
    )
    finished(coordinator)
    for node in (old, new):
        finished(node)
    assert rows(before, file) == {"old": 5, "new": 5}
    before.run("coordinator", "audit", "--config", str(file))


def test_a_run_of_the_release_before_goes_on_with_this_one_and_its_stores_are_not_taken_back(
    broker: LocalBroker, tmp_path: Path, before: Release, now: Release
) -> None:
    file, states = settings(tmp_path, broker.url, 3), (tmp_path / "a", tmp_path / "b")
    coordinator = before.start("coordinator", "run", "--config", str(file))
    for process in (coordinator, *(before.node(broker.url, state.name, state, LEAVES) for state in states)):
        finished(process)
    assert "tried on a copy, and it works" in now.run("coordinator", "upgrade", "--config", str(file), "--check")
    assert "tried on a copy" in now.run("edge-node", "upgrade", "--state", str(states[0]), "--check")
    assert rows(before, file) == {"a": 3, "b": 3}, "a check changes nothing"

    file = settings(tmp_path, broker.url, 6)
    now.run("edge-node", "upgrade", "--state", str(states[0]))
    coordinator = now.start("coordinator", "run", "--config", str(file))
    # Without LEAVES: what the broker has retained says that the run is over, until the coordinator is there.
    for state in states:
        now.node(broker.url, state.name, state)
    finished(coordinator)
    now.stop()
    assert rows(now, file) == {"a": 6, "b": 6}
    audited(now, file, *states)
    assert "layout" in before.run("coordinator", "run", "--config", str(file), code=3)


def test_a_federation_that_the_release_before_has_made_takes_this_release_in(
    tmp_path: Path, before: Release, now: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates and signatures: its folder, its broker configuration and its enrolment files."""
    plant = tmp_path / "plant"
    made = ("--host", "127.0.0.1", "--port", str(free_port()), "--task", "quadratic-400", "--no-evaluate")
    before.run("coordinator", "init", str(plant), *made, "--enroll", "old", "--enroll", "new")
    before.run("edge-node", "join", str(plant / "enrolled/old.fedmq"), "--into", str(tmp_path / "old"))
    now.run("edge-node", "join", str(plant / "enrolled/new.fedmq"), "--into", str(tmp_path / "new"))
    now.run("coordinator", "enroll", str(plant), "later")
    before.run("edge-node", "join", str(plant / "enrolled/later.fedmq"), "--into", str(tmp_path / "later"))
    common = ("--config", str(plant), "--with-broker", "--versions", "12")
    monkeypatch.setenv("FEDMQ_COORDINATOR__ROUND__NODES_MIN", "3")
    monkeypatch.setenv("FEDMQ_COORDINATOR__ROUND__EXIT_WHEN_FINISHED", "true")
    coordinator = now.start("coordinator", "run", *common)
    for release, name in ((before, "old"), (before, "later"), (now, "new")):
        release.start("edge-node", "run", "--config", str(tmp_path / name))
    finished(coordinator)
    applied = rows(now, plant)
    assert applied.keys() == {"old", "later", "new"}
    assert min(applied.values()) > 0
