"""Only monotonic time decides: the wall clock, which jumps, is read where it tells people something."""

import ast

import pytest

from tests.rigs.source_tree import files, nodes, shown, tree

pytestmark = pytest.mark.xdist_group("source")

WALL_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}

MAY_READ_IT = {
    "coordinator/monitoring/state_files.py": "since when, for a person",
    "coordinator/monitoring/status_file.py": "when it was said, for a person",
    "coordinator/artifacts/run_report.py": "when a report was made, for a person",
    "coordinator/storage/sqlite_store.py": "when the run began, for a person",
    "coordinator/backup/making.py": "when a backup was made, for a person",
    "coordinator/backup/restoring.py": "when a run began, as the store does",
    "coordinator/monitoring/doctor.py": "certificates, and whether the clock was ever set",
    "coordinator/monitoring/presence.py": "whether a node that is away is due, for a person",
    "coordinator/monitoring/privacy.py": "when a statement was made, for a person",
    "coordinator/monitoring/sites.py": "how long ago a gateway has said it, for a person",
    "site_gateway/setup/doctor.py": "whether the clock was ever set",
    "edge_node/storage/sqlite_store.py": "how many days an update has waited, before its run gives way to newer ones",
    "edge_node/cli.py": "how old readings are, for a person",
    "edge_node/readings/running.py": "when a reading came that says no time of its own",
    "edge_node/model/service.py": "when a reading came that says no time of its own",
    "edge_node/model/versions.py": "when a model was written, for a person",
    "edge_node/setup/doctor.py": "certificates, and whether the clock was ever set",
    "edge_node/setup/join.py": "certificates",
    "coordinator/enrolment/cli.py": "certificates",
    "coordinator/rollout/cli.py": "when a release was signed, for a person",
    "fedmq/alerts/follow.py": "since when something is wrong, also over a restart, and certificates",
    "federation/runtime/clock.py": "by how much it was moved",
    "federation/runtime/client.py": "certificates",
    "federation/runtime/log.py": "when a line was said, for people",
    "sum_helper/setup/doctor.py": "certificates, and whether the clock was ever set",
    "sum_helper/setup/folder.py": "certificates",
    "site_gateway/setup/folder.py": "certificates",
    "sum_helper/storage/store.py": "how many days seeds and keys have waited, before they are deleted",
}
"""Who reads the wall clock, and what for."""


def readers() -> set[str]:
    """Files that call a wall clock, by name or through its module."""
    found = set()
    for path in files():
        for node in nodes(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                name = (
                    owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
                )
                if (name, node.func.attr) in WALL_CLOCKS:
                    found.add(shown(path))
    return found


def test_the_wall_clock_is_read_for_people_and_certificates_only() -> None:
    assert readers() == set(MAY_READ_IT)
