"""Prometheus' rules and Grafana's dashboard: valid, and about numbers that `/metrics` really has."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from coordinator.storage.sqlite_store import SqliteStore
from federation.types import ModelVersion
from fedmq.page.metrics import exposition
from fedmq.run_view import RunView
from tests.rigs.model_values import initialised

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = DEPLOY / "prometheus" / "fedmq.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "fedmq.json"
NAME = re.compile(r"\bfedmq_[a-z0-9_]+")
LABEL = re.compile(r"(fedmq_[a-z0-9_]+)\{([^}]*)\}")
WIDTH = 24
"""Columns of Grafana's grid."""

OF_PROMETHEUS = {"federation", "instance", "job"}
"""Labels that the scrape adds."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every sample that `/metrics` has, with the names of its labels."""
    folder = tmp_path_factory.mktemp("run") / "state"
    store = SqliteStore(folder)
    try:
        initialised(store)
        store.save_evaluation(ModelVersion(0), {"accuracy": 0.5})
        text = exposition(RunView(folder).now()).decode()
    finally:
        store.close()
    declared = {line.split()[2]: set[str]() for line in text.splitlines() if line.startswith("# TYPE")}
    samples = {one.name: set(one.labels) for family in text_string_to_metric_families(text) for one in family.samples}
    # Counters of which nothing has been counted yet have a type and no sample.
    return declared | samples | {"fedmq_events_total": {"event"}, "fedmq_waiting": {"reason"}}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [rule["expr"] for rule in rules()] + [one["expr"] for panel in panels for one in panel["targets"]]


def test_every_number_that_is_asked_for_is_told_with_these_labels(told: dict[str, set[str]]) -> None:
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert asked
    assert asked <= told.keys()
    for expression in expressions():
        for name, matchers in LABEL.findall(expression):
            assert set(re.findall(r"([a-z_]+)\s*[=!]", matchers)) <= told[name] | OF_PROMETHEUS


def test_every_number_that_is_told_is_on_the_dashboard(told: dict[str, set[str]]) -> None:
    shown = set(NAME.findall(DASHBOARD.read_text()))
    assert {name for name in told if name not in shown and f"{name}_total" not in shown} <= {
        "fedmq_run_info",
        "fedmq_run",
    }


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        assert rule["alert"].startswith("Fedmq")
        assert rule["for"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_dashboard_has_no_panel_on_another_and_no_data_source_of_its_own() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert dashboard["uid"] == "fedmq"


def judged(tmp_path: Path, *, alert: str, series: dict[str, str], fires: bool) -> None:
    """Have Prometheus' own tool say whether an alert fires after half an hour; each series in its notation."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    labels = 'instance="here",federation="plant",job="fedmq"'
    told = [
        {"series": f"{name[:-1]},{labels}}}" if name.endswith("}") else f"{name}{{{labels}}}", "values": values}
        for name, values in series.items()
    ]
    # By count: what an alert says in words is not of interest.
    wanted = [{"expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})', "eval_time": "30m"}]
    wanted[0]["exp_samples"] = [{"labels": "{}", "value": 1}] if fires else []  # type: ignore[assignment] # as YAML
    content = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": told, "promql_expr_test": wanted}],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(content))
    done = subprocess.run([program, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changed", "fires"),
    [
        ({}, True),
        ({"fedmq_nodes_online": "1x60"}, False),
        ({"fedmq_nodes_away": "9x60"}, False),
        ({"fedmq_coordinator_up": "0x60"}, False),
        ({'fedmq_waiting{reason="finished"}': "1x60"}, False),
        ({'fedmq_waiting{reason="budget"}': "1x60"}, False),
        ({'fedmq_waiting{reason="no_candidates"}': "1x60"}, True),
    ],
)
def test_nobody_is_missed_who_is_away_by_the_pace_or_where_a_run_is_over(
    tmp_path: Path, changed: dict[str, str], fires: bool
) -> None:
    """The rule fired for a fleet that checks in, and for a run that was over; `coordinator alerts` did not."""
    names = {"fedmq_nodes_online": "0x60", "fedmq_nodes_known": "9x60", "fedmq_nodes_away": "0x60"}
    judged(tmp_path, alert="FedmqNobodyOnline", series=names | {"fedmq_coordinator_up": "1x60"} | changed, fires=fires)


@pytest.mark.parametrize(
    ("values", "fires"),
    [("0x60", False), ("_x20 9x40", True), ("0x20 9x40", True), ("9x60", True)],
)
def test_messages_that_the_broker_drops_are_told(tmp_path: Path, values: str, fires: bool) -> None:
    judged(
        tmp_path,
        alert="FedmqBrokerDrops",
        series={'fedmq_events_total{event="broker_dropped"}': values},
        fires=fires,
    )


def test_prometheus_own_tool_finds_no_mistake(tmp_path: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    for what, name in (("rules", RULES.name), ("config", "prometheus.yml")):
        done = subprocess.run(
            [program, "check", what, str(RULES.with_name(name))], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "broken.yml"
    broken.write_text(RULES.read_text().replace("== 0", "== ="))
    assert subprocess.run([program, "check", "rules", str(broken)], capture_output=True, check=False).returncode != 0
