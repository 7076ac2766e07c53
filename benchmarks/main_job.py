"""The main job's figures, each beside its reference of the same run.

    python -m benchmarks.main_job [--json] [--only NAME,NAME] [--repeat N]

Names: accuracy, speed, start, flower, bytes, latency, demo, memory, simulate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks.observer import Observer
from benchmarks.table import Figure, show
from federation.runtime.local_broker import LocalBroker
from fedmq.demo.plan import DemoOptions, DemoPlan, make_plan
from fedmq.demo.processes import Line, work_folder
from fedmq.demo.run import Demo, make_demo, make_story
from fedmq.demo.story import Story
from fedmq.demo.view import PlainView

DATA = Path(os.environ.get("FEDMQ_DATA", "../shared/data"))
PEERS = Path(os.environ.get("FEDMQ_PEERS", "../shared/peers"))
NAMES = ("accuracy", "speed", "start", "flower", "bytes", "latency", "demo", "memory", "simulate")

Report = Mapping[str, Any]


@dataclass(slots=True)
class Bench:
    """Figures so far, and runs that several figures share."""

    repeat: int
    figures: list[Figure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    _j1: dict[str, list[Report]] = field(default_factory=dict)
    _plain: list[float] = field(default_factory=list)

    def j1(self, codec: str, *, runs: int = 1) -> list[Report]:
        """J1 (ten nodes, five per round, five rounds) through a real broker; runs are kept."""
        reports = self._j1.setdefault(codec, [])
        while len(reports) < runs:
            say(f"J1 through the broker, codec {codec}, run {len(reports) + 1}")
            reports.append(run_demo(j1_plan(codec)))
        return reports

    def j1_beside_plain(self) -> list[float]:
        """Loop seconds of ours over plain PyTorch's, pair by pair, in turn."""
        while len(self._plain) < self.repeat:
            self.j1("balanced", runs=len(self._plain) + 1)
            say(f"J1 in plain PyTorch, one process, one core, run {len(self._plain) + 1}")
            self._plain.append(plain_j1_s())
        return [
            float(ours["loop_wall_s"]) / plain for ours, plain in zip(self.j1("balanced"), self._plain, strict=False)
        ]


def say(sentence: str) -> None:
    """Progress goes to stderr, figures to stdout."""
    sys.stderr.write(f"bench: {sentence}\n")
    sys.stderr.flush()


class _Quiet(PlainView):
    def say(self, sentence: str) -> None:
        """Figures matter here, not sentences."""


def run_demo(plan: DemoPlan, listen: Callable[[Line, Demo], None] | None = None) -> Report:
    """Run one demo in this process, with its child processes, and return its report."""
    story = _ListeningStory(make_story(plan).nodes)
    with work_folder() as folder:
        demo = make_demo(plan, _Quiet(Console(stderr=True)), story, folder)
        if listen is not None:
            story.listener = lambda line: listen(line, demo)
        return demo.run()


@dataclass(slots=True)
class _ListeningStory(Story):
    listener: Callable[[Line], None] | None = None

    def hear(self, line: Line) -> str | None:
        if self.listener is not None:
            self.listener(line)
        return Story.hear(self, line)


def j1_plan(codec: str) -> DemoPlan:
    """J1 of the README's table."""
    return make_plan(
        DemoOptions(task="mnist-mlp", nodes=10, rounds=5, per_round=5, codec=codec, chaos=False, data=DATA)
    )


def plain_j1_s() -> float:
    """Seconds of J1's loop in plain PyTorch in one process on one core."""
    command = [sys.executable, "-m", "benchmarks.reference_j1", "--data", str(DATA)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["wall_s"])


def accuracy(bench: Bench) -> None:
    """J1's accuracy after five rounds."""
    scores = [float(report["final_accuracy"]) * 100 for report in bench.j1("balanced")]
    bench.figures.append(
        Figure(
            what="J1, 10 node processes, codec balanced: accuracy after 5 rounds",
            measured=min(scores),
            bar=86.5,
            unit="%",
            at_least=True,
            note=f"worst of {len(scores)}",
        )
    )


