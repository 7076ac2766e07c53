"""A small part of `make chaos ARGS="--privacy"`: a helper, the coordinator, a node die; then stores are audited."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from benchmarks.chaos.federation import COORDINATOR, running_at
from benchmarks.chaos.life import HARMLESS, KILLED, Arms
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.private import LIMIT_S, judge
from benchmarks.chaos.private_site import MEMBERS_MIN, PrivateSite, SiteBroker
from benchmarks.chaos.table import Row
from fedmq.audit.audit import audit

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("masked recovery"),
]

DEATHS = {
    "helper-0": "helper_after_used:2",
    COORDINATOR: "coordinator_after_frozen:3",
    "node-0": "node_after_offer:1",
}
"""Each in the first life: in the middle of a sum, twice, and while an update is on its way."""

DAMAGE = {
    "M1": "UPDATE batches SET members = (SELECT members FROM batches WHERE number = 1) WHERE number = 2",
    "M2": "UPDATE answers SET payload = zeroblob(LENGTH(payload)) WHERE batch = (SELECT MAX(batch) FROM batches)",
    "M3": "UPDATE batches SET members = SUBSTR(members, 1, 4 * 16) WHERE number = 1",
    "M4": "INSERT INTO seeds SELECT ticket, class, zeroblob(32) FROM updates JOIN answers USING (batch)",
    "M5": "UPDATE ledger SET releases = releases - 1 WHERE node = 'node-1'",
}
"""What a store that had gone wrong would hold, by the invariant that must find it."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> PrivateSite:
    """A federation whose processes were killed, and that went on; its row is checked here, for all tests."""
    plan = Plan(nodes=MEMBERS_MIN + 1, task="quadratic-200", buffer=MEMBERS_MIN, spread_s=0.05)
    site = PrivateSite(plan, tmp_path_factory.mktemp("masked"), count=2, threshold=2)
    site.prepare()
    armed = dict(DEATHS)
    row = Row(fault="one kill of each")

    def arms(name: str) -> Arms:
        point = armed.pop(name, "")
        return Arms(failpoint=point) if point else HARMLESS

    with SiteBroker(site), running_at(site, arms) as federation:

        def killed() -> set[str]:
            return {life.name for life in federation.past if life.code == KILLED}

        assert federation.wait(lambda: killed() == DEATHS.keys(), 2 * LIMIT_S), killed()
        assert federation.wait(federation.everybody_works, LIMIT_S)
        assert federation.wait_versions(2, LIMIT_S)
        judge(federation, row)
        assert federation.version >= 4
    assert (row.lost, row.double, row.hung, row.failures) == (0, 0, 0, [])
    return site


def findings(site: PrivateSite) -> dict[str, str]:
    """What fails, by its invariant."""
    report = audit(site.state(COORDINATOR), helpers=[site.state(name) for name in site.helpers])
    assert {one.invariant for one in report.findings} >= DAMAGE.keys()
    return {one.invariant: one.detail for one in report.findings if one.failed}


def test_nothing_is_lost_counted_twice_or_revealed_twice(stopped: PrivateSite) -> None:
    assert findings(stopped) == {}


@pytest.mark.parametrize("invariant", sorted(DAMAGE))
def test_the_audit_finds_what_a_helper_must_never_do(stopped: PrivateSite, tmp_path: Path, invariant: str) -> None:
    store = stopped.state("helper-0") / "helper.sqlite"
    kept = Path(shutil.copy2(store, tmp_path))
    try:
        with sqlite3.connect(store) as database:
            assert database.execute(DAMAGE[invariant]).rowcount > 0
        database.close()
        assert invariant in findings(stopped)
    finally:
        shutil.copy2(kept, store)
