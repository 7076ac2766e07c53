"""The page about backups, run as it stands, in a federation that signs: a run is lost, and goes on [FED-122]."""

import json
import re
import shutil
from pathlib import Path

import pytest

from coordinator.storage.sqlite_store import SqliteStore
from tests.integration.enrolment.test_fleet import commands, on, two_hosts
from tests.rigs.model_values import initialised

pytestmark = [pytest.mark.broker, pytest.mark.cold, pytest.mark.slow, pytest.mark.timeout(300)]

PAGE = "docs/how-to/back-up-and-restore.md"
TASK = " --task quadratic-12 --no-evaluate"


@pytest.mark.thorough
def test_a_lost_machine_is_restored_and_its_nodes_obey(tmp_path: Path) -> None:
    *prepare, coordinate = commands("README.md", "server")
    *fetch, take_part = commands("README.md", "device")
    with two_hosts(tmp_path) as (server, device):
        for line in prepare:
            server.run(on(server, line) + TASK)
        settings = server.home / "plant" / "coordinator.toml"
        settings.write_text(settings.read_text().replace("versions = 1000", "versions = 1000000"))
        first = server.start(coordinate)
        for line in fetch:
            device.run(line)
        node = device.start(take_part)
        place = first.wait_for("version_committed", limit_s=120)
        for line in commands(PAGE, "backup"):
            server.run(line)
        backup = json.loads(server.run("coordinator backup second.tar --config plant --json"))
        for _ in range(3):
            place = first.wait_for("version_committed", since=place)
        first.stop()
        lost = newest(server.run("coordinator status --config plant --json"))
        assert lost > backup["version"] >= 1
        shutil.rmtree(server.home / "plant")
        *restore, again = commands(PAGE, "restore")
        heard = len(node.said)
        for line in restore:
            server.run(line)
        second = server.start(again)
        place = second.wait_for("version_committed", limit_s=120)
        place = second.wait_for("version_committed", since=place, limit_s=120)
        second.stop()
        node.stop()
        assert newest(server.run("coordinator status --config plant --json")) >= 3
        assert "Traceback" not in "\n".join(node.said[heard:])
        audited = json.loads(server.run(f"coordinator audit --config plant --node {device_state(device.home)} --json"))
        assert audited["holds"]
        details = " ".join(finding["detail"] for finding in audited["findings"])
        assert re.search(r"restored from version \d+: what was made after", details)


def newest(status: str) -> int:
    """The newest version of a run."""
    return max(int(row["version"]) for row in json.loads(status)["versions"])


def device_state(home: Path) -> Path:
    """Where the node of this device keeps its state."""
    (found,) = home.rglob("node.sqlite")
    return found.parent


def test_a_restore_can_be_tried_and_needs_the_key(tmp_path: Path) -> None:
    *prepare, _ = commands("README.md", "server")
    with two_hosts(tmp_path) as (server, _):
        for line in prepare:
            server.run(on(server, line) + TASK)
        store = SqliteStore(server.home / "plant" / "state")
        initialised(store)
        store.close()
        for line in (*commands(PAGE, "backup"), *commands(PAGE, "try")):
            server.run(line)
        (server.home / "plant" / "coordinator" / "signing.key").unlink()
        shutil.rmtree(server.home / "plant" / "state")
        with pytest.raises(AssertionError, match=r"signing\.key: cannot be read"):
            server.run("coordinator restore run.fedmq.tar --config plant")
        assert not (server.home / "plant" / "state").exists()