def speed(bench: Bench) -> None:
    """J1's loop time beside the plain loop's."""
    ratios = bench.j1_beside_plain()
    ours = [float(report["loop_wall_s"]) for report in bench.j1("balanced")]
    note = (
        f"median of {len(ratios)} pairs, {min(ratios):.2f} to {max(ratios):.2f}; ours {statistics.median(ours):.2f} s"
    )
    bench.figures.append(
        Figure(what="J1 loop wall time / plain PyTorch", measured=statistics.median(ratios), bar=0.6, note=note)
    )
    bench.figures.append(Figure(what="the same, worst pair", measured=max(ratios), bar=0.75))


def flower(bench: Bench) -> None:
    """Flower's loop on the same job over ours."""
    script = PEERS / "flower" / "run.sh"
    if not script.exists():
        bench.skipped["Flower's loop / ours"] = f"no {script} (set FEDMQ_PEERS)"
        return
    say("J1 on Flower: two to three minutes")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "flower.json"
        environment = os.environ | {"FEDMQ_DATA": str(DATA.resolve())}
        subprocess.run(
            ["/bin/bash", str(script), str(out)], check=True, capture_output=True, env=environment, timeout=900
        )
        theirs = float(json.loads(out.read_text())["loop_s"])
    ours = statistics.median(float(report["loop_wall_s"]) for report in bench.j1("balanced"))
    note = f"theirs {theirs:.1f} s, ours {ours:.2f} s"
    bench.figures.append(
        Figure(what="Flower's loop on J1 / ours", measured=theirs / ours, bar=40.0, at_least=True, note=note)
    )


def traffic(bench: Bench) -> None:
    """Bytes up against fp32, headers included."""
    for codec, bar in (("balanced", 1 / 16), ("edge", 1 / 64)):
        report = bench.j1(codec)[0]
        up, plain = float(report["bytes_up_total"]), float(report["bytes_up_fp32"])
        score = f"; accuracy {float(report['final_accuracy']):.2%}"
        note = f"1/{plain / up:.1f}: {up:.0f} of {plain:.0f} B{score}"
        bench.figures.append(Figure(what=f"J1 bytes up / fp32, {codec}", measured=up / plain, bar=bar, note=note))


def latency(bench: Bench) -> None:
    """Announcement to last receipt with a task that trains nothing."""
    say("announcement to last receipt, 10 nodes, task null")
    with LocalBroker() as broker:
        options = DemoOptions(task="null", nodes=10, rounds=200, per_round=10, chaos=False, broker=broker.url)
        plan = replace(make_plan(options), evaluate_every=0)
        with Observer(broker.url, federation=plan.federation) as observer:
            run_demo(plan)
        seconds = sorted(observer.latencies_s())
    what, note = "announcement to last receipt, null task, 10 nodes", f"{len(seconds)} rounds"
    for name, second, bar in (
        ("p50", statistics.median(seconds), 20.0),
        ("p95", seconds[int(len(seconds) * 0.95)], 35.0),
    ):
        bench.figures.append(Figure(what=f"{what}, {name}", measured=second * 1000, bar=bar, unit="ms", note=note))


def start(bench: Bench) -> None:
    """The whole command that J1 is, from its first import to its last line."""
    options = ("--task", "mnist-mlp", "--nodes", "10", "--per-round", "5", "--rounds", "5", "--codec", "balanced")
    wall_s, report = whole_demo(*options, "--no-chaos", "--data", str(DATA))
    note = f"loop {float(report['loop_wall_s']):.2f} s"
    bench.figures.append(Figure(what="J1, whole command", measured=wall_s, bar=8.0, unit="s", note=note))


