"""A node is revoked while it trains: seconds until nobody waits for it, and until its connection is closed.

Run it with ``python -m benchmarks.revocation`` (``--repeat 5``, ``--json``). A federation as ``coordinator init`` makes
it: certificates, signatures, sealed words, a coordinator with its broker, and two nodes. One trains for as long as it
is let, and the coordinator waits for it. Time counts from the start of the command ``coordinator revoke``.
"""

import argparse
import datetime as dt
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.table import Figure, show
from coordinator.enrolment import federation
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from edge_node.setup.join import install
from federation.runtime.local_broker import free_port
from federation.types import FederationId, NodeId
from fedmq.demo.processes import Exited, Fleet

BAR_S = 2.0
LIMIT_S = 60.0
SLOW, QUICK = NodeId("slow"), NodeId("quick")
ENDED = "it ends"
TASK = """
import os
import time

from federation.tasks.builtin.synthetic import NullTask


class Endless(NullTask):
    def train(self, parameters, settings, stop):
        while os.environ["ENDLESS"] == "1" and not stop():
            time.sleep(0.02)
        return super().train(parameters, settings, stop)


def build(context):
    return Endless(context)
"""


def heard(fleet: Fleet, wanted: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """When each of these events was read, by name of the figure, in monotonic seconds.

    Args:
        fleet: Whose.
        wanted: A process, and the event that it logs; `ENDED` is its end.

    Raises:
        SystemExit: One does not come.
    """
    found: dict[str, float] = {}
    until = time.monotonic() + LIMIT_S
    while len(found) < len(wanted):
        try:
            item = fleet.lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            missing = ", ".join(sorted(wanted.keys() - found.keys()))
            raise SystemExit(f"not within {LIMIT_S:.0f} s: {missing}") from None
        if isinstance(item, Exited) and item.code:
            raise SystemExit(fleet.last_words(item, "of this benchmark"))
        said = (item.source, ENDED if isinstance(item, Exited) else item.event)
        for name in (name for name, event in wanted.items() if event == said):
            found.setdefault(name, time.monotonic())
    return found


def once(folder: Path) -> Mapping[str, float]:
    """Seconds from the start of the command until each thing has happened.

    Raises:
        SystemExit: Something does not happen, or the command does not prove it.
    """
    task = folder / "endless.py"
    task.write_text(TASK)
    fleet = federation.Fleet(folder=FleetFolder(folder / "plant"), now=dt.datetime.now(dt.UTC))
    plan = FleetPlan(
        federation=FederationId("plant"), hosts=("localhost",), port=free_port(), task=str(task), evaluate=False
    )
    fleet.create(plan)
    for name in fleet.enroll([SLOW, QUICK]):
        install(fleet.folder.bundle(name), folder / name, task=str(task))
    run = Fleet(folder=folder)
    # Each version waits for both, as long as both are there.
    whole = {"FEDMQ_ROUND__QUORUM": "2", "FEDMQ_ROUND__NODES_MIN": "2", "FEDMQ_ROUND__INTERVAL_MIN_S": "0"}
    place = str(fleet.folder.root)
    try:
        run.start("coordinator", "coordinator", ["run", "--config", place, "--with-broker", "--log-json"], whole)
        for name in (SLOW, QUICK):
            endless = {"ENDLESS": str(int(name == SLOW))}
            run.start(name, "edge_node", ["run", "--config", str(folder / name), "--log-json"], endless)
        heard(run, {"one trains": (SLOW, "training_started"), "the other is done": ("coordinator", "update_stored")})
        began = time.monotonic()
        run.start("revoke", "coordinator", ["revoke", place, SLOW])
        found = heard(
            run,
            {
                "unawaited": ("coordinator", "node_revoked"),
                "closed": (SLOW, "disconnected"),
                "proved": ("revoke", ENDED),
            },
        )
    finally:
        run.stop()
    return {name: at - began for name, at in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 where the bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.revocation", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    found = []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory(prefix="fedmq-revocation-") as folder:
            found.append(once(Path(folder)))
    start_s = start_takes_s()
    figures = []
    for name, what, bar in (
        ("unawaited", "until nobody waits for it", BAR_S),
        ("closed", "until its connection is closed", BAR_S),
        ("proved", "until the command has proved both", None),
    ):
        times = [one[name] for one in found]
        note = (
            f"the longest of {len(times)}, median {statistics.median(times):.2f}; coordinator --version {start_s:.2f}"
        )
        figures.append(Figure(what=what, measured=max(times), bar=bar, unit="s", note=note))
    return 0 if show("A node that is revoked while it trains", figures, as_json=options.json, skipped={}) else 1


def start_takes_s() -> float:
    """How long the command takes for nothing, in seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "coordinator", "--version"], check=True, capture_output=True)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
