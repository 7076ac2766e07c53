"""A node that owes nothing leaves by the coordinator's pace, and comes back: FED-325 and FED-326."""

from edge_node.engine.events import BrokerConnected, BrokerDisconnected
from edge_node.engine.pace import PACE_S_MAX, Pace
from federation.protocol.cohort import cohort_of
from federation.protocol.messages import Presence, ReceiptStatus
from federation.types import RoundId
from tests.rigs.node_rig import NODE, RUN, Script, announcement, holding

HOUR_S = 3600.0


def paced(draw: float = 0.5) -> Script:
    """A node that has heard of the pace."""
    node = Script(holding(0), draw=draw)
    node.coordinator(pace_s=HOUR_S)
    return node


def away(node: Script) -> list[str]:
    return [line for line in node.wait_until(node.now + 10.0) if not line.startswith("state online")]


def test_a_node_to_which_nothing_comes_leaves_and_says_for_how_long() -> None:
    node = paced()
    assert node.wait_until(109.0) == ["state online #7 idle None"]  # of a coordinator that is new to it [FED-112]
    assert node.wait() == ["state offline #7 idle None for 3600 s", "rest 3600 s"]
    assert node.notes() == ["away"]
    node.on(BrokerDisconnected(reason="closed here"))
    assert node.machine.deadline() is None
    node.now += HOUR_S
    assert node.on(BrokerConnected())[0] == "state online #7 idle None"
    assert away(node) == ["state offline #7 idle None for 3600 s", "rest 3600 s"]


def test_nodes_that_leave_together_come_back_apart() -> None:
    for draw, seconds in ((0.0, "1800"), (0.25, "2700"), (0.999, "5396.4")):
        assert away(paced(draw))[-1] == f"rest {seconds} s"


def test_a_node_leaves_only_after_the_verdict_on_its_update() -> None:
    node = paced(draw=0.0)
    node.announce(announcement(1, 0))
    node.wait_until(node.now + 60.0)
    node.trained(1)
    node.saved()
    node.receipt(1, ReceiptStatus.STORED)
    assert not [line for line in node.wait_until(node.now + 900.0) if line.startswith(("rest", "state"))]
    node.receipt(1, ReceiptStatus.APPLIED)
    assert away(node)[-1] == "rest 1800 s"


def test_without_a_pace_or_a_coordinator_a_node_stays() -> None:
    node = paced()
    node.coordinator()
    assert away(node) == []
    node.coordinator(pace_s=0.0)
    assert away(node) == []
    node.coordinator(Presence.OFFLINE, pace_s=HOUR_S)
    assert away(node) == []


def test_work_that_was_on_its_way_calls_a_node_back_at_once() -> None:
    """FED-326."""
    node = paced()
    away(node)
    assert node.announce(announcement(1, 0, cohort=cohort_of(RUN, RoundId(1), [NODE])))[-1] == "rest 0 s"
    assert node.on(BrokerConnected())[0].startswith("state online #7 training 1")


def test_the_wait_begins_anew_with_each_work() -> None:
    pace = Pace(lambda: 0.5, 10.0)
    pace.hear(60.0)
    assert pace.due(0.0, idle=True, connected=True) is None
    assert pace.deadline() == 10.0
    assert pace.due(9.0, idle=False, connected=True) is None
    assert pace.due(10.0, idle=True, connected=True) is None
    assert pace.deadline() == 20.0
    assert pace.due(20.0, idle=True, connected=True) == 60.0
    assert pace.due(21.0, idle=True, connected=False) is None
    assert pace.due(22.0, idle=False, connected=False) == 0.0


def test_a_pace_beyond_a_week_is_not_obeyed() -> None:
    """Who pays if it is a lie: the whole fleet would be away for as long."""
    pace = Pace(lambda: 0.999, linger_s=0.0)
    pace.hear(1e9)
    assert pace.due(0.0, idle=True, connected=True) == PACE_S_MAX * 1.499
