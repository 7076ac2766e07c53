"""What `coordinator task` makes, and what it refuses to make."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.runtime.task_releases import ReleaseShelf, TaskReleases
from edge_node.config import read_config as node_config
from edge_node.setup.join import install
from federation.errors import ConfigError
from federation.identity.task_release import read_release
from federation.protocol.task_messages import TaskReport, TaskState
from federation.protocol.topics import Topics
from federation.rollout.transfer import Collected, chunk_topic, release_topic
from federation.types import FederationId, NodeId
from tests.rigs.node_doubles import RecordingTransport
from tests.unit.test_documented_json import check

TOPICS = Topics(FederationId("plant"))


def command(*arguments: str) -> Any:
    done = CliRunner().invoke(make_app(["task"]), ["task", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def said(*arguments: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(command(*arguments, "--json"))
    return found


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pump.py").write_text("def build(context): ...\n")
    init = ["init", "plant", "--host", "127.0.0.1", "--task", "pump.py:build", "--no-evaluate"]
    assert CliRunner().invoke(make_app(init), init).exit_code == 0
    return tmp_path / "plant"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "line").mkdir(parents=True)
    (folder / "line" / "pump.py").write_text("def build(context): ...\n" + "# a long comment\n" * 8_000)
    (folder / "columns.json").write_bytes(bytes(range(256)) * 300)
    return folder


def test_a_release_is_published_widened_withdrawn_and_listed(plant: Path, bundle: Path) -> None:
    first = said("publish", str(plant), str(bundle), "--share", "0.25")
    check("coordinator task publish --json", first)
    assert (first["release"]["number"], first["release"]["task"], first["release"]["share"]) == (
        1,
        "line/pump.py:build",
        0.25,
    )
    assert said("widen", str(plant))["release"] == first["release"] | {"step": 1, "share": 1.0}
    second = said("publish", str(plant), "pump.py", "--number", "7")["release"]
    gone = said("withdraw", str(plant))["release"]
    assert gone == second | {"step": 1, "withdrawn": True}
    listed = said("list", str(plant))
    check("coordinator task list --json", listed)
    assert [(one["number"], one["step"]) for one in listed["releases"]] == [(7, 1), (1, 1)]
    assert "line/pump.py:build" in command("list", str(plant))
    text, _ = ReleaseShelf(plant / "state").current() or ("", None)
    authority = (plant / "authority" / "ca.crt").read_text()
    assert read_release(text, authority, federation="plant").withdrawn


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("publish", "plant", "pump.py", "--task", "other.py:build"), "no file other.py; it has pump.py"),
        (("publish", "plant", "pump.py", "--task", "pump.py:other"), "nodes would decline every round"),
        (("publish", "plant", "pump.py", "--task", "pumps.task:build"), "no module pumps.task"),
        (("publish", "plant", "nothing"), "has no files"),
        (("publish", "plant", "x-1-cp311-cp311-linux_aarch64.whl"), "one kind of machine"),
        (("widen", "plant"), "nothing was published"),
        (("withdraw", "plant"), "nothing was published"),
    ],
)
def test_what_nodes_would_refuse_is_refused_here(arguments: tuple[str, ...], problem: str, plant: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        command(*arguments)
    assert ReleaseShelf(plant / "state").current() is None


def test_numbers_and_shares_only_grow(plant: Path) -> None:
    command("publish", "plant", "pump.py", "--number", "3", "--share", "0.5")
    for arguments, problem in (
        (("publish", "plant", "pump.py", "--number", "3"), "3 was published"),
        (("widen", "plant", "--share", "0.5"), "50% of the nodes take release 3 already; to take it back, withdraw it"),
    ):
        with pytest.raises(ConfigError, match=problem):
            command(*arguments)
    command("withdraw", "plant")
    with pytest.raises(ConfigError, match="was withdrawn"):
        command("widen", "plant")


def test_without_the_authoritys_key_nothing_is_signed(plant: Path) -> None:
    (plant / "authority" / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"ca\.key: cannot be read"):
        command("publish", "plant", "pump.py")


def test_two_files_of_one_name_are_told_apart(plant: Path, bundle: Path) -> None:
    (bundle / "other").mkdir()
    (bundle / "other" / "pump.py").write_text("")
    with pytest.raises(ConfigError, match="twice"):
        command("publish", "plant", str(bundle))
    found = said("publish", "plant", str(bundle), "--task", "other/pump.py:build")
    assert found["release"]["task"] == "other/pump.py:build"


def releases(plant: Path) -> tuple[TaskReleases, RecordingTransport]:
    transport = RecordingTransport()
    return TaskReleases(ReleaseShelf(plant / "state"), TOPICS, transport), transport


def test_the_broker_gets_pieces_first_and_what_is_old_is_taken_away(plant: Path, bundle: Path) -> None:
    """FED-243."""
    watched, transport = releases(plant)
    watched.look()
    assert transport.published == []
    command("publish", "plant", str(bundle))
    watched.look()
    watched.look()
    text, release = ReleaseShelf(plant / "state").current() or ("", None)
    assert release is not None
    topics = [one.topic for one in transport.published]
    assert topics == [
        *(chunk_topic(TOPICS, release.name, index) for index in range(release.chunks)),
        release_topic(TOPICS),
    ]
    assert {(one.qos, one.retain) for one in transport.published} == {(1, True)}
    collected = Collected(TOPICS, release)
    assert all(collected.take(one.topic, one.payload) for one in transport.published[:-1])
    assert collected.archive() == ReleaseShelf(plant / "state").archive(1)
    assert transport.published[-1].payload.decode() == text
    watched.connected()  # the broker may have lost it
    watched.look()
    assert len(transport.published) == 2 * len(topics)
    transport.published.clear()
    command("publish", "plant", "pump.py")
    releases(plant)[0].look()  # another process: what is at the broker is on the disk
    watched.look()
    command("withdraw", "plant")
    transport.published.clear()
    watched.look()
    assert [one.payload for one in transport.published[:-1]] == [b""]


def test_pieces_of_the_release_before_are_cleared(plant: Path, bundle: Path) -> None:
    watched, transport = releases(plant)
    command("publish", "plant", str(bundle))
    watched.look()
    pieces = [one.topic for one in transport.published[:-1]]
    transport.published.clear()
    command("publish", "plant", "pump.py")
    watched.look()
    assert [one.topic for one in transport.published if not one.payload] == pieces


def test_an_enrolment_file_brings_the_published_release(plant: Path, bundle: Path, tmp_path: Path) -> None:
    """A folder of files, checked against the authority's signature, and run only by the owner's word."""

    def enrolled(node: str) -> Path:
        line = ["enroll", "plant", node, "--bundle"]
        done = CliRunner().invoke(make_app(line), line)
        assert done.exit_code == 0, done.output
        return plant / "enrolled" / f"{node}.fedmq"

    before = enrolled("a")  # nothing is published: the source that the settings name
    assert json.loads(before.read_text())["version"] == 4
    command("publish", "plant", str(bundle))
    file = enrolled("b")
    found = json.loads(file.read_text())
    assert (found["version"], found["task"]) == (5, "line/pump.py:build")
    with pytest.raises(ConfigError, match=r"release 1 of line/pump\.py:build \(SHA-256 "):
        install(file, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    folder = install(file, tmp_path / "b", with_task=True, signed_updates=True)
    task = node_config(folder, {}, environ={}).task
    place = Path(task.name.partition(":")[0])
    assert place.read_text() == (bundle / "line" / "pump.py").read_text()
    assert (place.parents[1] / "columns.json").read_bytes() == (bundle / "columns.json").read_bytes()
    assert task.updates == "signed"
    for changed in (
        {"archive": found["archive"][:-8] + "AAAAAAA="},
        {"archive": "!" + found["archive"][1:]},
        {"task": "other/pump.py:build"},
        {"release": found["release"].replace("1", "2", 1)},
    ):
        file.write_text(json.dumps(found | changed))
        with pytest.raises(ConfigError):
            install(file, tmp_path / "c", with_task=True)
        assert not (tmp_path / "c").exists()
    command("withdraw", "plant")
    assert json.loads(enrolled("d").read_text())["version"] == 4


def test_the_commands_of_the_page_do_what_it_says(plant: Path, bundle: Path) -> None:
    page = (Path(__file__).parents[4] / "docs/how-to/roll-out-a-task.md").read_text()
    bundle.rename("pumps")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    found = [line.split() for block in blocks for line in block.splitlines() if line.startswith("coordinator task ")]
    assert [words[2] for words in found] == ["publish", "status", "widen", "withdraw"]
    for words in found:
        assert "release 1" in command(*words[2:])
    assert json.loads(command("status", str(plant), "--json"))["release"]["withdrawn"]


def test_what_nodes_say_is_kept_and_shown(plant: Path) -> None:
    """FED-245."""
    command("publish", "plant", "pump.py")
    check("coordinator task status --json", said("status", "plant"))
    nobody = command("status", "plant")
    assert nobody.endswith(
        "no node has said anything yet; those that joined with --updates signed take releases, others do not\n"
    )
    watched, _ = releases(plant)
    told = TaskReport(number=1, step=0, state=TaskState.ACTIVE, running=1)
    watched.hear(NodeId("pi-1"), told)
    watched.hear(NodeId("pi-2"), TaskReport(number=1, step=0, state=TaskState.FAILED, running=0, reason="no rows"))
    watched.hear(NodeId("pi-3"), TaskReport(number=9, step=0, state=TaskState.ACTIVE, running=9))
    watched.look()
    found = said("status", "plant")
    check("coordinator task status --json", found)
    assert {state: count for state, count in found["counts"].items() if count} == {"active": 1, "failed": 1}
    assert [(one["node"], one["running"], one["reason"]) for one in found["nodes"]][:2] == [
        ("pi-1", 1, ""),
        ("pi-2", 0, "no rows"),
    ]
    assert "1 active, 1 failed" in command("status", "plant")
    again, _ = releases(plant)
    again.hear(NodeId("pi-1"), told)  # known, and nothing to write
    (plant / "state" / "tasks" / "reports.json").write_text("{")
    assert said("status", "plant")["nodes"] == []


def test_a_release_that_is_damaged_on_the_disk_costs_no_round(plant: Path) -> None:
    command("publish", "plant", "pump.py")
    watched, transport = releases(plant)
    (plant / "state" / "tasks" / "1.zip").unlink()
    watched.look()
    (plant / "state" / "tasks" / "current.json").write_text("{}")
    watched.look()
    assert transport.published == []
