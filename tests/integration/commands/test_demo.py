"""The demo as a person runs it: real broker, real processes, a real kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from coordinator.storage.read_only import ReadOnlyStore
from federation.protocol.messages import ReceiptStatus
from federation.runtime.address import parse_broker_url
from federation.runtime.local_broker import LocalBroker
from federation.runtime.visit import visit_broker
from federation.types import ModelVersion
from fedmq.audit.audit import audit

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

DEMO = [sys.executable, "-m", "coordinator", "demo"]


def demo(arguments: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *arguments], check=False, capture_output=True, text=True, timeout=200, cwd=cwd)


def descendants_of(marker: str) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if any(marker in part for part in command):
            found.append(" ".join(command))
    return found


@pytest.mark.cold
def test_a_federation_with_a_killed_node_reaches_its_last_version_and_reports(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = demo(["--nodes", "3", "--rounds", "6", "--report", str(file)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL" in done.stdout
    assert "cannot be reached" not in done.stdout, "everybody leaves at the end: that is no trouble"
    report = json.loads(file.read_text())
    assert [row["version"] for row in report["rounds"]] == [1, 2, 3, 4, 5, 6]
    assert report["final_accuracy"] > 0.5
    assert sum(node["restarts"] for node in report["nodes_detail"]) >= 1
    assert report["bytes_up_total"] < report["bytes_up_fp32"] / 16
    assert sum(row["accepted"] for row in report["rounds"]) == sum(
        node["updates_applied"] for node in report["nodes_detail"]
    )
    for key in ("task", "nodes", "codec", "strategy", "model_parameters", "loop_wall_s", "total_wall_s", "broker"):
        assert key in report
    for row in report["rounds"]:
        assert {"accuracy", "wall_s", "accepted", "stale", "refused", "bytes_up", "bytes_down"} <= set(row)


def test_masked_sums_survive_a_killed_node_a_killed_helper_and_a_killed_coordinator(tmp_path: Path) -> None:
    """Sums that nobody sees the parts of, and nothing is lost or counted twice."""
    file, kept = tmp_path / "report.json", tmp_path / "kept"
    options = ["--task", "quadratic", "--nodes", "9", "--per-round", "8", "--helpers", "2", "--rounds", "8"]
    done = demo([*options, "--report", str(file), "--keep", str(kept)])
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert [row["version"] for row in report["rounds"]] == list(range(1, 9))
    assert (report["server_kills"], report["codec"], report["helpers"]) == (2, "masked", 2)
    assert {row["accepted"] for row in report["rounds"]} == {8}
    audited = audit(kept)
    assert audited.holds, [finding for finding in audited.findings if finding.failed]
    with ReadOnlyStore(kept) as store:
        applied = [row.record for row in store.updates() if row.verdict.status is ReceiptStatus.APPLIED]
        assert len(applied) == 8 * 8
        assert {(record.num_examples, len(record.metrics), record.codec) for record in applied} == {(1, 0, "masked")}
        assert store.batch(ModelVersion(8)) is not None
        # And of what the nodes have measured only means over all of them are there [FED-195].
        found = {survey.version: survey for survey in store.evaluated_on_nodes()}
        assert sorted(found) == [5, 8]
        assert found[ModelVersion(8)].nodes == 9
        assert found[ModelVersion(8)].metrics["loss"] >= 0
        singles = [point for point in store.curves() if point.node is not None]
        assert [dict(point.metrics) for point in singles if point.metrics] == []


def test_json_prints_one_object_and_nothing_else(tmp_path: Path) -> None:
    done = demo(["--nodes", "2", "--rounds", "1", "--no-chaos", "--json"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["nodes"] == 2


@pytest.mark.cold
def test_ctrl_c_stops_everything_and_leaves_no_process_behind(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [*DEMO, "--nodes", "2", "--rounds", "1000", "--no-chaos"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        with process.stdout as lines:
            assert any("version 1:" in line for line in lines), "the demo never committed a version"
            process.send_signal(signal.SIGINT)
            rest = lines.read()
        assert process.wait(30) == 130, rest
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    assert "interrupted" in rest
    assert descendants_of(str(tmp_path)) == []


def test_a_wrong_option_is_explained_in_one_line() -> None:
    done = demo(["--nodes", "3", "--per-round", "7"])
    assert done.returncode == 2
    assert "--per-round" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_task_that_cannot_be_loaded_is_explained(tmp_path: Path) -> None:
    done = demo(["--task", "digitz", "--rounds", "1"])
    assert done.returncode == 2
    assert "digits" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_that_is_not_there_is_told_within_seconds_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = demo(["--broker", f"mqtt://user:secret@127.0.0.1:{port}"])
    assert done.returncode == 1
    assert f"no broker that can be used at 127.0.0.1:{port}: [Errno 111] Connection refused" in done.stderr
    assert "started" not in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_two_demos_on_one_broker_do_not_hear_each_other_and_leave_nothing_there(broker: LocalBroker) -> None:
    command = [
        *DEMO,
        "--task",
        "quadratic",
        "--nodes",
        "2",
        "--rounds",
        "5",
        "--no-chaos",
        "--json",
        "--broker",
        broker.url,
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [one.communicate(timeout=200) for one in running]
    assert [one.returncode for one in running] == [0, 0], told
    for out, _ in told:
        report = json.loads(out)
        assert sum(row["accepted"] for row in report["rounds"]) == sum(
            node["updates_applied"] for node in report["nodes_detail"]
        )
    address = parse_broker_url(broker.url)
    seen = visit_broker(address, "after", filters=["fl/#"], probes=[], enough=lambda seen: bool(seen.messages))
    assert (seen.accepted, seen.messages) == (True, {})
