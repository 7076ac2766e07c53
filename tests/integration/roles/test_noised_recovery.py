"""A coordinator that adds noise is killed around its commits: what was released is charged, and keeps its noise."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.chaos.federation import COORDINATOR, running_at
from benchmarks.chaos.life import HARMLESS, KILLED, Arms, Life
from benchmarks.chaos.plan import OpenSite, Plan
from coordinator.storage.read_only import ReadOnlyStore
from federation.runtime.local_broker import LocalBroker
from federation.types import Digest, ModelVersion, NodeId
from fedmq.audit.audit import audit

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

Z = 20.0
POINTS = (
    "coordinator_after_update_stored:3",
    "coordinator_after_commit",
    "coordinator_before_announce:2",
    "coordinator_after_commit:3",
)
"""Before, in and after the transaction of a version, and before anybody is told of it; one in each life."""

PRIVACY = f"""
[privacy]
unit = "nodes"
noise_by = "coordinator"
epsilon = 8.0
delta = 1e-5
clip = 1.0
noise = {Z}
"""


class NoisedSite(OpenSite):
    """Processes without certificates, whose coordinator adds noise."""

    def prepare(self) -> None:
        OpenSite.prepare(self)
        with self.settings.open("a", encoding="utf-8") as file:
            file.write(PRIVACY)


@dataclass(frozen=True)
class Seen:
    """What the disk says once a process was killed."""

    spent: dict[NodeId, float]
    versions: dict[ModelVersion, Digest]

    @classmethod
    def of(cls, folder: Path) -> "Seen":
        with ReadOnlyStore(folder) as store:
            spent = {node: taking.spent for node, taking in store.released().takings.items()}
            return cls(spent, {row.record.version: row.record.digest for row in store.history()})


def test_what_was_released_is_charged_and_keeps_its_noise(broker: LocalBroker, tmp_path: Path) -> None:
    plan = Plan(nodes=3, task="quadratic", buffer=2, quorum=2, spread_s=0.05)
    site = NoisedSite(plan, tmp_path, broker.url)
    site.prepare()
    points, seen = list(POINTS), [Seen({}, {})]

    def arms(name: str) -> Arms:
        return Arms(failpoint=points.pop(0)) if name == COORDINATOR and points else HARMLESS

    with running_at(site, arms) as federation:
        for count in range(1, len(POINTS) + 1):
            assert federation.wait(lambda: killed(federation.past) >= count, 60.0), count  # noqa: B023 - waited for here
            seen.append(Seen.of(site.state(COORDINATOR)))
        assert federation.wait_versions(3, 60.0)
    seen.append(Seen.of(site.state(COORDINATOR)))
    for before, after in itertools.pairwise(seen):
        assert all(after.spent[node] >= spent for node, spent in before.spent.items()), "an account went down"
        assert before.versions.items() <= after.versions.items(), "a version is made with other noise"
    with ReadOnlyStore(site.state(COORDINATOR)) as store:
        members = [node for release in store.releases() for node in release.prices]
        assert [release.version for release in store.releases()] == list(range(1, len(seen[-1].versions)))
    for node, spent in seen[-1].spent.items():
        assert math.isclose(spent, members.count(node) / Z**2)
    assert [one for one in audit(site.state(COORDINATOR)).findings if one.failed] == []


def killed(past: Sequence[Life]) -> int:
    """How many lives of the coordinator were ended by a failpoint."""
    return sum(life.name == COORDINATOR and life.code == KILLED for life in past)
