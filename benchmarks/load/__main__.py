"""What a fleet costs: thousands of real MQTT clients against a real broker and a real coordinator.

Each client is the node's own machine; its training takes a random time and gives an update made beforehand. The time is
measured once everybody is connected and work has begun.

``python -m benchmarks.load --nodes N --seconds S [--sync] [--codec SPEC] [--tls] [--signed] [--pace S] [--json]``.
With ``--pace`` clients that have nothing to do leave, and come back by themselves, as nodes do; it is measured once
they have spread. Who is asked again within the linger of ten seconds never leaves: take long trainings (``--train-s``).
"""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.load.run import Measured, Plan, run
from federation.runtime.log import configure_log

FILES_PER_NODE = 1
FILES_ELSE = 64


def plan_of(arguments: Sequence[str] | None = None) -> tuple[Plan, bool]:
    """The plan of a command line, and whether JSON is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000, help="clients (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long it is measured (default: %(default)s)")
    parser.add_argument("--sync", action="store_true", help="synchronous rounds: a version waits for all it has asked")
    parser.add_argument("--codec", default="lossless", help="of the updates, such as edge (default: %(default)s)")
    parser.add_argument("--parameters", type=int, default=500, help="of the model, float32 (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, help="nodes that train at once (default: a fifth, 600 at most)")
    parser.add_argument("--buffer", type=int, help="updates that make a version (default: half of the concurrency)")
    parser.add_argument("--refill", type=int, help="free places at which nodes are asked (default: the coordinator's)")
    parser.add_argument("--train-s", type=float, default=0.2, help="mean time of a training, s (default: %(default)s)")
    parser.add_argument("--connect-per-s", type=float, default=500.0, help="new connections/s (default: %(default)s)")
    parser.add_argument("--tls", action="store_true", help="client certificates and access rules")
    parser.add_argument("--signed", action="store_true", help="every message is signed, and every signature checked")
    parser.add_argument("--pace", type=float, default=0.0, help="how often clients look in, s (default: they stay)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    given = parser.parse_args(arguments)
    if given.nodes < 1 or given.seconds <= 0:
        parser.error("--nodes and --seconds are above 0")
    concurrency = given.concurrency or max(1, min(600, given.nodes // 5))
    plan = Plan(
        nodes=given.nodes,
        seconds=given.seconds,
        synchronous=given.sync,
        codec=given.codec,
        parameters=given.parameters,
        concurrency=concurrency,
        buffer=given.buffer or max(1, concurrency // 2),
        refill=given.refill,
        train_s=given.train_s,
        connect_per_s=given.connect_per_s,
        tls=given.tls,
        signed=given.signed,
        pace_s=given.pace,
    )
    return plan, given.json


def rows(plan: Plan, measured: Measured) -> dict[str, object]:
    """The figures, by name; sizes in bytes, times as their names say."""
    counts, done = measured.counts, max(1, measured.counts.applied)
    return {
        "nodes": plan.nodes,
        "seconds": round(measured.seconds, 2),
        "updates": counts.applied,
        "updates_per_s": round(counts.applied / measured.seconds, 1),
        "updates_per_cpu_s": round(counts.applied / max(measured.coordinator.cpu_s, 0.01), 1),
        "coordinator_cpu_s": round(measured.coordinator.cpu_s, 2),
        "broker_cpu_s": round(measured.broker.cpu_s, 2),
        "load_cpu_s": round(measured.load_cpu_s, 2),
        "deliveries_per_update": round(counts.deliveries / done, 2),
        "announcements_per_update": round(counts.announcements / done, 2),
        "bytes_down_per_update": round(counts.down / done, 1),
        "model_bytes_down_per_update": round(counts.model / done, 1),
        "update_bytes": round(measured.update_bytes, 1),
        "coordinator_rss_bytes": measured.coordinator.rss,
        "coordinator_rss_max_bytes": measured.coordinator.rss_max,
        "coordinator_rss_bytes_per_node": round(measured.coordinator.rss / plan.nodes),
        "broker_rss_bytes": measured.broker.rss,
        "broker_rss_bytes_per_node": round(measured.broker.rss / plan.nodes),
        "dropped": measured.dropped,
        "lost": measured.lost,
        "receipt_p50_ms": _quantile_ms(counts.receipt_s, 0.50),
        "receipt_p99_ms": _quantile_ms(counts.receipt_s, 0.99),
        "offers": counts.offers,
        "stored": counts.stored,
        "stale": counts.stale,
        "refused": counts.refused,
        "refused_for": dict(counts.reasons),
        "declines": counts.declines,
        "pace_s": plan.pace_s,
        "check_ins": measured.check_ins,
        "connected_mean": round(measured.online_mean, 1),
        "connected_max": measured.online_max,
        "connections_lost": counts.lost_connections,
        "versions": measured.versions,
        "connect_s": round(measured.connect_s, 2),
        "first_update_s": round(measured.first_s, 2),
        "concurrency": plan.concurrency,
        "buffer": plan.concurrency if plan.synchronous else plan.buffer,
        "refill": plan.refill,
        "codec": plan.codec,
        "tls": plan.tls,
        "signed": plan.signed,
        "trouble": list(measured.refusals),
    }


def _quantile_ms(times: Sequence[float], share: float) -> float | None:
    """Of sorted times in seconds, in milliseconds; None where there are none."""
    return round(times[min(len(times) - 1, int(len(times) * share))] * 1e3, 1) if times else None


def _allow_files(nodes: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = nodes * FILES_PER_NODE + FILES_ELSE
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise SystemExit(f"{nodes} connections need {wanted} open files, and the system allows {hard}: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def main() -> int:
    """Run, and print."""
    plan, as_json = plan_of()
    _allow_files(plan.nodes)
    configure_log(json=False, level="error")
    with tempfile.TemporaryDirectory(prefix="fedmq-load-") as folder:
        try:
            found = rows(plan, run(plan, Path(folder)))
        except RuntimeError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        table = Table(title=f"{plan.nodes} nodes, {'synchronous' if plan.synchronous else 'asynchronous'}")
        table.add_column("what")
        table.add_column("measured", justify="right")
        for name, value in found.items():
            table.add_row(name.replace("_", " "), "-" if value in (None, [], {}) else str(value))
        Console().print(table)
    trouble = found["lost"] or found["dropped"] != 0 or found["connections_lost"]
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
