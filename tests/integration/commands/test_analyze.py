"""``coordinator analyze`` with real processes: the pooled figures, a scaler that all use, and another one refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.config.sections import read_config
from coordinator.config.settings import committer_settings, counting_config
from coordinator.storage.read_only import ReadOnlyStore
from federation.runtime.local_broker import LocalBroker
from federation.tasks.statistics.scaler import Scaler
from fedmq.audit.audit import Witness, audit
from fedmq.demo.masks import Masks, helper_names
from fedmq.demo.plan import to_toml
from update_codec import CodecError, decode

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

TASK = """
import numpy as np
from federation.inputs import Inputs
from federation.task import TrainResult

ROWS = np.random.default_rng(1).normal(size=(500, 3)) * [1e-2, 1, 1e6] + [1e6, 0, 1e9]
NAMES = ("heat", "flow", "power")

class Rows:
    def __init__(self, context):
        self.own = ROWS[(context.node_index or 0) :: context.node_count]

    def initial_parameters(self, seed):
        return {"w": np.zeros(1, np.float32)}

    def roles(self):
        return {}

    def train(self, parameters, settings, stop):
        return TrainResult(parameters=parameters, num_examples=len(self.own))

    def evaluate(self, parameters):
        return {}

    def inputs(self):
        return Inputs(features=NAMES)

    def adopt_inputs(self, wanted):
        pass

    def column_names(self):
        return NAMES

    def rows(self):
        return self.own

build = Rows
"""
ROWS = np.random.default_rng(1).normal(size=(500, 3)) * [1e-2, 1, 1e6] + [1e6, 0, 1e9]


def command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def node(broker: str, folder: Path, index: int, count: int, **environ: str) -> subprocess.Popen[bytes]:
    where = ("--broker", broker, "--federation", "plant", "--id", f"node-{index}", "--state", folder / f"n{index}")
    part = ("--task", folder / "rows.py", "--index", index, "--count", count, "--exit-when-finished")
    with (folder / f"n{index}.log").open("ab") as log:
        env = {**os.environ, **environ}
        return subprocess.Popen(command("edge_node", "run", *where, *part), stdout=log, stderr=log, env=env)


@contextmanager
def ended(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def analyze(broker: str, folder: Path, *more: object) -> dict[str, Any]:
    where = ("--broker", broker, "--federation", "plant", "--state", folder / "found", "--task", folder / "rows.py")
    done = subprocess.run(command("coordinator", "analyze", *where, "--json", *more), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def figures(found: dict[str, Any], name: str) -> Sequence[float]:
    return [column[name] for column in found["columns"]]


def test_real_nodes_find_the_pooled_figures_and_the_store_passes_its_audit(broker: LocalBroker, tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(TASK)
    scaler, picture = tmp_path / "scaler.json", tmp_path / "columns.svg"
    started = [node(broker.url, tmp_path, index, 3) for index in range(3)]
    with ended(*started):
        found = analyze(broker.url, tmp_path, "--nodes", 3, "--scaler", scaler, "--plot", picture)
        assert [process.wait(60) for process in started] == [0, 0, 0]
    assert (found["rows"], found["nodes"], found["left_out"]) == (500, ["node-0", "node-1", "node-2"], {})
    np.testing.assert_allclose(figures(found, "mean"), ROWS.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(figures(found, "std"), ROWS.std(axis=0), rtol=1e-8)
    medians = [column["quantiles"]["0.5"] for column in found["columns"]]
    assert (
        np.abs(medians - np.quantile(ROWS, 0.5, axis=0, method="inverted_cdf")) <= figures(found, "bin_width")
    ).all()
    assert (Scaler.read(scaler).digest, Scaler.read(scaler).names) == (
        found["scaler"]["digest"],
        ("heat", "flow", "power"),
    )
    assert "heat" in picture.read_text()
    again = analyze(broker.url, tmp_path)
    assert again["columns"] == found["columns"]
    flags = {"broker.url": broker.url, "federation.id": "plant", "statistics.only": True}
    settings = committer_settings(counting_config(read_config(None, flags, environ={})))
    folders = [tmp_path / f"n{index}" for index in range(3)]
    report = audit(tmp_path / "found", nodes=folders, settings=settings, witness=Witness())
    assert [finding for finding in report.findings if finding.failed] == []


@pytest.mark.parametrize("point", ["node_trained", "node_after_outbox"])
def test_a_node_that_is_killed_in_a_pass_comes_back_and_counts_once(
    broker: LocalBroker, tmp_path: Path, point: str
) -> None:
    (tmp_path / "rows.py").write_text(TASK)
    other, killed = node(broker.url, tmp_path, 0, 2), node(broker.url, tmp_path, 1, 2, FEDMQ_FAILPOINT=point)
    with ended(other), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(analyze, broker.url, tmp_path, "--nodes", 2)
        assert killed.wait(120) == -9
        with ended(node(broker.url, tmp_path, 1, 2)):
            found = waiting.result(180)
    assert (found["rows"], found["nodes"]) == (500, ["node-0", "node-1"])
    np.testing.assert_allclose(figures(found, "mean"), ROWS.mean(axis=0), rtol=1e-12)


@pytest.mark.thorough
def test_under_masks_the_sum_is_the_same_and_nobody_sees_a_nodes_counts(broker: LocalBroker, tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(TASK)
    names = [f"node-{index}" for index in range(8)]
    masks = Masks.make(tmp_path, "plant", names, helper_names(2))
    url, task = {"url": broker.url}, f"{tmp_path}/rows.py:build"
    programs: list[tuple[str, str, Mapping[str, Mapping[str, object]]]] = [
        ("sum_helper", name, masks.helper(name, broker.url)) for name in helper_names(2)
    ]
    for index, name in enumerate(names):
        own: Mapping[str, Mapping[str, object]] = {
            "node": {"id": name},
            "task": {"name": task, "index": index, "count": 8},
        }
        rest = {"federation": {"id": "plant"}, "broker": url, "store": {"folder": str(tmp_path / name)}}
        programs.append(("edge_node", name, {**own, **rest, **masks.node(name)}))
    settings = {"federation": {"id": "plant"}, "broker": url, "task": {"name": task}}
    (tmp_path / "c.toml").write_text(to_toml({**settings, **masks.coordinator()}))
    started = []
    for module, name, config in programs:
        file = tmp_path / f"{name}.toml"
        file.write_text(to_toml(config))
        with (tmp_path / f"{name}.log").open("wb") as log:
            started.append(subprocess.Popen(command(module, "run", "--config", file), stdout=log, stderr=log))
    with ended(*started):
        where = ("--config", tmp_path / "c.toml", "--state", tmp_path / "found", "--nodes", 8, "--json")
        done = subprocess.run(command("coordinator", "analyze", *where), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert (found["rows"], found["nodes"]) == (500, names)
    np.testing.assert_allclose(figures(found, "mean"), ROWS.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(figures(found, "std"), ROWS.std(axis=0), rtol=1e-8)
    with ReadOnlyStore(tmp_path / "found") as store:
        payloads = [store.payload(row.record.update) for row in store.updates() if row.verdict.version == 3]
        manifest = store.manifest()
    for payload in payloads:
        with pytest.raises(CodecError):
            decode(payload, manifest)
