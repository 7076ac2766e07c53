"""Whoever waits can say for what, for whom and since when, also when the one who waited is dead."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.engine.early_stopping import StoppingSettings
from coordinator.engine.round import ENDINGS, CommitReason, WaitReason
from coordinator.monitoring.state_files import StoppingRule, Waiting, read_waiting
from coordinator.monitoring.status import read_status
from coordinator.monitoring.why import MADE, MEANINGS, behind_words, claim_words, explain, nobody_trains
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import StorageError
from tests.rigs.status_values import snapshot, status_file


def text(reason: str, *nodes: str, pid: str | None = "7", since_s: float = 12.4, **more: object) -> str:
    """The sentence for some situation."""
    found = snapshot(reason, *nodes)
    fields = {key: found[key] for key in ("version", "live", "buffered", "online")} | found["waiting_for"] | more
    return explain(Waiting(fields=fields, since_s=since_s, said_s=300.0, pid=pid))


def test_a_running_coordinator_says_for_whom_and_since_when() -> None:
    assert text("assignments", "ann", "bob") == (
        "waiting for updates of nodes that are training: ann, bob; since 12 s, 2 online, version 3,"
        " 1 of 2 updates for the next one"
    )
    assert "ann, bob and 5 more;" in text("assignments", "ann", "bob", live=7)
    assert "since 3 min" in text("assignments", since_s=170.0)


def test_why_there_is_no_broker_is_said_as_far_as_it_is_known() -> None:
    assert text("broker").startswith("waiting for the broker, which cannot be reached; since")
    blocked = {"control": "its certificate ended on 2026-07-01; renew it", "data": "the same", "node": "not authorized"}
    assert text("broker", trouble=blocked).startswith(
        "waiting for the broker: its certificate ended on 2026-07-01; renew it; since 12 s"
    )
    assert text("broker", trouble=blocked).endswith("; the broker above: not authorized")
    assert text("assignments", trouble={"data": "refused"}).endswith(
        "; the broker, for the connection that carries updates: refused"
    )
    assert text("broker", trouble="nonsense").startswith("waiting for the broker, which cannot be reached")
    # Whoever trains meanwhile is not waited for: it read as `Connection refused: ann, bob`.
    assert text("broker", "ann", "bob").startswith(
        "waiting for the broker, which cannot be reached; since 12 s, 2 online"
    )


def test_nodes_that_are_missing_are_counted_and_named() -> None:
    assert text("nodes_min", gone=["cid"], online=1, buffered=0) == (
        "waiting for more nodes to come online; since 12 s, 1 of 2 online (round.nodes_min), gone: cid,"
        " version 3, 0 of at most 2 updates for the next one"
    )


def test_where_nobody_is_online_nodes_are_waited_for_not_what_they_lack() -> None:
    """It said to look who had declined, where every node was gone."""
    said = text("no_candidates", online=0, gone=["ann", "bob"], buffered=0)
    assert said.startswith("waiting for nodes to come online; since 12 s, 0 online, gone: ann, bob, version 3")
    assert "who declined" in text("no_candidates", online=1)


def test_between_two_versions_nobody_is_asked_and_no_empty_place_is_counted() -> None:
    between = (
        "waiting for the end of the least interval between two versions (round.interval_min_s); since 12 s, 2 online"
    )
    assert text("interval", buffered=0, buffer=20) == f"{between}, version 3"
    assert text("interval", buffered=1, buffer=20) == f"{between}, version 3, 1 of at most 20 updates for the next one"


def test_a_run_that_is_over_waits_for_no_update() -> None:
    more = "; to go on, raise round.versions and start it again"
    assert text("finished", since_s=86_400.0 * 3).endswith(f"; since 3 days, 2 online, version 3{more}")
    assert text("stopped_early").endswith("; to go on, raise stopping.patience and start it again")
    assert "to go on" not in text("budget")


def test_a_site_whose_run_is_over_is_sent_to_no_setting_of_its_own(tmp_path: Path) -> None:
    """It said to raise `round.versions`: those of a site come from above."""
    for versions, end in (
        (0, "it goes on when the run above does"),
        (9, "to go on, raise round.versions and start it again"),
    ):
        rule = StoppingRule(settings=StoppingSettings(), versions=versions)
        status_file(tmp_path, lambda: snapshot("finished"), stopping=rule).write()
        waiting = read_waiting(tmp_path)
        assert explain(waiting).endswith(f"; {end}")
        assert waiting.fields.get("follows", False) is (versions == 0)


def test_a_run_that_is_over_needs_no_coordinator() -> None:
    """It began with `no coordinator is running`, of a run that had ended as it should."""
    assert text("finished", pid=None) == (
        "the run is over, version 3; its coordinator was heard 5 min ago;"
        " to go on, raise round.versions and start it again"
    )
    early = text("stopped_early", pid=None)
    assert early.startswith("the run is over (stopping.patience evaluations in a row brought no improvement")


def test_a_dead_coordinator_is_not_said_to_wait() -> None:
    assert text("something new", pid=None) == (
        "no coordinator is running; 5 min ago the last one waited for something new, 2 online,"
        " version 3, 1 of 2 updates for the next one; start it again: it goes on where it was"
    )


BEHIND = {"nodes": 2, "said_by": ["ann", "bob"], "epoch": 5, "round": 77, "our_epoch": 3, "our_rounds": 40}


def test_a_state_that_is_older_than_what_nodes_have_seen_says_who_has_seen_what_and_what_to_do() -> None:
    """FED-97."""
    seen = (
        "2 nodes have (ann, bob) seen a later coordinator of this run (epoch 5, round 77);"
        " this state is of epoch 3 with 40 rounds"
    )
    # Above what nodes have seen, and above what this folder has reached by itself.
    lift = "coordinator restore FOLDER_OR_BACKUP --state NEW_FOLDER --above"
    said = text("behind", behind=BEHIND)
    assert "start the newest state folder of the run" in said
    assert said.endswith(f"{seen}: {lift} 5")
    dead = text("behind", pid=None, behind=BEHIND)
    assert dead.endswith(f"{seen}: {lift} 5")
    assert "start it again" not in dead
    assert text("behind", behind=BEHIND | {"our_epoch": 11}).endswith(f"{lift} 11")
    assert behind_words(BEHIND | {"nodes": 1, "said_by": ["ann"], "round": None}).startswith(
        "1 node has (ann) seen a later coordinator of this run (epoch 5);"
    )
    assert behind_words(BEHIND | {"nodes": 0}).startswith("the broker has seen")


def test_a_claim_without_a_proof_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    """FED-130."""
    claims = {"nodes": 1, "said_by": ["ann"], "epoch": 9, "round": None}
    lies = "without proof: the run goes on; a node of an older release has no proof, another one lies"
    assert text("assignments", claims=claims).endswith(
        f"; node ann claims a later coordinator of this run (epoch 9) {lies}"
    )
    assert claim_words(claims | {"nodes": 2, "said_by": ["ann", "bob"], "round": 7}) == (
        f"2 nodes (ann, bob) claim a later coordinator of this run (epoch 9, round 7) {lies}"
    )
    SqliteStore(tmp_path).close()
    status_file(tmp_path, lambda: snapshot("assignments", claims=claims)).write()
    assert read_status(tmp_path)["claims"] == claims


def test_what_was_seen_is_in_the_status_as_a_table_and_as_json(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    status_file(tmp_path, lambda: snapshot("behind", behind=BEHIND)).write()
    assert read_status(tmp_path)["behind"] == BEHIND
    status_file(tmp_path, lambda: snapshot("assignments", behind={})).write()
    assert read_status(tmp_path)["behind"] == {}


def test_nodes_that_fail_are_named_with_their_reasons() -> None:
    failing = {"ann": "no data", "bob": "no data", "cid": "no memory"}
    said = text("no_candidates", failing=failing, failed=5, nobody_trains=True)
    assert said.endswith(
        "; nobody trains after version 3: nodes ann, bob: no data; node cid: no memory; and 2 more nodes"
    )
    assert text("assignments", failing={"ann": "no data"}, failed=1, nobody_trains=False).endswith(
        "; what comes to nothing: node ann: no data"
    )
    dead = text("no_candidates", pid=None, failing={"ann": "no data"}, failed=1, nobody_trains=True)
    assert dead == (
        "no coordinator is running; it was heard 5 min ago; nobody trains after version 3: node ann: no data;"
        " mend that, and start it again: it goes on where it was"
    )
    # Nodes of an experiment say their own number, too: it was one sentence for each of them.
    own = {name: f"the task's loss failed on node {number}: no memory" for number, name in enumerate(("ann", "bob"))}
    assert nobody_trains(3, own) == "nobody trains after version 3: nodes ann, bob: the task's loss failed: no memory"
    assert "nobody trains" not in text("finished", pid=None, failing={"ann": "no data"}, failed=1, nobody_trains=True)


def test_many_nodes_of_one_reason_are_counted() -> None:
    said = nobody_trains(0, dict.fromkeys(["a", "b", "c", "d", "e"], "full"))
    assert said == "nobody trains after version 0: nodes a, b, c and 2 more: full"
    different = nobody_trains(0, {str(number): f"reason {number}" for number in range(6)})
    assert different.endswith("; node 4: reason 4; and 1 more node")


def test_a_masked_version_says_how_many_updates_it_lacks_and_who_rests() -> None:
    short = text("no_candidates", ready=5, quorum=8, rest=5, resting=["ann", "bob", "cid"], pausing=["dot"])
    assert "; 5 updates can be summed now, a masked version has 8 or more (round.quorum)" in short
    assert "; resting between two noised sums (privacy.separation): ann, bob, cid and 2 more" in short
    assert "; left alone for a while after a decline or a refused update: dot" in short
    enough = text("assignments", ready=8, quorum=8, rest=0, resting=[], pausing=["dot"])
    assert enough == text("assignments")


def test_every_reason_has_its_words() -> None:
    assert MEANINGS.keys() == set(WaitReason)
    for reason, words in MEANINGS.items():
        over = reason in ENDINGS
        assert text(reason.value).startswith(words.removeprefix("nothing: ") if over else f"waiting for {words}")


def test_every_reason_of_a_version_has_its_words() -> None:
    assert MADE.keys() == set(CommitReason)


def test_a_file_of_an_older_release_is_explained_too(tmp_path: Path) -> None:
    for reason, nodes, said in (
        ("assignments", ["ann"], "training: ann, 1 online"),
        ("nodes_min", [], "online, 1 online"),
    ):
        fields = {"reason": reason, "nodes": nodes, "live": len(nodes), "buffered": 1, "online": 1}
        (tmp_path / "waiting.json").write_text(json.dumps({"at": 5.0, "fields": fields}))
        assert said in explain(read_waiting(tmp_path))


def test_the_command_prints_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status_file(tmp_path, snapshot).write()
    make_app(["why"])(["why", "--state", str(tmp_path)], standalone_mode=False)
    assert MEANINGS[WaitReason.ASSIGNMENTS] in capsys.readouterr().out
    make_app(["why"])(["why", "--state", str(tmp_path), "--json"], standalone_mode=False)
    assert '"reason": "assignments"' in capsys.readouterr().out


@pytest.mark.parametrize("command", ["why", "status", "privacy"])
def test_a_file_in_a_folders_place_is_told_as_a_folder_without_a_run(command: str, tmp_path: Path) -> None:
    """It named a file of ours below it, or asked to make the file writable."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "nowhere"):
        found = CliRunner().invoke(make_app([command]), [command, "--state", str(place)])
        assert isinstance(found.exception, StorageError)
        said = str(found.exception)
        assert "--state names its folder" in said or f"{place} is a file, and no folder: move it away" in said
