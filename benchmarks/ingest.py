"""How fast a node takes readings in, what a kill costs, and how much flash it writes.

Run it with ``python -m benchmarks.ingest`` (``--json``). Three parts, each with real processes and a real broker:

- Rate: one node process on one core; a sensor on the others says as much as the broker takes.
- Loss: a node and its broker are killed (SIGKILL) in turn, then both at once, while a sensor goes on. Between node and
  broker stands a relay that reads along: it knows which readings the node has acknowledged.
- Flash: a node at 10 readings/s, as the kernel counts what it sends to the disk; ``--minutes 60`` is an hour of it.
  ``--speed 30`` says 30 times as much with a thirtieth of the wait. That is for a look only: it gave half of what the
  hour wrote, probably since a page that changes again before it is written back counts once.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.ingest_rig import LIMIT_S, Node, Relay, Sensor
from federation.runtime.local_broker import LocalBroker

RATE_MIN = 2_000.0
DAY_BYTES_MAX = 100e6
READINGS_S = 10.0
FLUSH_S = 60.0
DAY_S = 86_400.0


@contextlib.contextmanager
def _set_up(flush_s: float, *, core: int | None = None) -> Iterator[tuple[LocalBroker, Node, Relay]]:
    with tempfile.TemporaryDirectory() as folder, LocalBroker() as broker:
        relay = Relay(broker.url)
        node = Node(Path(folder), broker.url, relay.url if core is None else broker.url, flush_s, core)
        try:
            yield broker, node, relay
        finally:
            node.kill()
            relay.close()


def measure_rate(messages: int) -> dict[str, float]:
    """Readings per second on one core, one for each message and eight; with the CPU time of each, in microseconds.

    Raises:
        TimeoutError: They do not come.
    """
    found: dict[str, float] = {}
    for name, each in (("one", 1), ("eight", 8)):
        with _set_up(1.0, core=max(os.sched_getaffinity(0))) as (broker, node, _):
            node.start()
            sensor = Sensor(broker.url)
            sensor.reach(node)
            before, (_, cpu_s), began = node.received(), node.used(), time.monotonic()
            for number in range(messages):
                if each == 1:
                    sensor.say(number)
                else:
                    sensor.say_eight(number)
            while (came := node.received() - before) < messages * each:
                if time.monotonic() - began > LIMIT_S:
                    raise TimeoutError(f"{came} of {messages * each} readings came")
                time.sleep(0.05)
            seconds, cpu = time.monotonic() - began, node.used()[1] - cpu_s
            found |= {f"readings_s_{name}": messages * each / seconds, f"cpu_us_{name}": 1e6 * cpu / (messages * each)}
            sensor.close()
    return found


def measure_loss(kills: int) -> dict[str, dict[str, int]]:
    """What is in no store after kills of the node, of the broker, and of both at once.

    Returns:
        By victim: readings that the broker had, that the node had acknowledged, and of each how many are lost.
    """
    return {victim: _killed(victim, kills) for victim in ("node", "broker", "both")}


def _killed(victim: str, kills: int) -> dict[str, int]:
    number, had = 0, set[int]()
    with _set_up(0.2) as (broker, node, relay):
        node.start()
        for _ in range(kills):
            sensor = Sensor(broker.url)
            sensor.reach(node)
            number = _say_for(sensor, number, 1.0)
            if victim != "broker":
                node.kill()
            if victim != "node":
                broker.kill()
            else:
                number = _say_for(sensor, number, 0.3)
            sensor.close()
            had |= sensor.acknowledged
            if victim != "node":
                broker.restart()
            if victim != "broker":
                node.start()
        sensor = Sensor(broker.url)
        sensor.reach(node)
        _settle(node)
        sensor.close()
        stored, told = node.values() | {-1}, relay.told.acknowledged
    return {
        "broker_had": len(had),
        "broker_had_lost": len(had - stored),
        "acknowledged": len(told),
        "acknowledged_lost": len(told - stored),
    }


def _say_for(sensor: Sensor, number: int, seconds: float) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(10):
            sensor.say(number)
            number += 1
        time.sleep(0.01)
    return number


def _settle(node: Node) -> None:
    """Wait until nothing more comes for a while."""
    before, quiet = node.received(), 0
    while quiet < 10:
        time.sleep(0.2)
        now = node.received()
        quiet, before = (quiet + 1 if now == before else 0), now


def measure_flash(minutes: float, speed: float) -> dict[str, float]:
    """Bytes that the node sends to the disk at 10 readings/s, and what that is in a day."""
    with _set_up(FLUSH_S / speed) as (broker, node, _):
        node.start()
        sensor = Sensor(broker.url)
        sensor.reach(node)
        (before, _), began, number = node.used(), time.monotonic(), 0
        while (elapsed := time.monotonic() - began) < 60.0 * minutes:
            while number < elapsed * READINGS_S * speed:
                sensor.say(number)
                number += 1
            time.sleep(0.05)
        written, covered_s = node.used()[0] - before, 60.0 * minutes * speed
        sensor.close()
        return {
            "bytes": written,
            "covered_s": covered_s,
            "bytes_per_day": written * DAY_S / covered_s,
            "readings": number,
            "speed": speed,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--messages", type=int, default=20_000, help="messages of each rate")
    parser.add_argument("--kills", type=int, default=4, help="kills of each kind")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long flash is watched")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="how many times faster than life; above 1 too little is counted"
    )
    parser.add_argument("--only", choices=("rate", "loss", "flash"), help="one part")
    options = parser.parse_args(arguments)
    rate = measure_rate(options.messages) if options.only in (None, "rate") else {}
    loss = measure_loss(options.kills) if options.only in (None, "loss") else {}
    flash = measure_flash(options.minutes, options.speed) if options.only in (None, "flash") else {}
    if options.json:
        print(json.dumps({"rate": rate, "loss": loss, "flash": flash}, indent=2))
    for line in () if options.json else _lines(rate, loss, flash):
        print(line)
    met = rate.get("readings_s_one", RATE_MIN) >= RATE_MIN and flash.get("bytes_per_day", 0.0) <= DAY_BYTES_MAX
    lost = sum(each["acknowledged_lost"] for each in loss.values()) + loss.get("node", {}).get("broker_had_lost", 0)
    return 0 if met and not lost else 1


def _lines(rate: dict[str, float], loss: dict[str, dict[str, int]], flash: dict[str, float]) -> Iterator[str]:
    if rate:
        for name, each in (("one", "one a message"), ("eight", "eight a message")):
            speed, cpu = rate[f"readings_s_{name}"], rate[f"cpu_us_{name}"]
            yield f"readings/s on one core, {each}: {speed:,.0f} (CPU {cpu:.0f} us each; bar {RATE_MIN:,.0f})"
    for victim, one in loss.items():
        yield (
            f"SIGKILL to {victim}: {one['acknowledged_lost']} of {one['acknowledged']:,} acknowledged readings lost "
            f"(bar 0); {one['broker_had_lost']} of {one['broker_had']:,} that the broker had"
        )
    if flash:
        how = "measured" if flash["speed"] == 1 else f"at {flash['speed']:.0f} times the speed: less than life writes"
        yield (
            f"flash at {READINGS_S:.0f} readings/s: {flash['bytes_per_day'] / 1e6:.1f} MB a day "
            f"(from {flash['covered_s'] / 60:.0f} minutes, {how}; bar {DAY_BYTES_MAX / 1e6:.0f} MB)"
        )


if __name__ == "__main__":
    sys.exit(main())
