"""nodes.json: who is there, who came and went, and what of it a later start takes over."""

import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.engine.events import DeclineReceived, NodesEnrolled, NodeStateReceived, StopRequested
from coordinator.monitoring.presence import Happening, Seen, online_by_release, read_presence, releases_line
from coordinator.monitoring.presence_file import NEWS_MAX, PresenceFile
from coordinator.storage.files import PRESENCE
from federation.protocol.messages import Decline, NodeState, Presence
from federation.types import Incarnation, NodeId, RoundId, RunId
from tests.rigs.clocks import in_our_hands

RUN = "run"


class Clock:
    """Seconds since 1970, as a test wants them."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path, clock: Clock) -> PresenceFile:
    return PresenceFile(tmp_path, RUN, clock)


def state(node: str, presence: Presence, incarnation: int = 1, **more: Any) -> NodeStateReceived:
    told = NodeState(presence=presence, incarnation=Incarnation(incarnation), protocol_min=1, protocol_max=1, **more)
    return NodeStateReceived(node=NodeId(node), state=told)


def news(folder: Path) -> list[tuple[str, str]]:
    return [(one.node, one.what.value) for one in read_presence(folder, RUN).news]


def test_what_a_node_goes_through_is_told_in_order(file: PresenceFile, clock: Clock, tmp_path: Path) -> None:
    for at_s, said in enumerate(
        (
            state("a", Presence.ONLINE),
            state("a", Presence.LOST),
            state("a", Presence.ONLINE),
            state("a", Presence.ONLINE, 2),
            state("a", Presence.LOST, 1),
            state("a", Presence.OFFLINE, 2),
        )
    ):
        clock.now_s = 100.0 + at_s
        file.see(said)
    file.write(lambda: 7)
    assert news(tmp_path) == [("a", "lost"), ("a", "back"), ("a", "restarted"), ("a", "left")]
    told = read_presence(tmp_path, RUN)
    assert {one.version for one in told.news} == {7}
    assert [one.at_ms for one in told.news] == [101_000, 102_000, 103_000, 105_000]
    seen = told.nodes["a"]
    assert (seen.presence, seen.at_s, seen.incarnation) == (Presence.OFFLINE, 103.0, 2)


def test_who_is_revoked_is_not_there_any_more(file: PresenceFile, tmp_path: Path) -> None:
    """Its connection is ended and its will is not heard: without this it would be shown as online for ever."""
    file.see(state("a", Presence.ONLINE))
    file.see(state("b", Presence.ONLINE))
    file.see(state("c", Presence.LOST))
    file.see(NodesEnrolled(nodes=frozenset({NodeId("b")}), digest="2"))
    file.write(lambda: 3)
    nodes = read_presence(tmp_path, RUN).nodes
    assert {name: seen.presence for name, seen in nodes.items()} == {
        "a": Presence.OFFLINE,
        "b": Presence.ONLINE,
        "c": Presence.LOST,
    }
    assert news(tmp_path) == [("a", "left")]


def test_whatever_a_node_sends_says_that_it_is_there(file: PresenceFile, clock: Clock, tmp_path: Path) -> None:
    file.see(state("a", Presence.ONLINE, device="cpu\x1b[1m", capabilities={"battery": 0.5}))
    clock.now_s = 200.0
    decline = Decline(run=RunId(RUN), round=RoundId(1), reason="busy", retry_after_s=1.0)
    file.see(DeclineReceived(node=NodeId("a"), decline=decline))
    file.see(DeclineReceived(node=NodeId("nobody knows"), decline=decline))
    file.see(StopRequested())
    file.write(lambda: 0)
    (seen,) = read_presence(tmp_path, RUN).nodes.values()
    assert (seen.at_s, seen.device, seen.battery) == (200.0, "cpu[1m", 0.5)


def test_a_release_is_kept_without_what_no_screen_should_see(file: PresenceFile, tmp_path: Path) -> None:
    told = {"a": "0.3.0", "b": "0.3.0", "c": "\x1b[2J1.0\u202eé", "old": None}
    for node, release in told.items():
        file.see(state(node, Presence.ONLINE, release=release))
    file.see(state("a", Presence.LOST))
    file.write(lambda: 0)
    seen = read_presence(tmp_path, RUN).nodes
    assert {node: one.release for node, one in seen.items()} == {"a": "0.3.0", "b": "0.3.0", "c": "[2J1.0", "old": ""}
    content = json.loads((tmp_path / PRESENCE).read_bytes())
    assert content["releases"] == {"0.3.0": ["a", "b"], "[2J1.0": ["c"]}
    assert {len(row) for row in content["nodes"].values()} == {5}, "as a former release reads it"
    later = PresenceFile(tmp_path, RUN)
    later.see(state("b", Presence.ONLINE, 2, release="0.4.0"))
    later.write(lambda: 0)
    assert [one.release for one in read_presence(tmp_path, RUN).nodes.values()] == ["0.3.0", "0.4.0", "[2J1.0", ""]


def test_a_file_of_a_former_release_tells_none(tmp_path: Path) -> None:
    (tmp_path / PRESENCE).write_text('{"run": "run", "nodes": {"a": ["online", 1.0, 1, "cpu", null]}, "news": []}')
    assert read_presence(tmp_path, RUN).nodes["a"].release == ""


def here(release: str, presence: Presence = Presence.ONLINE) -> Seen:
    return Seen(presence, 1.0, 1, release=release)


def test_only_releases_that_differ_are_said() -> None:
    nodes = {"a": here("0.3.0"), "b": here("0.3.0"), "gone": here("0.2.0", Presence.LOST)}
    assert (releases_line({}), releases_line(nodes)) == ("", "")
    nodes |= {"c": here("0.3.0"), "d": here(""), "e": here("")}
    assert online_by_release(nodes) == {"0.3.0": ["a", "b", "c"], "": ["d", "e"]}
    assert releases_line(nodes) == "nodes run different releases: 0.3.0 on 3 nodes, not told on d and e"


def test_a_fleet_that_invents_releases_gets_one_line() -> None:
    nodes = {f"n{number}": here(str(number)) for number in range(9)}
    line = releases_line(nodes)
    assert line == "nodes run different releases: 0 on n0, 1 on n1, 2 on n2, 3 on n3, others on 5 nodes"


@pytest.mark.parametrize("charge", [-1.0, 2.0, None])
def test_a_charge_that_is_none_is_not_told(charge: float | None, file: PresenceFile, tmp_path: Path) -> None:
    file.see(state("a", Presence.ONLINE, capabilities=None if charge is None else {"battery": charge}))
    file.write(lambda: 0)
    assert read_presence(tmp_path, RUN).nodes["a"].battery is None


def test_a_later_start_takes_over_what_its_run_has_told(file: PresenceFile, tmp_path: Path) -> None:
    file.see(state("a", Presence.ONLINE))
    file.see(state("a", Presence.LOST))
    file.write(lambda: 1)
    later = PresenceFile(tmp_path, RUN)
    later.see(state("a", Presence.ONLINE))
    later.write(lambda: 2)
    assert news(tmp_path) == [("a", "lost"), ("a", "back")]
    other = PresenceFile(tmp_path, "another run")
    other.see(state("b", Presence.ONLINE))
    other.write(lambda: 0)
    assert list(read_presence(tmp_path, "another run").nodes) == ["b"]
    assert not read_presence(tmp_path, RUN).nodes


def test_only_the_newest_are_kept(file: PresenceFile, tmp_path: Path) -> None:
    file.see(state("a", Presence.ONLINE))
    for _ in range(NEWS_MAX):
        file.see(state("a", Presence.LOST))
        file.see(state("a", Presence.ONLINE))
    file.write(lambda: 1)
    assert len(read_presence(tmp_path, RUN).news) == NEWS_MAX


def test_it_is_written_once_a_second_at_most(file: PresenceFile, tmp_path: Path) -> None:
    assert file.due() is None
    file.see(state("a", Presence.ONLINE))
    file.look(10.0, lambda: 0)
    file.see(state("b", Presence.ONLINE))
    file.look(10.5, lambda: 0)
    assert list(read_presence(tmp_path, RUN).nodes) == ["a"]
    due = file.due()
    assert due is not None
    assert 11.0 <= due < 11.1
    file.look(due, lambda: 0)
    assert list(read_presence(tmp_path, RUN).nodes) == ["a", "b"]
    assert file.due() is None


BROKEN = (
    b"",
    b"[]",
    b'{"run": "run", "nodes": {"a": ["online", 1.0]}, "news": []}',
    b'{"run": "run", "nodes": {"a": ["asleep", 1.0, 1, "", null]}, "news": []}',
    b'{"run": "run", "nodes": {}, "news": [[1, 2, "a", "flew"]]}',
    b'{"run": "run", "nodes": {}}',
    b'{"run": "run", "nodes": {}, "news": [], "releases": ["0.3.0"]}',
    b'{"run": "run", "nodes": {}, "news": [], "releases": {"0.3.0": 1}}',
)


@pytest.mark.parametrize("content", BROKEN)
def test_a_damaged_file_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / PRESENCE).write_bytes(content)
    told = read_presence(tmp_path, RUN)
    assert (told.nodes, told.news) == ({}, ())


def test_a_disk_that_refuses_is_no_reason_to_stop(tmp_path: Path) -> None:
    file = PresenceFile(tmp_path / "gone", RUN)
    file.see(state("a", Presence.ONLINE))
    file.write(lambda: 1)
    assert not (tmp_path / "gone").exists()


def test_happenings_have_the_words_of_the_page() -> None:
    assert json.dumps([one.value for one in Happening]) == '["lost", "left", "back", "restarted"]'


def test_node_that_leaves_by_the_pace_is_away_until_a_minute_after_it_is_due(
    file: PresenceFile, clock: Clock, tmp_path: Path
) -> None:
    """FED-327: another process reads it, and a later start takes it over."""
    file.see(state("a", Presence.ONLINE))
    file.see(state("a", Presence.OFFLINE, away_s=30.0))
    file.write(lambda: 1)
    for seen in (file.nodes["a"], read_presence(tmp_path, RUN).nodes["a"], PresenceFile(tmp_path, RUN).nodes["a"]):
        assert [seen.state(at_s) for at_s in (100.0, 189.0, 190.0)] == ["away", "away", "offline"]
        assert (seen.back_ms(189.0), seen.back_ms(190.0)) == (130_000, None)


def test_check_ins_are_no_news(file: PresenceFile, tmp_path: Path) -> None:
    """A fleet that comes and goes by the pace would be all that is told; one that starts again is told."""
    file.see(state("a", Presence.ONLINE))
    file.see(state("a", Presence.OFFLINE, away_s=30.0))
    file.see(state("a", Presence.ONLINE))
    assert file.nodes["a"].state(100.0) == "online"
    file.see(state("a", Presence.OFFLINE, away_s=30.0))
    file.see(state("a", Presence.ONLINE, 2))
    file.see(state("a", Presence.LOST, 2))
    file.write(lambda: 1)
    assert news(tmp_path) == [("a", "restarted"), ("a", "lost")]


def test_a_clock_that_is_set_does_not_change_when_somebody_was_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = in_our_hands(monkeypatch)
    file = PresenceFile(tmp_path, RUN)
    file.see(state("a", Presence.ONLINE))
    file.see(state("b", Presence.ONLINE))
    file.see(state("b", Presence.OFFLINE, away_s=3600.0))
    clocks.pass_by(10.0, -86_400.0)
    assert file.heard_s("a") == 10.0
    file.write(lambda: 0)
    clocks.pass_by(5.0, 2 * 86_400.0)
    found = read_presence(tmp_path, RUN).nodes
    assert (clocks.wall - found["a"].at_s, found["b"].left_s()) == (15.0, 3585.0)
    later = PresenceFile(tmp_path, RUN)
    assert later.heard_s("a") == 15.0
