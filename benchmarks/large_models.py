"""``make bench-large``: models of 47 MB and 100 MB through a real Mosquitto, both ways.

    python -m benchmarks.large_models [--json] [--only NAME,NAME] [--rounds N]

Names: memory, throughput, control, cuts, kills, checkpoint. The updates are noise (`benchmarks.large_task`): the worst
case of the lossless codec. Mosquitto runs with its own default limits, except for throughput and control.
"""

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.control_latency import measure_latencies
from benchmarks.large_run import COORDINATOR, LargePlan, LargeRun, integer, moment_s, received_in_vain_bytes, running
from benchmarks.table import Figure, show
from coordinator.storage.read_only import ReadOnlyStore
from federation.protocol.limits import CHUNK_BYTES
from federation.runtime.local_broker import BROKER_LIMITS, LocalBroker
from federation.testing import TcpProxy
from fedmq.demo.processes import Line

MIB = 1 << 20
DEFAULT_LIMITS: Mapping[str, str] = {}
PATIENCE_S = 0.02
"""How often the link's byte count is looked at, in seconds."""
RAW_TOPIC = "raw/chunks"
RAW_LIMIT_S = 120.0
"""The reference for throughput is ``mosquitto_pub`` into ``mosquitto_sub``: as many bytes in such chunks at QoS 1."""


