"""What is told of a coordinator that has ended, or has lost its broker, is told as what was, and grows no older."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.engine.events import NodeStateReceived
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.monitoring.screen import full_screen, make_console
from coordinator.monitoring.state_files import read_waiting
from coordinator.monitoring.status import read_nodes
from coordinator.monitoring.status_file import SAID_S, StatusFile
from coordinator.monitoring.why import explain
from coordinator.storage.parts import Leader
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import StorageError
from federation.protocol.messages import NodeState, Presence
from federation.types import Incarnation, NodeId
from fedmq.page.metrics import exposition
from fedmq.run_view import RunView
from tests.rigs.clocks import Clocks, in_our_hands
from tests.rigs.model_values import initialised
from tests.rigs.status_values import snapshot, status_file


class Run:
    """A coordinator that has the folder, and what it says; it can be killed, and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = SqliteStore(folder)
        initialised(self.store)
        self.stands: dict[str, Any] = {}
        self.file = self.begin()

    def begin(self) -> StatusFile:
        self.file = status_file(self.folder, lambda: self.stands)
        return self.file

    def say(self, reason: str, **more: Any) -> None:
        self.stands = snapshot(reason, **more)
        self.file.write()

    def start_again(self) -> None:
        self.store = SqliteStore(self.folder)

    def told(self) -> dict[str, Any]:
        summary: dict[str, Any] = dict(RunView(self.folder).now().summary["waiting"])
        return summary

    def gauges(self) -> dict[str, float]:
        """What Prometheus is told of waiting and of nodes; a reason is a name of its own."""
        families = text_string_to_metric_families(exposition(RunView(self.folder).now()).decode())
        samples = [one for family in families for one in family.samples]
        wanted = re.compile(r"fedmq_(waiting|waiting_seconds|nodes_online|nodes_away|coordinator_up|nodes_by_release)$")
        return {
            one.labels.get("reason", one.name.removeprefix("fedmq_")): one.value
            for one in samples
            if wanted.match(one.name) and one.labels.get("release", "same") == "same"
        }


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return in_our_hands(monkeypatch)


@pytest.fixture
def run(tmp_path: Path, clocks: Clocks) -> Iterator[Run]:
    del clocks
    made = Run(tmp_path / "state")
    yield made
    made.store.close()


def born(run: Run, node: str, release: str | None = None) -> None:
    told = NodeState(
        presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1, release=release
    )
    file = PresenceFile(run.folder, run.store.run)
    file.see(NodeStateReceived(node=NodeId(node), state=told))
    file.write(lambda: 1)


def test_whoever_has_ended_waits_no_longer(run: Run, clocks: Clocks) -> None:
    """`fedmq_waiting_seconds` grew by a day for each day after a coordinator was killed."""
    run.say("assignments", online=3)
    clocks.pass_by(30.0)
    run.say("assignments", online=2)
    assert run.gauges()["waiting_seconds"] == 30.0
    clocks.pass_by(10.0)
    assert run.gauges() == {
        "coordinator_up": 1.0,
        "nodes_online": 2.0,
        "nodes_away": 0.0,
        "nodes_by_release": 0.0,
        "waiting_seconds": 40.0,
        "assignments": 1.0,
    }
    run.store.close()
    clocks.pass_by(86_400.0)
    waiting = read_waiting(run.folder)
    assert (waiting.since_s, waiting.said_s, waiting.known_s) == (30.0, 86_410.0, 86_410.0)
    assert run.told()["since_s"] == 30.0
    assert run.gauges() == {
        "coordinator_up": 0.0,
        "nodes_online": 0.0,
        "nodes_away": 0.0,
        "nodes_by_release": 0.0,
        "waiting_seconds": 0.0,
    }, "nobody waits, so there is no reason"


def test_a_run_that_is_over_stays_over_and_nobody_waits_for_it(run: Run, clocks: Clocks) -> None:
    """The rules for Prometheus tell by the reason that a run has ended in order."""
    run.say("finished")
    clocks.pass_by(50.0)
    assert {name: run.gauges()[name] for name in ("finished", "waiting_seconds")} == {
        "finished": 1.0,
        "waiting_seconds": 0.0,
    }
    run.store.close()
    clocks.pass_by(50.0)
    assert {name: run.gauges()[name] for name in ("finished", "waiting_seconds")} == {
        "finished": 1.0,
        "waiting_seconds": 0.0,
    }
    assert run.told()["over"] is True


