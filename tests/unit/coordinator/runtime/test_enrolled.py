"""A coordinator that runs follows the list of the enrolled nodes."""

import queue
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coordinator.engine.events import NodesEnrolled, RotationDue
from coordinator.runtime import enrolled
from coordinator.runtime.enrolled import EnrolledWatch, keys_digest
from federation.identity.signing_keys import SigningKey, node_keys_text
from federation.runtime.transport import Inbox, InboxItem

LIMIT_S = 10.0


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolled, "LOOK_S", 0.01)


def write(path: Path, *nodes: str) -> None:
    text = node_keys_text({node: [SigningKey.new().public_hex] for node in nodes})
    # As the commands do: never half a file.
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def told(inbox: Inbox) -> NodesEnrolled:
    event = inbox.get(timeout=LIMIT_S).event
    assert isinstance(event, NodesEnrolled)
    return event


def test_the_list_is_told_at_the_start_and_when_it_changes(tmp_path: Path) -> None:
    keys, inbox = tmp_path / "nodes.json", Inbox(10)
    write(keys, "ann", "bob")
    with EnrolledWatch(keys, inbox):
        first = told(inbox)
        assert (set(first.nodes), first.digest) == ({"ann", "bob"}, keys_digest(keys))
        write(keys, "bob")
        second = told(inbox)
        assert (set(second.nodes), second.digest) == ({"bob"}, keys_digest(keys))
    assert inbox.empty()


def test_a_damaged_or_missing_list_expels_nobody(tmp_path: Path) -> None:
    keys, inbox = tmp_path / "nodes.json", Inbox(10)
    write(keys, "ann")
    with EnrolledWatch(keys, inbox):
        told(inbox)
        keys.write_text("{")
        with pytest.raises(queue.Empty):
            inbox.get(timeout=0.2)
        keys.unlink()
        with pytest.raises(queue.Empty):
            inbox.get(timeout=0.2)
        write(keys, "bob")
        assert told(inbox).nodes == {"bob"}


def test_a_list_that_cannot_be_read_is_told_once_for_each_reason(tmp_path: Path) -> None:
    """Somebody has revoked a node and copied half of the file: it takes part on, and nobody would know."""
    keys, inbox = tmp_path / "nodes.json", Inbox(10)
    write(keys, "ann")
    watch = EnrolledWatch(keys, inbox)
    with capture_logs() as said:
        watch._look(keys)
        keys.write_text("{")
        watch._look(keys)
        watch._look(keys)
        keys.unlink()
        watch._look(keys)
        write(keys, "ann")
        watch._look(keys)
        keys.unlink()
        watch._look(keys)
    assert [line["event"] for line in said] == ["nodes_unreadable"] * 3
    assert "who was enrolled before it stays so" in said[0]["why"]
    assert str(keys) in said[0]["file"]


def test_a_full_inbox_delays_the_news(tmp_path: Path) -> None:
    keys, inbox = tmp_path / "nodes.json", Inbox(1)
    write(keys, "ann")
    inbox.put(InboxItem(event=None))
    with EnrolledWatch(keys, inbox):
        assert inbox.get(timeout=LIMIT_S).event is None
        assert told(inbox).nodes == {"ann"}


def test_without_a_list_nothing_is_followed(tmp_path: Path) -> None:
    inbox = Inbox(1)
    with EnrolledWatch(None, inbox):
        pass
    assert inbox.empty()
    del tmp_path


@dataclass
class Keys:
    due: bool

    def rotation_is_due(self) -> bool:
        return self.due


def test_another_key_is_asked_for_once_each_time_that_it_is_due() -> None:
    """FED-170."""
    inbox, keys = Inbox(10), Keys(due=True)
    with EnrolledWatch(None, inbox, keys) as watch:
        watch._watch_once()
        watch._watch_once()
        assert inbox.get_nowait().event == RotationDue()
        assert inbox.empty()
        keys.due = False
        watch._watch_once()
        keys.due = True
        watch._watch_once()
        assert inbox.get_nowait().event == RotationDue()
