"""What gateways say of their sites: kept of those alone that are named, in bounds, and told in words."""

import json
from pathlib import Path

import pytest

from coordinator.engine.events import NodeStateReceived, ProgressReceived
from coordinator.monitoring.presence import read_presence
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.monitoring.sites import SITES_SHOWN, SiteSeen, added_up, site_lines, sites_row
from coordinator.storage.files import PRESENCE
from federation.protocol.messages import Activity, NodeState, Presence, Progress
from federation.protocol.site_messages import SiteNode, SiteReport
from federation.types import Incarnation, ModelVersion, NodeId, RoundId

RUN = "run"
SHOP, HALL, STRANGER = NodeId("press-shop"), NodeId("hall-2"), NodeId("stranger")
REPORT = SiteReport(
    waits="assignments",
    waits_s=30.0,
    nodes=20,
    online=18,
    training=5,
    updates=13,
    sums=1,
    failing=2,
    version=ModelVersion(8),
    round=RoundId(9),
    some=(
        SiteNode(node=NodeId("press-3"), reason="no disk", heard_s=1.0),
        SiteNode(node=NodeId("press-7"), heard_s=7200.0),
        SiteNode(node=NodeId("press-9")),
    ),
)


def born(node: NodeId, presence: Presence = Presence.ONLINE) -> NodeStateReceived:
    state = NodeState(presence=presence, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
    return NodeStateReceived(node=node, state=state)


def said(node: NodeId, report: SiteReport | None) -> ProgressReceived:
    return ProgressReceived(node=node, progress=Progress(round=RoundId(0), activity=Activity.IDLE, site=report))


@pytest.fixture
def file(tmp_path: Path) -> PresenceFile:
    return PresenceFile(tmp_path, RUN, lambda: 1000.0, gateways={SHOP: 64, HALL: 8})


def test_only_who_is_named_as_a_gateway_is_heard(file: PresenceFile, tmp_path: Path) -> None:
    """FED-281."""
    for node in (SHOP, STRANGER):
        file.see(born(node))
        file.see(said(node, REPORT))
    file.see(said(SHOP, None))
    file.write(lambda: 0)
    found = read_presence(tmp_path, RUN)
    assert found.sites == {
        SHOP: SiteSeen(members_max=64, at_s=1000.0, report=REPORT),
        HALL: SiteSeen(members_max=8),
    }
    assert found.gateways_here == {SHOP: True, HALL: False}


def test_a_later_start_takes_it_over_as_far_as_its_settings_name_it(file: PresenceFile, tmp_path: Path) -> None:
    file.see(born(SHOP))
    file.see(said(SHOP, REPORT))
    file.write(lambda: 0)
    later = PresenceFile(tmp_path, RUN, gateways={SHOP: 10})
    assert later.sites == {SHOP: SiteSeen(members_max=10, at_s=1000.0, report=REPORT)}
    assert PresenceFile(tmp_path, RUN).sites == {}


def test_what_a_later_release_says_more_is_passed_over(file: PresenceFile, tmp_path: Path) -> None:
    file.see(born(SHOP))
    file.see(said(SHOP, REPORT))
    file.write(lambda: 0)
    content = json.loads((tmp_path / PRESENCE).read_text())
    content["sites"][SHOP][2]["colour"] = "red"
    content["sites"][SHOP][2]["some"][0]["colour"] = "red"
    (tmp_path / PRESENCE).write_text(json.dumps(content))
    assert read_presence(tmp_path, RUN).sites[SHOP].report == REPORT
    del content["sites"]
    (tmp_path / PRESENCE).write_text(json.dumps(content))
    assert read_presence(tmp_path, RUN).sites == {}


def test_a_claim_counts_for_no_more_nodes_than_its_gateway_may_have() -> None:
    """FED-281."""
    liar = SiteSeen(members_max=8, at_s=1.0, report=SiteReport(nodes=5000, online=2**32 - 1))
    assert added_up({SHOP: SiteSeen(members_max=64, at_s=1.0, report=REPORT), HALL: liar}) == (28, 26)
    (line,) = site_lines({HALL: liar}, {HALL: True}, None, now_s=1.0)
    assert "it claims more nodes than it may speak for, which is 8 (gateways.members_max)" in line


def test_words_say_what_the_site_waits_for_and_who_is_not_as_it_should_be() -> None:
    sites = dict[str, SiteSeen](
        {SHOP: SiteSeen(members_max=64, at_s=1000.0, report=REPORT), HALL: SiteSeen(members_max=8)}
    )
    assert list(site_lines(sites, {SHOP: True}, None, now_s=1010.0)) == [
        "site hall-2: its gateway has not been here",
        (
            "site press-shop: 18 of 20 nodes online; waits for updates of nodes that are training, since 40 s;"
            " 13 updates in no version yet, 1 sum without a verdict;"
            " what comes to nothing there: press-3: no disk and 1 more;"
            " not there: press-7 (heard 2 h ago), press-9 (never heard)"
        ),
    ]
    (gone,) = site_lines({SHOP: sites[SHOP]}, {SHOP: False}, None, now_s=1300.0)
    assert gone.startswith(
        "site press-shop: its gateway is not there, and was heard 5 min ago with 18 of 20 nodes online;"
        " waited for updates of nodes that are training; 13 updates"
    )
    (silent,) = site_lines({HALL: sites[HALL]}, {HALL: True}, None)
    assert silent == "site hall-2: its gateway has said nothing of it"


def test_many_sites_are_told_in_one_sentence() -> None:
    quiet = SiteReport(nodes=10, online=9)
    sites = {f"s{index:03}": SiteSeen(members_max=10, at_s=1.0, report=quiet) for index in range(300)}
    lines = list(site_lines(sites, dict.fromkeys(sites, True), None, now_s=1.0))
    assert len(lines) == SITES_SHOWN + 1
    assert lines[-1] == "and 290 more sites: 2,610 of 2,900 nodes online"


def test_ages_grow_while_nothing_is_heard() -> None:
    row = sites_row({SHOP: SiteSeen(members_max=64, at_s=1000.0, report=REPORT)}, {SHOP: False}, None, now_s=1600.0)[
        SHOP
    ]
    assert (row["said_s"], row["waits_s"], row["some"]["press-7"]["heard_s"]) == (600.0, 630.0, 7800.0)


def test_a_site_whose_run_is_over_waits_for_nothing() -> None:
    """It read `waits for nothing: the run is over`."""
    ended = SiteSeen(members_max=64, at_s=1000.0, report=SiteReport(waits="finished", waits_s=5.0, nodes=2, online=2))
    (line,) = site_lines({SHOP: ended}, {SHOP: True}, None, now_s=1000.0)
    said = "the run is over, late updates still get their receipts"
    assert line == f"site press-shop: 2 of 2 nodes online; {said}, since 5 s"
    (gone,) = site_lines({SHOP: ended}, {SHOP: False}, None, now_s=1000.0)
    assert gone.endswith(f"with 2 of 2 nodes online; {said}")


def test_what_a_coordinator_that_runs_no_more_knew_is_told_with_its_age() -> None:
    """It read as if it were so now, and waits went on growing that nobody waited for."""
    sites = dict[str, SiteSeen]({SHOP: SiteSeen(members_max=64, at_s=1000.0, report=REPORT)})
    for here, words in (
        (True, "18 of 20 nodes online"),
        (False, "its gateway was not there, and was heard 10 min ago with 18 of 20 nodes online"),
    ):
        (line,) = site_lines(sites, {SHOP: here}, 300.0, now_s=1600.0)
        then = (
            f"site press-shop, as known 5 min ago: {words}; waited for updates of nodes that are training; 13 updates"
        )
        assert line.startswith(then)
        row = sites_row(sites, {SHOP: here}, 300.0, now_s=1600.0)[SHOP]
        assert (row["online"], row["known_s"], row["said_s"], row["waits_s"]) == (here, 300.0, 600.0, 330.0)
    many = {f"s{index:03}": sites[SHOP] for index in range(SITES_SHOWN + 2)}
    *_, rest = site_lines(many, dict.fromkeys(many, True), 300.0, now_s=1600.0)
    assert rest == "and 2 more sites, as known 5 min ago: 36 of 40 nodes online"