def missing_tools() -> str | None:
    """Why nothing can be measured here; None when it can."""
    absent = [name for name in ("mosquitto_pub", "mosquitto_sub") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed (package mosquitto-clients)" if absent else None


def write_lines(file: Path, payload_bytes: int, chunk_bytes: int) -> int:
    """Write noise as lines of one chunk each, the messages of ``mosquitto_pub -l``; returns how many."""
    chunks = -(-payload_bytes // chunk_bytes)
    noise = np.random.default_rng(0).integers(33, 127, (chunks, chunk_bytes + 1), dtype=np.uint8)
    noise[:, -1] = ord("\n")
    file.write_bytes(noise.tobytes())
    return chunks


def raw_rate(broker: LocalBroker, file: Path, chunks: int) -> float:
    """Bytes per second from the first publish to the last delivery."""
    publish, listen = str(shutil.which("mosquitto_pub")), str(shutil.which("mosquitto_sub"))
    where = ["-V", "5", "-h", broker.host, "-p", str(broker.port), "-t", RAW_TOPIC, "-q", "1"]
    subprocess.run([publish, *where, "-r", "-m", "ready"], check=True)
    with subprocess.Popen([listen, *where, "-C", str(chunks + 1), "-F", "%t"], stdout=subprocess.PIPE) as listening:
        assert listening.stdout is not None  # noqa: S101 - it is a pipe
        listening.stdout.readline()  # the retained one: it has subscribed
        began_s = time.monotonic()
        with file.open("rb") as lines:
            subprocess.run([publish, *where, "-l"], stdin=lines, check=True)
        listening.communicate(timeout=RAW_LIMIT_S)
        seconds = time.monotonic() - began_s
    subprocess.run([publish, *where, "-r", "-n"], check=True)
    return file.stat().st_size / seconds


@dataclass(slots=True)
class Bench:
    """Figures so far."""

    rounds: int
    figures: list[Figure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, measured: float, bar: float | None, unit: str = "", note: str = "") -> None:
        """A figure that must not be larger than its bar."""
        self.figures.append(Figure(what=what, measured=measured, bar=bar, unit=unit, note=note))

    def add_ratio(self, what: str, measured: float, bar: float, note: str) -> None:
        """A figure that must not be smaller than its bar."""
        self.figures.append(Figure(what=what, measured=measured, bar=bar, at_least=True, note=note))


def measure_memory(bench: Bench) -> None:
    """Two and eight nodes upload at once: the broker's and the coordinator's peaks, and what was lost."""
    peaks = {}
    for nodes in (2, 8):
        say(f"ResNet-18, {nodes} nodes at once, Mosquitto's default limits")
        with workplace(DEFAULT_LIMITS) as (folder, broker), running(LargePlan(nodes=nodes), folder, broker) as run:
            peaks[nodes] = _watch_peaks(run)
            run.wait_finished()
            retained, lost = retained_bytes(folder), _lost(run)
            chunks = min(-(-integer(line, "bytes") // CHUNK_BYTES) for line in run.said("update_stored"))
        above = peaks[nodes]["broker"] - retained
        note = f"peak {peaks[nodes]['broker'] // MIB} MiB, {retained // MIB} MiB of it retained: two versions"
        bench.add(f"broker above the retained model, {nodes} nodes", above / MIB, 64, "MiB", note)
        bench.add(f"updates lost, {nodes} nodes", lost, 0, note=f"{chunks} chunks each, default limits")
    few, many = peaks[2][COORDINATOR], peaks[8][COORDINATOR]
    note = f"{few // MIB} MiB with 2, {many // MIB} MiB with 8 nodes"
    bench.add("coordinator's peak, 8 nodes / 2 nodes", many / few, 1.1, note=note)


def measure_throughput(bench: Bench) -> None:
    """One node's uploads and downloads, in turn with the raw reference."""
    reason = missing_tools()
    if reason is not None:
        bench.skipped["throughput"] = reason
        return
    raws = list[float]()
    with workplace(BROKER_LIMITS) as (folder, broker):
        chunks = write_lines(folder / "lines", 38_700_000, CHUNK_BYTES)
        raws.append(raw_rate(broker, folder / "lines", chunks))
        with running(LargePlan(nodes=1, versions=bench.rounds), folder, broker) as run:
            for number in range(1, bench.rounds + 1):
                say(f"throughput, version {number} of {bench.rounds}")
                run.wait(lambda number=number: len(run.said("update_stored")) >= number)  # type: ignore[misc]
                # The coordinator makes the version meanwhile: the reference does not have the machine to itself.
                run.wait(lambda number=number: len(run.said("version_committed")) >= number)  # type: ignore[misc]
                raws.append(raw_rate(broker, folder / "lines", chunks))
            run.wait_finished()
            ways = {"up": (upload_rates(run), stored_rates(run)), "down": (download_rates(run), adopted_rates(run))}
    raw = statistics.median(raws)
    for name, (rates, whole) in ways.items():
        rate = statistics.median(rates)
        note = f"{rate / 1e6:.0f} of {raw / 1e6:.0f} MB/s, medians of {len(rates)} and {len(raws)}; "
        note += f"checked and kept at {statistics.median(whole) / 1e6:.0f} MB/s"
        bench.add_ratio(f"ResNet-18 {name} / raw mosquitto_pub", rate / raw, 0.5, note)


def upload_rates(run: LargeRun) -> list[float]:
    """Bytes per second from the first offer of an update to its last chunk on the coordinator's disk."""
    sizes, offered = dict[object, int](), dict[object, float]()
    for line in run.said("update_offered"):
        sizes[line.fields["update"]] = integer(line, "bytes")
        offered.setdefault(line.fields["update"], moment_s(line))
    complete = run.said("transfer_complete")
    return [sizes[line.fields["update"]] / (moment_s(line) - offered[line.fields["update"]]) for line in complete]


def stored_rates(run: LargeRun) -> list[float]:
    """The same until the update is checked and stored."""
    offered: dict[object, float] = {}
    for line in run.said("update_offered"):
        offered.setdefault(line.fields["update"], moment_s(line))
    stored = run.said("update_stored")
    return [integer(line, "bytes") / (moment_s(line) - offered[line.fields["update"]]) for line in stored]


def download_rates(run: LargeRun) -> list[float]:
    """Bytes per second from the announcement to the node's last chunk; the coordinator publishes them meanwhile."""
    return _rates_since_announcement(run, "model_fetched")


def adopted_rates(run: LargeRun) -> list[float]:
    """The same until the model is decoded and its digest checked."""
    return _rates_since_announcement(run, "model_ready")


def _rates_since_announcement(run: LargeRun, event: str) -> list[float]:
    announced = dict[object, float]()
    for line in run.said("round_announced"):
        announced.setdefault(line.fields["version"], moment_s(line))
    # Version 0 may come from its seed: no bytes.
    done = [line for line in run.said(event) if integer(line, "bytes") and integer(line, "version")]
    return [integer(line, "bytes") / (moment_s(line) - announced[line.fields["version"]]) for line in done]


def measure_control(bench: Bench) -> None:
    """A control message's way there and back, while eight nodes upload and while none does."""
    say("ResNet-18, 8 nodes at once: control messages meanwhile")
    with workplace(BROKER_LIMITS) as (folder, broker), running(LargePlan(nodes=8, versions=1), folder, broker) as run:
        found = measure_latencies(run)
        run.wait_finished()
    # No bar: on one machine it is mostly the wait for the CPU of the eight nodes.
    bench.add("control message answered, 8 uploads / none", found.ratio, None, note=found.note())


def measure_cuts(bench: Bench) -> None:
    """Five cuts of one upload."""
    count, rng = 5, random.Random(4)
    say(f"ResNet-18, one upload, {count} cuts")
    with workplace(DEFAULT_LIMITS) as (folder, broker), TcpProxy(broker.host, broker.port) as proxy:
        plan = LargePlan(nodes=1, versions=1, url=f"mqtt://{proxy.host}:{proxy.port}")
        with running(plan, folder, broker) as run:
            seen: dict[str, int] = {}

            def arm(line: Line) -> None:
                if line.event == "update_offered" and not seen:
                    seen.update(payload=integer(line, "bytes"), before=proxy.up.passed)
                elif line.event == "update_stored":
                    seen["after"] = proxy.up.passed
                if line.event == "update_offered" and proxy.cuts < count:
                    proxy.up.cut_after = seen["payload"] // (count + 1) + rng.randint(-CHUNK_BYTES, CHUNK_BYTES)

            run.watchers.append(arm)
            run.wait_finished()
            twice = received_in_vain_bytes(run)
    link = (seen["after"] - seen["before"] - seen["payload"]) // count
    note = f"{proxy.cuts} cuts; {link:,} B per cut on the link: headers, and what a cut takes with it"
    bench.add("arrived twice, per cut of the link", twice / count, CHUNK_BYTES, "B", note)


def measure_kills(bench: Bench) -> None:
    """The node and the coordinator are killed three times each in the middle of one upload."""
    for name in ("node-0", COORDINATOR):
        count = 3
        say(f"ResNet-18, one upload, {name} killed {count} times")
        with workplace(DEFAULT_LIMITS) as (folder, broker), TcpProxy(broker.host, broker.port) as proxy:
            plan = LargePlan(nodes=1, versions=1, url=f"mqtt://{proxy.host}:{proxy.port}")
            with running(plan, folder, broker) as run:
                run.wait(lambda: bool(run.said("update_offered")))
                before, payload = proxy.up.passed, integer(run.said("update_offered")[0], "bytes")
                for number in range(1, count + 1):
                    goal = before + payload * number // (count + 1)
                    while proxy.up.passed < goal:
                        run.wait(lambda: False, PATIENCE_S)
                    run.restart(name)
                run.wait(lambda: bool(run.said("update_stored")))
                again = proxy.up.passed - before - payload
                run.wait_finished()
        note = "all that the node sent beyond the payload, headers too"
        bench.add(f"sent again, per kill -9 of {name.removesuffix('-0')}", again / count, CHUNK_BYTES, "B", note)


def measure_checkpoint(bench: Bench) -> None:
    """100 MB up and down, with default settings everywhere."""
    say("a checkpoint of 100 MB")
    with (
        workplace(DEFAULT_LIMITS) as (folder, broker),
        running(LargePlan(task="checkpoint", nodes=1), folder, broker) as run,
    ):
        peaks = _watch_peaks(run)
        run.wait_finished()
        lost, retained = _lost(run), retained_bytes(folder)
        up, down = max(upload_rates(run)), max(download_rates(run))
    note = f"up {up / 1e6:.0f} MB/s, down {down / 1e6:.0f} MB/s, coordinator's peak {peaks[COORDINATOR] // MIB} MiB"
    bench.add("checkpoint of 100 MB: updates lost", lost, 0, note=note)
    note = f"peak {peaks['broker'] // MIB} MiB, {retained // MIB} MiB of it retained"
    bench.add("checkpoint: broker above the retained model", (peaks["broker"] - retained) / MIB, 64, "MiB", note)


def retained_bytes(folder: Path) -> int:
    """What the coordinator has the broker retain at the end: the parts of the last two versions, each once."""
    with ReadOnlyStore(folder / COORDINATOR) as store:
        return sum(part.payload_bytes for part in store.published())


def _watch_peaks(run: LargeRun) -> dict[str, int]:
    """Filled while the run goes on: the coordinator's process is gone at the end."""
    peaks: dict[str, int] = {}

    def look(line: Line) -> None:
        if line.source == COORDINATOR and line.event != "coordinator_stopped":
            peaks["broker"] = run.peak_bytes("broker")
            if COORDINATOR not in run.ended:
                peaks[COORDINATOR] = run.peak_bytes(COORDINATOR) or peaks.get(COORDINATOR, 0)

    run.watchers.append(look)
    return peaks


def _lost(run: LargeRun) -> int:
    """Updates that were offered and neither applied nor said to be stale."""
    offered = {line.fields["update"] for line in run.said("update_offered")}
    judged = {line.fields["update"] for line in run.said("update_stored") + run.said("update_stale")}
    return len(offered - judged) + len(run.said("update_refused"))


MEASURES: dict[str, Callable[[Bench], None]] = {
    "memory": measure_memory,
    "throughput": measure_throughput,
    "control": measure_control,
    "cuts": measure_cuts,
    "kills": measure_kills,
    "checkpoint": measure_checkpoint,
}


@contextmanager
def workplace(limits: Mapping[str, str]) -> Iterator[tuple[Path, LocalBroker]]:
    """A temporary folder and a broker with these limits."""
    with tempfile.TemporaryDirectory(prefix="fedmq-large-") as folder, LocalBroker(settings=limits) as broker:
        yield Path(folder), broker


def say(sentence: str) -> None:
    """Progress goes to stderr, figures to stdout."""
    sys.stderr.write(f"bench-large: {sentence}\n")
    sys.stderr.flush()


def main() -> int:
    """Measure and print; the exit code is 1 when a bar was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", default=",".join(MEASURES), help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="versions of the throughput's run")
    arguments = parser.parse_args()
    bench = Bench(rounds=arguments.rounds)
    for name in arguments.only.split(","):
        MEASURES[name](bench)
    return 0 if show("Large models", bench.figures, as_json=arguments.json, skipped=bench.skipped) else 1


if __name__ == "__main__":
    sys.exit(main())
