"""What a gateway says of its site: soon after a change, seldom for long, bounded whatever the site is like."""

from pathlib import Path
from typing import Any

import pytest

import coordinator.engine.events as below_events
import edge_node.engine.events as above_events
from coordinator.monitoring.presence_file import PresenceFile
from federation.protocol.limits import HEADER_BYTES_MAX, SITE_NODES_NAMED_MAX
from federation.protocol.messages import Activity, CoordinatorState, NodeState, Presence, Progress
from federation.protocol.site_messages import SiteNode, SiteReport
from federation.protocol.wire import encode_message
from federation.types import Epoch, Incarnation, NodeId, RoundId, RunId, UpdateId
from site_gateway.engine.events import AboveEvent, BelowEvent
from site_gateway.runtime.reporting import REPORT_PAUSE_S, REPORT_PAUSE_S_MAX, SiteWatch, site_report
from tests.rigs.gateway_rig import GATEWAY, RUN, Rig

CONNECTED = AboveEvent(event=above_events.BrokerConnected())


class Site:
    """Where a machine stands, as a test wants it, and what was said above."""

    def __init__(self, folder: Path, gateways: dict[NodeId, int] | None = None) -> None:
        self.waiting: dict[str, Any] = {"reason": "above", "since": 0.0, "failing": {}, "failed": 0}
        self.snapshot: dict[str, Any] = {
            "version": 3,
            "order": 4,
            "sums": 1,
            "known": 2,
            "online": 1,
            "live": 0,
            "buffered": 2,
            "waiting_for": self.waiting,
        }
        self.wall_s = 1000.0
        self.presence = PresenceFile(folder, RUN, lambda: self.wall_s, gateways=gateways)
        self.said: list[SiteReport] = []
        self.watch = SiteWatch(self.presence, lambda: self.snapshot, self._say)

    def _say(self, progress: Progress) -> None:
        assert progress.site is not None
        encode_message(progress)
        self.said.append(progress.site)

    def at(self, now: float) -> int:
        """Look, and say how many reports there are."""
        self.watch.look(now, lambda: 0)
        return len(self.said)

    def born(self, node: str, presence: Presence = Presence.ONLINE) -> None:
        """A node of the site speaks."""
        state = NodeState(presence=presence, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
        self.watch.see(BelowEvent(event=below_events.NodeStateReceived(node=NodeId(node), state=state)))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_it_is_said_at_a_connect_and_when_it_has_changed(site: Site) -> None:
    """FED-280."""
    assert site.at(10.0) == 0
    site.watch.see(CONNECTED)
    assert site.at(10.0) == 1
    site.born("n1")
    assert site.at(100.0) == 1
    site.snapshot["online"] = 2
    site.born("n2")
    assert site.watch.due() is not None
    assert site.at(200.0) == 2
    assert site.said[-1].online == 2
    assert (site.said[-1].waits, site.said[-1].waits_s) == ("above", 200.0)


def test_an_age_alone_is_no_change_and_nothing_is_due_without_news(site: Site) -> None:
    site.watch.see(CONNECTED)
    site.at(10.0)
    site.presence.write(lambda: 0)
    assert site.watch.due() is None
    assert site.at(1e6) == 1


def test_who_has_just_come_above_is_told_again_at_once(site: Site) -> None:
    """FED-280."""
    site.watch.see(CONNECTED)
    site.at(10.0)
    state = CoordinatorState(presence=Presence.ONLINE, run=RunId(RUN), epoch=Epoch(2), protocol_min=1, protocol_max=1)
    site.watch.see(AboveEvent(event=above_events.CoordinatorStateReceived(state=state)))
    assert site.at(10.5) == 2
    site.watch.see(AboveEvent(event=above_events.BrokerDisconnected(reason="gone")))
    site.snapshot["online"] = 0
    site.born("n1")
    assert site.at(500.0) == 2
    site.watch.see(CONNECTED)
    assert site.at(501.0) == 3


def test_a_site_that_always_changes_says_it_once_a_minute(site: Site) -> None:
    """FED-280."""
    site.watch.see(CONNECTED)
    for second in range(3600):
        site.snapshot["buffered"] = second
        site.born("n1")
        site.at(float(second))
    assert 60 <= len(site.said) <= 60 + REPORT_PAUSE_S_MAX / REPORT_PAUSE_S
    site.at(3600.0 + REPORT_PAUSE_S_MAX)
    told = len(site.said)
    site.snapshot["buffered"] = -1
    site.snapshot["buffered"] = 7
    site.born("n1")
    assert site.at(3600.0 + 3 * REPORT_PAUSE_S_MAX) == told + 1


def test_a_site_of_ten_thousand_nodes_says_no_more_than_a_small_one(tmp_path: Path) -> None:
    """FED-280."""
    site = Site(tmp_path)
    for index in range(10_000):
        site.born(f"{index:064}", Presence.LOST if index % 2 else Presence.ONLINE)
    site.snapshot |= {"known": 10_000, "online": 5_000}
    site.waiting |= {"failing": {f"{index:064}": "é\n" * 400 for index in range(10)}, "failed": 4_000}
    found = site_report(site.snapshot, site.presence, 1e12)
    assert len(found.some) == SITE_NODES_NAMED_MAX
    assert (found.nodes, found.online, found.failing) == (10_000, 5_000, 4_000)
    numbers = {"m" * 30 + f"{index:02}": 0.5 for index in range(16)}
    whole = Progress(round=RoundId(2**32 - 1), activity=Activity.TRAINING, metrics=numbers, site=found)
    assert len(encode_message(whole)) < HEADER_BYTES_MAX - 100


def test_those_that_fail_come_first_and_then_who_has_gone_last(site: Site) -> None:
    for node in ("early", "late", "here"):
        site.born(node)
        site.wall_s += 100.0
    for node in ("early", "late"):
        site.born(node, Presence.LOST)
    site.born("never", Presence.LOST)
    site.waiting |= {"failing": {"here": "no disk"}, "failed": 1}
    site.wall_s = 1500.0
    assert site_report(site.snapshot, site.presence, 1.0).some == (
        SiteNode(node=NodeId("here"), reason="no disk", heard_s=300.0),
        SiteNode(node=NodeId("late"), heard_s=400.0),
        SiteNode(node=NodeId("early"), heard_s=500.0),
        SiteNode(node=NodeId("never")),
    )


def test_a_gateway_above_gateways_adds_up_what_they_say(tmp_path: Path) -> None:
    """FED-280."""
    site = Site(tmp_path, {NodeId("hall-1"): 5, NodeId("hall-2"): 50})
    for hall, report in (
        ("hall-1", SiteReport(nodes=900, online=4)),
        ("hall-2", SiteReport(nodes=7, online=6, sites=2)),
    ):
        site.born(hall)
        progress = Progress(round=RoundId(0), activity=Activity.IDLE, site=report)
        site.watch.see(BelowEvent(event=below_events.ProgressReceived(node=NodeId(hall), progress=progress)))
    site.snapshot |= {"known": 3, "online": 3}
    found = site_report(site.snapshot, site.presence, 1.0)
    assert (found.nodes, found.online, found.sites) == (1 + 5 + 7, 1 + 4 + 6, 4)


def test_what_fails_below_a_gateway_below_is_told_with_its_name(tmp_path: Path) -> None:
    """FED-280: of each gateway below the first, and counts as far as it may speak for nodes."""
    site = Site(tmp_path, {NodeId("hall-1"): 5})
    some = (SiteNode(node=NodeId("h3"), reason="no disk", heard_s=4.0),)
    progress = Progress(
        round=RoundId(0),
        activity=Activity.TRAINING,
        site=SiteReport(nodes=4, online=4, training=3, failing=900, some=some),
    )
    site.born("hall-1")
    site.watch.see(BelowEvent(event=below_events.ProgressReceived(node=NodeId("hall-1"), progress=progress)))
    site.snapshot |= {"known": 1, "online": 1, "live": 1}
    found = site_report(site.snapshot, site.presence, 1.0)
    assert (found.training, found.failing) == (3, 4)
    assert found.some == (SiteNode(node=NodeId("hall-1"), reason="h3: no disk", heard_s=4.0),)


def test_a_whole_gateway_says_where_its_site_stands(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rig")
    rig.above.announce()
    rig.until_offered(UpdateId(f"0-{GATEWAY}"))
    found = site_report(rig.machine.snapshot(), PresenceFile(tmp_path, RUN), rig.now)
    rig.die()
    assert (found.nodes, found.online, found.updates, found.sums) == (3, 3, 3, 1)
    assert (found.version, found.round, found.waits) == (0, 0, "above")
