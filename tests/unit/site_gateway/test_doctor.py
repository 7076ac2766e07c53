"""``fedmq gateway doctor``: either side is looked at, and a sum that is refused above is told with its remedy."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.monitoring.presence import PresenceSeen, Seen
from federation.doctor import Verdict
from federation.protocol.messages import Presence
from federation.types import ModelVersion, RunId
from site_gateway.cli import app
from site_gateway.config import read_config
from site_gateway.setup.doctor import check_fit, check_site, check_sums
from site_gateway.storage.read_only import SiteState
from tests.unit.site_gateway.test_cli import made
from tests.unit.test_documented_json import check


def site(updates: dict[str, int], refused: dict[str, int] | None = None, pid: str | None = "7") -> SiteState:
    return SiteState(
        run=RunId("0" * 16),
        pid=pid,
        version=ModelVersion(3),
        order=None,
        nodes=2,
        updates=updates,
        refused=refused or {},
        owed=(),
    )


@pytest.mark.parametrize(
    ("updates", "refused", "verdict", "remedy"),
    [
        ({"applied": 4}, {}, Verdict.PASS, ""),
        ({"refused": 4}, {"codec": 3, "quota": 1}, Verdict.FAIL, "name this gateway above"),
        ({"applied": 1, "refused": 9}, {"codec": 1, "not_assigned": 8}, Verdict.WARN, "raise its number above"),
        ({"refused": 1}, {"digest_mismatch": 1}, Verdict.PASS, ""),
    ],
)
def test_what_became_of_the_sums(
    updates: dict[str, int], refused: dict[str, int], verdict: Verdict, remedy: str
) -> None:
    found = check_sums(site(updates, refused))
    assert found.verdict is verdict
    assert found.remedy.startswith(remedy)


def test_whether_the_sites_nodes_are_there() -> None:
    here = PresenceSeen(nodes={"a": Seen(Presence.ONLINE, 1.0, 1), "b": Seen(Presence.LOST, 1.0, 1)})
    assert check_site(site({}), here).detail == "version 3, 1 of 2 nodes online"
    assert [
        check_site(site({}, pid=pid), seen).verdict for pid, seen in (("7", here), ("7", PresenceSeen()), (None, here))
    ] == [
        Verdict.PASS,
        Verdict.WARN,
        Verdict.WARN,
    ]


def test_a_site_needs_a_broker_or_a_name_of_its_own(tmp_path: Path) -> None:
    made(tmp_path / "g")
    assert check_fit(read_config(tmp_path / "g", {}, environ={})).verdict is Verdict.PASS
    path = tmp_path / "g" / "below.toml"
    path.write_text(path.read_text().replace("mqtt://127.0.0.1", "mqtt://hub"))
    assert check_fit(read_config(tmp_path / "g", {}, environ={})).verdict is Verdict.FAIL


def test_both_sides_are_looked_at_before_the_first_start(tmp_path: Path) -> None:
    made(tmp_path / "g", "--above", "mqtt://127.0.0.1:1", "--below", "mqtt://127.0.0.1:1", "--federation", "a")
    result = CliRunner().invoke(app, ["doctor", "--config", str(tmp_path / "g"), "--json"])
    found = json.loads(result.stdout)
    check("coordinator doctor --json", found)
    checks = [one["check"] for one in found]
    assert result.exit_code == 1
    assert {"above: state folder", "below: settings", "two sides", "site"} <= {*checks}
    assert {"above: broker port", "below: broker port"} <= {one["check"] for one in found if one["verdict"] == "FAIL"}
