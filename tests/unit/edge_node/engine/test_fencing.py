"""What was once signed and is said again: a node that knows better does not obey, also after a restart (FED-79)."""

from dataclasses import replace

import pytest

from edge_node.engine.effects import Note, SaveSeen
from edge_node.records import RecoveredNode, Seen
from federation.protocol.messages import Presence
from federation.types import Epoch, ModelVersion, RoundId
from tests.rigs.node_rig import OTHER_RUN, RUN, Script, announcement, entry, holding, model

SEEN = Seen(run=RUN, epoch=Epoch(3), began_ms=1_000, round=RoundId(9), version=ModelVersion(5))


def restarted() -> Script:
    return Script(replace(holding(5, last_round=7, outbox=[entry(7, version=4)]), seen=SEEN), signed=True)


def test_what_is_heard_is_saved_before_anything_follows_from_it() -> None:
    """FED-79: save, then train."""
    node = Script(holding(5), signed=True)
    assert node.coordinator(epoch=2, began_ms=1_000) == ["save seen 2/None/None"]
    assert node.announce(announcement(8, 5, epoch=2)) == ["save seen 2/8/5", "train 8 from 5"]
    assert node.coordinator(epoch=2, began_ms=1_000) == []
    saved = [effect.seen for effect in node.effects if isinstance(effect, SaveSeen)]
    assert saved == []


@pytest.mark.parametrize(
    ("round_id", "version", "epoch", "why"),
    [(8, 5, 3, "a round that came before"), (10, 4, 3, "an older version"), (10, 5, 2, "an older epoch")],
)
def test_an_old_announcement_is_not_obeyed_after_a_restart(round_id: int, version: int, epoch: int, why: str) -> None:
    """FED-79."""
    node = restarted()
    assert node.announce(announcement(round_id, version, epoch=epoch)) == [], why
    assert node.machine.snapshot()["work"] == Script().machine.snapshot()["work"]


def test_the_round_that_was_at_hand_goes_on_after_a_restart() -> None:
    """FED-79: the newest announcement is the retained one, and no replay."""
    node = restarted()
    assert node.announce(announcement(9, 5, epoch=3)) == ["train 9 from 5"]
    assert "save seen 4/9/5" in node.announce(announcement(9, 5, epoch=4)) + node.coordinator(epoch=4, began_ms=1_000)


def test_an_old_coordinator_is_not_heard_after_a_restart() -> None:
    """FED-79, FED-20."""
    node = restarted()
    node.coordinator(epoch=3, began_ms=1_000)
    node.coordinator(Presence.OFFLINE, epoch=2, began_ms=1_000)
    assert node.wait() == ["offer 7-pi-3"]


@pytest.mark.parametrize("began_ms", [None, 0, 999, 1_000])
def test_a_run_that_came_before_does_not_cost_the_outbox(began_ms: int | None) -> None:
    """FED-79: the former coordinator's state, signed and retained once, is said again."""
    node = restarted()
    assert node.coordinator(run=OTHER_RUN, epoch=9, began_ms=began_ms) == []
    assert node.notes() == ["out_of_date_ignored"]
    assert node.machine.snapshot()["run"] == RUN
    assert node.wait_until(node.now + 60) == [] or node.machine.snapshot()["outbox"]


def test_a_run_that_begins_later_is_followed_and_remembered() -> None:
    """FED-79, FED-19."""
    node = restarted()
    lines = node.coordinator(run=OTHER_RUN, epoch=1, began_ms=1_001)
    assert lines == [f"forget all but {OTHER_RUN}", "save seen 1/None/None"]
    assert node.coordinator(run=RUN, epoch=9, began_ms=1_000) == []
    assert node.announce(announcement(1, model(0, seed=3), run=OTHER_RUN)) == ["save seen 1/1/0", "make 0 from seed 3"]


def test_a_crash_between_forgetting_a_run_and_remembering_the_next_opens_no_door() -> None:
    """FED-79: the disk knows the new run, and the old one's beginning."""
    node = Script(RecoveredNode(run=OTHER_RUN, seen=SEEN), signed=True)
    assert node.coordinator(run=RUN, epoch=9, began_ms=1_000) == []
    assert node.coordinator(run=OTHER_RUN, epoch=1, began_ms=2_000) == ["save seen 1/None/None"]


def test_who_has_no_signatures_saves_nothing_and_follows_whoever_is_there() -> None:
    """FED-19: where anybody can speak, an order of runs would only lock nodes out."""
    node = Script(replace(holding(5), seen=SEEN))
    assert node.coordinator(run=OTHER_RUN, epoch=1, began_ms=1) == [f"forget all but {OTHER_RUN}"]
    assert node.announce(announcement(1, model(0, seed=3), run=OTHER_RUN)) == ["make 0 from seed 3"]
    assert not any(isinstance(effect, Note) and effect.event == "out_of_date_ignored" for effect in node.effects)
