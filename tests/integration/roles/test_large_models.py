"""A model of many chunks through a real broker: cut on the way, and nothing that arrived is sent again."""

from pathlib import Path

import pytest

from benchmarks.large_run import COORDINATOR, LargePlan, integer, received_in_vain_bytes, running
from coordinator.storage.sqlite_store import SqliteStore
from federation.protocol.limits import CHUNK_BYTES
from federation.runtime.local_broker import LocalBroker
from federation.testing import TcpProxy
from fedmq.demo.processes import Line

pytestmark = pytest.mark.broker

CUT_AFTER_BYTES = 25 * CHUNK_BYTES


def test_a_large_update_goes_on_after_a_cut_where_it_was(tmp_path: Path) -> None:
    """FED-47, with Mosquitto's own default limits."""
    with LocalBroker(settings={}) as broker, TcpProxy(broker.host, broker.port) as proxy:
        plan = LargePlan(task="small", nodes=1, versions=1, url=f"mqtt://{proxy.host}:{proxy.port}")
        with running(plan, tmp_path, broker) as run:

            def cut(line: Line) -> None:
                if line.event == "update_offered" and not proxy.cuts:
                    proxy.up.cut_after = CUT_AFTER_BYTES

            run.watchers.append(cut)
            run.wait_finished()
            assert proxy.cuts == 1
            assert integer(run.said("update_stored")[0], "bytes") > 45 * CHUNK_BYTES
            assert received_in_vain_bytes(run) < CHUNK_BYTES
    store = SqliteStore(tmp_path / COORDINATOR)
    try:
        assert [row.record.accepted for row in store.history()] == [0, 1]
    finally:
        store.close()


def test_nodes_pull_a_large_model_and_send_large_updates_at_once(tmp_path: Path) -> None:
    """Version 1 has no seed's short cut: every node pulls its keyframe or delta from the broker."""
    plan = LargePlan(task="small", nodes=3, versions=2)
    with LocalBroker(settings={}) as broker, running(plan, tmp_path, broker) as run:
        run.wait_finished()
        pulled = [integer(line, "bytes") for line in run.said("model_ready") if integer(line, "version") == 1]
        assert max(pulled) > 45 * CHUNK_BYTES
        assert not run.said("update_refused")
    store = SqliteStore(tmp_path / COORDINATOR)
    try:
        assert sum(row.record.accepted for row in store.history()) == len(list(store.updates()))
    finally:
        store.close()
