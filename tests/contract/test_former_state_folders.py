"""State folders that were written before modules moved, and by the first releases, are read as they were meant.

See tests/golden/state_folders/README.md. What is expected was written by the code that wrote the folders.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from federation.types import UpdateId
from tests.rigs.former_state import (
    FORMER,
    audited_node,
    folder_of_layout,
    found_coordinator,
    found_node,
    node_went_on,
    read_by_commands,
    went_on,
)

COORDINATORS = ("coordinator", "coordinator_killed")
LAYOUTS = (1, 2, 3)


def copied(name: str, tmp_path: Path) -> Path:
    """A folder that may be changed."""
    return Path(shutil.copytree(FORMER / name / "state", tmp_path / name))


def expected_of(name: str) -> dict[str, Any]:
    """What the former code has said of it."""
    return as_json((FORMER / name / "expected.json").read_text(encoding="utf-8"))


def as_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def through_json(found: dict[str, Any]) -> dict[str, Any]:
    """Only what JSON can hold: lists for tuples."""
    return as_json(json.dumps(found))


LATER_FIELDS = ("ticket", "boxes", "content_key", "seeds", "terms", "batch", "sums", "members")


def without_layout(found: dict[str, Any], expected: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both without the layout: that is a later one now, with all tables and columns of then in their places."""
    found = without_later_fields(found)
    assert found["recovered"].pop("newest") == found["recovered"]["head"]["version"]
    now, then = found["layout"], expected["layout"]
    assert now["user_version"] >= then["user_version"]
    assert {name: now["tables"][name][: len(columns)] for name, columns in then["tables"].items()} == then["tables"]
    found, expected = ({name: part for name, part in one.items() if name != "layout"} for one in (found, expected))
    return found, expected


@pytest.mark.parametrize("name", COORDINATORS)
def test_a_coordinator_finds_all_that_the_release_before_has_left(name: str, tmp_path: Path) -> None:
    found, expected = without_layout(
        through_json(found_coordinator(copied(name, tmp_path))), expected_of(name)["found"]
    )
    assert found == expected


@pytest.mark.parametrize("name", COORDINATORS)
def test_a_coordinator_goes_on_from_a_folder_of_the_release_before(name: str, tmp_path: Path) -> None:
    """The rest of a large update arrives; with the two that waited it makes the version that the old code made."""
    expected = expected_of(name)
    chunks = {int(index): bytes.fromhex(body) for index, body in expected["sent"]["chunks"].items()}
    made = went_on(copied(name, tmp_path), chunks, UpdateId(expected["sent"]["update"]))
    assert through_json(made) == expected["went_on"]


def test_a_killed_coordinators_next_version_is_the_one_that_it_was_killed_in() -> None:
    killed, orderly = (expected_of(name)["went_on"] for name in reversed(COORDINATORS))
    assert (killed["version"], killed["digest"]) == (orderly["version"], orderly["digest"])


@pytest.mark.parametrize("name", COORDINATORS)
def test_the_commands_that_only_read_say_the_same_of_a_folder_of_the_release_before(name: str, tmp_path: Path) -> None:
    said, expected = through_json(read_by_commands(copied(name, tmp_path))), expected_of(name)["commands"]
    # Status and why may have members that came later; what they had before says the same.
    came_later = {(row.pop("state"), row.pop("back_ms")) for row in said["nodes"]["nodes"]}
    assert came_later == {(None, None)}, "nobody knows who is there while no coordinator runs"
    for each in ("status", "why"):
        said[each] = {key: said[each][key] for key in expected[each]}
    assert said == expected


def test_the_audit_reads_a_nodes_folder_of_the_release_before(tmp_path: Path) -> None:
    """The node is of another run: its folder is read, and then left out."""
    node = copied("node", tmp_path)
    assert without_later_fields(through_json(audited_node(node))) == expected_of("node")["audited"]
    said = read_by_commands(copied("coordinator", tmp_path), [node])
    assert through_json(said["audit"]) == expected_of("coordinator")["commands"]["audit"]


def test_a_node_finds_all_that_the_release_before_has_left(tmp_path: Path) -> None:
    found = through_json(found_node(copied("node", tmp_path)))
    assert by_one_run(found) == without_node_layout(expected_of("node")["found"])


def test_a_node_settles_the_outbox_of_the_release_before(tmp_path: Path) -> None:
    """Task state and residual are what the old code made of the same receipts."""
    assert through_json(node_went_on(copied("node", tmp_path))) == expected_of("node")["went_on"]


@pytest.mark.parametrize("number", LAYOUTS)
def test_a_coordinator_opens_every_earlier_layout(number: int, tmp_path: Path) -> None:
    name, folder = f"coordinator-{number}", tmp_path / "state"
    folder_of_layout(name, folder)
    before_ms = time.time_ns() // 1_000_000
    found = through_json(found_coordinator(folder))
    expected = as_json((FORMER / "layouts" / f"{name}.json").read_text(encoding="utf-8"))
    if number < 3:
        # When the store was made was not written down yet: its first start with this code counts.
        assert before_ms <= found["recovered"].pop("began_ms") <= time.time_ns() // 1_000_000
        del expected["recovered"]["began_ms"]
    found, expected = without_layout(found, expected)
    assert found == expected


@pytest.mark.parametrize("number", LAYOUTS)
def test_a_node_opens_every_earlier_layout(number: int, tmp_path: Path) -> None:
    name, folder = f"node-{number}", tmp_path / "state"
    folder_of_layout(name, folder)
    expected = as_json((FORMER / "layouts" / f"{name}.json").read_text(encoding="utf-8"))
    assert by_one_run(through_json(found_node(folder))) == without_node_layout(expected)


def by_one_run(found: dict[str, Any]) -> dict[str, Any]:
    """What a node finds, as it was said before a node kept more than one run; its tables have their own test."""
    assert found["recovered"].pop("hidden") == []
    assert found["recovered"].pop("proof", None) is None
    seen = found["recovered"]["seen"]
    assert seen is None or (seen.pop("proof", None), seen.pop("applied", None)) == (None, None)
    assert seen is None or seen.pop("start") == 0
    found = without_later_fields(found)
    model = f"model-{found['recovered']['run']}.safetensors"
    files = ["model.safetensors" if name == model else name for name in found["files"]]
    return without_node_layout(found) | {"files": files}


def without_later_fields(found: Any) -> Any:
    """The same, but for fields of messages that came later: nothing of then has them."""
    if isinstance(found, list):
        return [without_later_fields(one) for one in found]
    if not isinstance(found, dict):
        return found
    return {name: without_later_fields(one) for name, one in found.items() if one or name not in LATER_FIELDS}


def without_node_layout(found: dict[str, Any]) -> dict[str, Any]:
    """The tables of layout 1 are no more."""
    return {name: part for name, part in found.items() if name != "layout"}
