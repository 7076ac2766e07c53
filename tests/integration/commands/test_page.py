"""``coordinator serve`` as a person meets it: a process, a browser, a run that goes on."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.types import ModelVersion
from tests.rigs.model_values import arrived, committer, initialised, update


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """The address of the page of a state folder."""
    command = [sys.executable, "-m", "coordinator", "serve", "--state", str(folder), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A run that was evaluated, of a node with a hostile name for a metric."""
    made = SqliteStore(tmp_path / "state")
    initialised(made)
    commit(made, 1)
    yield made
    made.close()


def commit(store: SqliteStore, version: int) -> None:
    one = arrived("pump-7", update(float(version)), round_id=version - 1)
    store.save_update(one.record, one.payload)
    committer(store).commit([one.member], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
    store.save_evaluation(ModelVersion(version), {"accuracy": 0.5, "<b>loud</b>": 1.0})


def ask(address: str) -> dict[str, object]:
    with urllib.request.urlopen(address) as answer:  # noqa: S310 - our own address
        found: dict[str, object] = json.load(answer)
    return found


def test_the_page_follows_a_run_and_tells_of_every_change(store: SqliteStore, tmp_path: Path) -> None:
    with served(tmp_path / "state") as address, urllib.request.urlopen(f"{address}api/v1/events") as stream:  # noqa: S310
        told = iter(json.loads(line[6:]) for line in stream if line.startswith(b"data: "))
        assert next(told)["head"] == 1
        commit(store, 2)
        assert any(one["head"] == 2 for one in told)
        assert ask(f"{address}api/v1/status")["head"] == 2


def test_a_page_that_is_open_is_no_error_where_the_process_ends(store: SqliteStore, tmp_path: Path) -> None:
    """Ctrl-C while a browser followed the run printed forty lines of a traceback."""
    assert store.head() == 1
    command = [sys.executable, "-m", "coordinator", "serve", "--state", str(tmp_path / "state"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        with urllib.request.urlopen(f"{found[0]}api/v1/events") as stream:  # noqa: S310 - as above
            assert stream.readline().startswith(b"data: ")
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=60)
        assert (process.returncode, complaints) == (0, "")


def test_another_machines_address_needs_a_token(store: SqliteStore, tmp_path: Path) -> None:
    assert store.head() == 1
    with served(tmp_path / "state", "--host", "0.0.0.0") as address:
        place, _, token = address.partition("?token=")
        assert len(token) >= 32
        local = place.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(f"{local}api/v1/status")
        request = urllib.request.Request(f"{local}api/v1/status", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            assert json.load(answer)["head"] == 1


def test_a_token_of_a_file_is_not_printed(store: SqliteStore, tmp_path: Path) -> None:
    assert store.head() == 1
    (tmp_path / "token").write_text("hush\n")
    with served(tmp_path / "state", "--token-file", str(tmp_path / "token")) as address:
        assert "hush" not in address
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(f"{address}api/v1/status")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_ends_the_page_as_soon_as_it_is_told_sees_no_traceback(
    store: SqliteStore, tmp_path: Path, number: signal.Signals
) -> None:
    assert store.head() == 1
    command = [sys.executable, "-m", "coordinator", "serve", "--state", str(tmp_path / "state"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "the page is at" in process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