def whole_demo(*options: str) -> tuple[float, Report]:
    """Seconds that ``coordinator demo`` takes as a command, and its report."""
    say(" ".join(("coordinator demo", *options)))
    began = time.monotonic()
    command = [sys.executable, "-m", "coordinator", "demo", "--json", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.monotonic() - began, json.loads(done.stdout.splitlines()[-1])


def demo(bench: Bench) -> None:
    """``coordinator demo`` as a whole, with chaos."""
    wall_s, report = whole_demo()
    kills = f"{report['chaos_kills']} node killed, {report['chaos_returns']} back"
    bench.figures.append(Figure(what="make demo after set-up", measured=wall_s, bar=8.0, unit="s", note=kills))
    bench.figures.append(
        Figure(
            what="make demo: accuracy on digits",
            measured=float(report["final_accuracy"]) * 100,
            bar=95.0,
            unit="%",
            at_least=True,
        )
    )


def memory(bench: Bench) -> None:
    """The coordinator's peak memory over 1,000 updates of J1's size, without evaluation.

    It is started as on a machine of its own: one that is forked from a process with torch has that one's pages, too.
    """
    say("coordinator's memory over 1,000 updates")
    plan = j1_plan("edge")
    plan = replace(plan, rounds=200, evaluate_every=0, apart=True, settings=replace(plan.settings, max_steps=1))
    resident: list[int] = []

    def watch(line: Line, demo: Demo) -> None:
        if line.source == "coordinator" and line.event == "version_committed":
            resident.append(psutil.Process(demo.fleet.pid("coordinator")).memory_info().rss)

    run_demo(plan, watch)
    early, late = max(resident[20:60]), max(resident[-40:])
    note = f"{len(resident)} versions of 5 updates"
    peak_mb = max(resident) / 1e6
    bench.figures.append(
        Figure(what="coordinator's peak memory, J1", measured=peak_mb, bar=120.0, unit="MB", note=note)
    )
    bench.figures.append(
        Figure(
            what="its memory after 1,000 updates / after 300",
            measured=late / early,
            bar=1.03,
            note=f"{early / 1e6:.1f} to {late / 1e6:.1f} MB",
        )
    )


def simulate(bench: Bench) -> None:
    """A thousand virtual nodes for a hundred rounds, twice."""
    say("simulate 1,000 nodes x 100 rounds, twice")
    command = [sys.executable, "-m", "coordinator", "simulate", "--nodes", "1000", "--rounds", "100", "--seed", "1"]
    walls, transcripts = [], []
    for _ in range(2):
        began = time.monotonic()
        done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
        walls.append(time.monotonic() - began)
        transcripts.append(json.loads(done.stdout.splitlines()[-1])["transcript"])
    what = "simulate 1,000 nodes x 100 rounds"
    bench.figures.append(Figure(what=what, measured=max(walls), bar=30.0, unit="s", note="slower of two runs"))
    same = float(transcripts[0] == transcripts[1])
    bench.figures.append(Figure(what="same seed, same transcript", measured=same, bar=1.0, at_least=True))


RUNS: Mapping[str, Callable[[Bench], None]] = {
    "speed": speed,
    "accuracy": accuracy,
    "start": start,
    "flower": flower,
    "bytes": traffic,
    "latency": latency,
    "demo": demo,
    "memory": memory,
    "simulate": simulate,
}


def main() -> int:
    """Run the wanted figures; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="The main job's figures, each beside its reference of the same run.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--only", default="", help=f"comma-separated names: {', '.join(NAMES)}")
    parser.add_argument("--repeat", type=int, default=3, help="pairs of J1 beside plain PyTorch")
    options = parser.parse_args()
    wanted = set(options.only.split(",")) if options.only else set(NAMES)
    if unknown := wanted - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    bench = Bench(options.repeat)
    for name, run in RUNS.items():
        if name in wanted:
            if name in {"accuracy", "speed", "start", "flower", "bytes", "memory"} and not DATA.is_dir():
                bench.skipped[name] = f"no data in {DATA} (set FEDMQ_DATA)"
                continue
            run(bench)
    reached = show("the main job", bench.figures, as_json=options.json, skipped=bench.skipped)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
