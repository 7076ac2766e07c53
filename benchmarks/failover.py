"""How long a federation is without a leader when the leading coordinator is killed, on PostgreSQL with a standby.

```
python -m benchmarks.failover --kills 100 [--stops 3] [--json]
```

Two coordinators share one database; the one that leads is killed (SIGKILL) again and again while nodes train, and comes
back as standby. The reference, in the same run: one coordinator on its own SQLite, killed as often, that its service
manager starts again at once. Then leaders are stopped (SIGSTOP), overtaken, and woken. At the end the stores are
audited, with what the nodes have heard.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.chaos.federation import Federation
from benchmarks.chaos.plan import OpenSite, Plan, coordinator_arguments
from federation.runtime.local_broker import LocalBroker
from fedmq.demo.processes import Line
from tests.rigs.postgres import PostgresServer, why_not

BAR_S = 5.0
"""Of the 95th percentile, from the kill until the next leader has announced itself, in seconds."""

LIMIT_S = 60.0
FENCED = 3
"""Exit code of a leader that was overtaken."""

PLAN = Plan(nodes=2, task="null", buffer=2, max_wait_s=0.5, spread_s=0.05)
LEADERS = ("coordinator", "standby")


@dataclass(slots=True)
class Times:
    """Seconds from an end of the leader: until another one is online, and until the next version."""

    online: list[float] = field(default_factory=list)
    version: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Pair:
    """Two coordinators with one database, and who of them leads.

    Attributes:
        federation: Their processes and the nodes'.
        leader: Who leads; "" is nobody.
        online: Who is online at the broker.
        waiting: Who waits for the lead.
        version: The newest version that was committed.
    """

    federation: Federation
    leader: str = ""
    online: str = ""
    waiting: set[str] = field(default_factory=set)
    version: int = 0

    def hear(self, line: Line) -> None:
        """Take a log line in."""
        if line.source not in LEADERS:
            return
        match line.event:
            case "coordinator_standby":
                self.waiting.add(line.source)
            case "coordinator_leads":
                self.leader = line.source
                self.waiting.discard(line.source)
            case "connected" if line.fields.get("connection") == "control":
                self.online = line.source
            case "version_committed":
                self.version = int(str(line.fields["version"]))

    @property
    def other(self) -> str:
        """Who does not lead."""
        return LEADERS[self.leader == LEADERS[0]]

    def end(self, times: Times, rng: random.Random, how: signal.Signals) -> str:
        """End the leader's work in a random moment of it, and measure what follows; returns who it was."""
        wait = self.federation.wait
        before = self.version
        _sure(wait(lambda: self.version > before and self.other in self.waiting, LIMIT_S), "no standby")
        wait(lambda: False, rng.uniform(0.0, 0.5))
        victim, self.online, known = self.leader, "", self.version
        self.federation.fleet.send_signal(victim, how)
        ended_s = time.monotonic()
        _sure(wait(lambda: self.online not in {"", victim}, LIMIT_S), "nobody took the lead")
        times.online.append(time.monotonic() - ended_s)
        _sure(wait(lambda: self.version > known, LIMIT_S), "no version after the takeover")
        times.version.append(time.monotonic() - ended_s)
        return victim


def _sure(held: bool, what: str) -> None:  # noqa: FBT001 - an assertion that stays with -O
    if not held:
        raise RuntimeError(what)


@contextmanager
def _pair(plan: Plan, folder: Path, url: str) -> Iterator[Pair]:
    federation = Federation(site=OpenSite(plan, folder, url))
    pair = Pair(federation)
    federation.watchers.append(pair.hear)
    try:
        federation.start()
        _sure(federation.wait(lambda: pair.version > 0, LIMIT_S), "no version")
        arguments = [*coordinator_arguments(folder), "--state", str(folder / LEADERS[1])]
        federation.join(LEADERS[1], "coordinator", arguments)
        yield pair
    finally:
        federation.fleet.stop()