def test_a_coordinator_without_its_broker_waits_and_knows_of_nobody(run: Run, clocks: Clocks) -> None:
    """It went on telling that those were online of whom it had not heard for hours."""
    born(run, "a", "9.9.9")
    run.say("assignments", online=2, connected=True)
    assert read_nodes(run.folder)["nodes"] == []
    assert [RunView(run.folder).now().presence["a"].presence, run.told()["connected"]] == [Presence.ONLINE, True]
    clocks.pass_by(100.0)
    run.say("broker", online=2, connected=False)
    clocks.pass_by(200.0)
    waiting = read_waiting(run.folder)
    assert (waiting.since_s, waiting.known_s) == (200.0, 200.0)
    assert "since 3 min, 2 were online" in explain(waiting)
    told = run.told()
    assert (told["running"], told["connected"], told["online"], told["away"]) == (True, False, 0, 0)
    found = run.gauges()
    assert (found["waiting_seconds"], found["broker"], found["nodes_online"]) == (200.0, 1.0, 0.0)
    run.say("finished", online=1, connected=False)
    assert "1 was online" in explain(read_waiting(run.folder))


def test_of_a_status_of_an_earlier_release_the_reason_says_whether_there_is_a_broker(run: Run) -> None:
    for reason, known in (("broker", False), ("assignments", True)):
        run.say(reason)
        text = (run.folder / "status.json").read_text()
        (run.folder / "status.json").write_text(text.replace('"connected": true, ', ""))
        assert "connected" not in (run.folder / "status.json").read_text()
        assert run.told()["connected"] is known


def test_releases_are_compared_while_it_is_known_who_is_there(run: Run) -> None:
    born(run, "a", "9.9.9")
    born(run, "b", "8.8.8")

    def notes() -> str:
        console = make_console()
        with console.capture() as shown:
            console.print(full_screen(run.folder))
        return shown.get() + " ".join(RunView(run.folder).now().summary["notes"])

    run.say("assignments")
    assert notes().count("nodes run different releases") == 2
    run.say("broker", connected=False)
    assert "nodes run different releases" not in notes()
    run.say("assignments")
    run.store.close()
    assert "nodes run different releases" not in notes()


def test_a_start_without_a_broker_knows_of_nodes_what_the_one_before_knew(run: Run, clocks: Clocks) -> None:
    """It said `as known 0 s ago` of nodes that nobody had heard of since the day before."""
    run.say("assignments", connected=True)
    run.store.close()
    clocks.pass_by(86_400.0)
    run.start_again()
    run.begin()
    run.say("broker", connected=False)
    clocks.pass_by(10.0)
    assert read_waiting(run.folder).known_s == 86_410.0
    run.say("settling", connected=True)
    assert read_waiting(run.folder).known_s is None


def test_a_process_that_has_just_begun_does_not_wait_for_what_the_one_before_waited_for(
    run: Run, clocks: Clocks
) -> None:
    """While it loaded, and for ever where it was a standby, it was said to wait since the day before."""
    run.say("assignments")
    run.store.close()
    clocks.pass_by(300.0)
    run.start_again()
    waiting = read_waiting(run.folder)
    assert (waiting.starting, waiting.since_s, waiting.said_s, waiting.known_s) == (True, 0.0, 300.0, 300.0)
    assert re.match(
        r"a coordinator has started \(process \d+\), and has not said yet what it waits for;"
        " 5 min ago the one before waited for updates of nodes that are training, 2 online",
        explain(waiting),
    )
    assert run.gauges() == {
        "coordinator_up": 1.0,
        "nodes_online": 0.0,
        "nodes_away": 0.0,
        "nodes_by_release": 0.0,
        "waiting_seconds": 0.0,
    }
    other = Leader(holder="hall-2:417", term=5, lease_s=10.0, since_s=90.0, renewed_s=1.0)
    with pytest.raises(StorageError, match="is of a standby"):
        read_waiting(run.folder, other)
    run.begin()
    run.say("settling")
    assert read_waiting(run.folder, other).starting is False


def test_the_last_word_is_of_the_end_and_of_a_kill_it_is_known_to_the_minute(run: Run, clocks: Clocks) -> None:
    """A coordinator that had waited for nodes all night was said to have been heard the evening before."""
    run.stands = snapshot("nodes_min")
    run.file.look(0.0)
    clocks.pass_by(SAID_S - 1)
    run.file.look(SAID_S - 1)
    assert read_waiting(run.folder).said_s == SAID_S - 1
    clocks.pass_by(1.0)
    run.file.look(SAID_S)
    assert (read_waiting(run.folder).said_s, read_waiting(run.folder).since_s) == (0.0, SAID_S)
    clocks.pass_by(30.0)
    run.file.write(again=True)
    assert (read_waiting(run.folder).said_s, read_waiting(run.folder).since_s) == (0.0, SAID_S + 30.0)


@pytest.mark.parametrize(("renewed_s", "led_s"), [(1.0, 90.0), (80.0, 10.0), (95.0, 0.0)])
def test_a_leader_whose_lease_has_run_out_has_led_until_it_last_said_so(renewed_s: float, led_s: float) -> None:
    leader = Leader(holder="hall-2:417", term=5, lease_s=10.0, since_s=90.0, renewed_s=renewed_s)
    assert leader.led_s == led_s
