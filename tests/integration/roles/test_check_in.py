"""Real processes: nodes leave by the pace, come back by themselves, and no work of theirs is lost [FED-325]."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.chaos.federation import COORDINATOR, running
from benchmarks.chaos.plan import Plan
from federation.runtime.local_broker import LocalBroker
from fedmq.demo.processes import Line

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

PACE_S, INTERVAL_S = 2.0, 13.0
"""A node leaves when for ten seconds nothing was at hand: there must be as long between two versions."""

PLAN = Plan(nodes=2, task="quadratic", buffer=2, lease_s=30.0, pace_s=PACE_S, interval_min_s=INTERVAL_S)
CYCLES = 2
PATIENCE_S = 90.0


def test_nodes_that_check_in_are_away_come_back_and_go_on_with_their_work(broker: LocalBroker, tmp_path: Path) -> None:
    """Each is away twice, and after each time both are in a version; nobody is missed, and nothing is lost."""
    away, missed = Counter[str](), list[str]()
    versions_at = dict[str, int]()
    made = [0]

    def hear(line: Line) -> None:
        if line.source != COORDINATOR:
            return
        match line.event:
            case "node_away":
                node = str(line.fields["node"])
                away[node] += 1
                versions_at[node] = made[0]
            case "node_gone" | "roll_call" | "lease_expired":
                missed.append(f"{line.event} {line.fields}")
            case "version_committed":
                made[0] = int(str(line.fields["version"]))

    with running(PLAN, tmp_path, broker.url) as federation:
        federation.watchers.append(hear)

        def been_away_and_worked() -> bool:
            return all(away[node] >= CYCLES and made[0] > versions_at[node] for node in PLAN.names)

        assert federation.wait(been_away_and_worked, PATIENCE_S), (away, made)
        assert missed == []
        assert federation.drain()
        report = federation.audit()
    assert report.holds
    assert (len(report.lost), len(report.double)) == (0, 0)