def fail_over(plan: Plan, folder: Path, url: str, kills: int, stops: int) -> dict[str, object]:
    """Kill and stop leaders, and say what came of it.

    Args:
        plan: With the database.
        folder: For everything.
        url: The broker.
        kills: Leaders that are killed.
        stops: Leaders that are stopped, and woken once another one leads.
    """
    rng, killed, stopped, woken = random.Random(1), Times(), Times(), list[bool]()
    with _pair(plan, folder, url) as pair:
        federation = pair.federation
        for _ in range(kills):
            pair.end(killed, rng, signal.SIGKILL)
        for _ in range(stops):
            victim = pair.end(stopped, rng, signal.SIGSTOP)
            life = federation.lives[victim]
            federation.expect(victim, FENCED)
            federation.fleet.send_signal(victim, signal.SIGCONT)
            woken.append(federation.wait(lambda life=life: life.code == FENCED, LIMIT_S))  # type: ignore[misc]
        drained = federation.retire(pair.other) and federation.drain_nodes() and federation.retire(pair.leader)
        report = federation.audit()
    return {
        "kills": kills,
        "stops": stops,
        "takeover_p50_s": _percentile(killed.online, 50),
        "takeover_p95_s": _percentile(killed.online, 95),
        "next_version_p95_s": _percentile(killed.version, 95),
        "stopped_takeover_p95_s": _percentile(stopped.online, 95),
        "woken_leaders_that_ended": sum(woken),
        "in_order": drained,
        "audit": report.holds,
        "lost": len(report.lost),
        "double": len(report.double),
        "surprises": federation.surprises,
    }


def _percentile(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return round(values[0], 2) if values else 0.0
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 2)


def restarts(plan: Plan, folder: Path, url: str, kills: int) -> float:
    """The reference: the 95th percentile until a killed coordinator on SQLite is online again, in seconds."""
    rng, times = random.Random(1), Times()
    federation = Federation(site=OpenSite(replace(plan, store_url=None), folder, url))
    pair = Pair(federation)
    federation.watchers.append(pair.hear)
    try:
        federation.start()
        for _ in range(kills):
            before = pair.version
            _sure(federation.wait(lambda before=before: pair.version > before, LIMIT_S), "no version")  # type: ignore[misc]
            federation.wait(lambda: False, rng.uniform(0.0, 0.5))
            pair.online, ended_s = "", time.monotonic()
            federation.kill(LEADERS[0])
            _sure(federation.wait(lambda: bool(pair.online), LIMIT_S), "the coordinator did not come back")
            times.online.append(time.monotonic() - ended_s)
    finally:
        federation.fleet.stop()
    return _percentile(times.online, 95)


def main() -> int:
    """Measure, print, and compare with the bar; 1 where one is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=3)
    parser.add_argument("--reference-kills", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if why := why_not():
        sys.stderr.write(f"failover: {why}\n")
        return 2
    server = PostgresServer(durable=True)
    try:
        with LocalBroker(persistence=True) as broker, tempfile.TemporaryDirectory(prefix="fedmq-failover-") as folder:
            (alone := Path(folder, "alone")).mkdir()
            reference_s = restarts(PLAN, alone, broker.url, options.reference_kills)
        with LocalBroker(persistence=True) as broker, tempfile.TemporaryDirectory(prefix="fedmq-failover-") as folder:
            plan = replace(PLAN, store_url=server.new_database())
            found = fail_over(plan, Path(folder), broker.url, options.kills, options.stops)
    finally:
        server.stop()
    found |= {"restart_p95_s": reference_s, "ratio": round(float(str(found["takeover_p95_s"])) / reference_s, 2)}
    good = float(str(found["takeover_p95_s"])) <= BAR_S and bool(found["audit"]) and not found["surprises"]
    good = good and found["woken_leaders_that_ended"] == options.stops
    found["bar_s"] = BAR_S
    print(json.dumps(found) if options.json else "\n".join(f"{key:26} {value}" for key, value in found.items()))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
