"""``make bench-codec ARGS=--system``: what the codec costs and saves in whole federations, through a real broker.

    python -m benchmarks.codec_system [--json] [--seeds N] [--rounds N] [--only j1,compact,extreme,j3,j5]
                                      [--keep FOLDER] [--minutes M]

Every figure compares runs of node processes with `edge` in both directions with the same runs in which nothing is lost.
All of it takes an hour. `--keep` saves each run, and takes a saved one instead of running it again; `--minutes` starts
no further run after that time and ends with exit code 3: the same command then goes on from there.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.main_job import DATA, run_demo, say
from benchmarks.table import Figure, show
from fedmq.demo.plan import DemoOptions, make_plan
from fedmq.demo.processes import Line
from fedmq.demo.run import Demo

TAIL = 10
"""Versions at the end whose mean accuracy is compared: one version alone is noise."""
TARGET = 0.96
"""Accuracy on J1 up to which bytes and versions are counted."""
UNFINISHED = 3
"""Exit code when the time was over before the runs were."""
_COUNTS = ("pulled_bytes", "pulled_versions", "frame_bytes", "frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One federation.

    Attributes:
        name: What the table calls it.
        task: Of the registry.
        nodes: Node processes.
        per_round: Nodes in each round.
    """

    name: str
    task: str
    nodes: int
    per_round: int


J1 = Job(name="J1", task="mnist-mlp", nodes=10, per_round=5)
J3 = Job(name="J3", task="mnist-logreg", nodes=10, per_round=10)
J5 = Job(name="J5", task="har", nodes=16, per_round=16)


@dataclass(slots=True)
class Run:
    """One run's report, and what its nodes pulled.

    Attributes:
        job: Which federation.
        report: See `coordinator.monitoring.report.build_report`.
        pulled_bytes: Frames of the model, all nodes.
        pulled_versions: Versions that these frames led over.
        frame_bytes: Frames of the updates, all nodes.
        frames: How many these are.
    """

    job: Job
    report: Mapping[str, Any] = field(default_factory=dict)
    pulled_bytes: int = 0
    pulled_versions: int = 0
    frame_bytes: int = 0
    frames: int = 0
    _held: dict[str, int] = field(default_factory=dict)

    def hear(self, line: Line, _demo: Demo) -> None:
        """Count what a node pulled and made."""
        version, size = line.fields.get("version"), line.fields.get("bytes")
        if line.event == "model_ready" and isinstance(version, int) and isinstance(size, int):
            self.pulled_bytes += size
            self.pulled_versions += version - self._held.get(line.source, 0)
            self._held[line.source] = version
        if line.event == "training_finished" and isinstance(size, int):
            self.frame_bytes += size
            self.frames += 1

    def save(self, path: Path) -> None:
        """Keep it as JSON; a file is whole or not there."""
        plain = {"report": self.report} | {name: getattr(self, name) for name in _COUNTS}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(plain))
        part.replace(path)

    @classmethod
    def load(cls, job: Job, path: Path) -> "Run":
        """Read what `save` wrote."""
        return cls(job=job, **json.loads(path.read_text()))

    @property
    def parameters(self) -> int:
        """Size of the model."""
        return int(self.report["model_parameters"])

    @property
    def accuracies(self) -> list[float]:
        """Of each version, from 1."""
        return [float(row["accuracy"]) for row in self.report["rounds"]]

    @property
    def end(self) -> float:
        """Mean accuracy of the last versions, in percent."""
        return 100 * statistics.fmean(self.accuracies[-TAIL:])

    @property
    def bpp_up(self) -> float:
        """Bits per parameter of an update's frame, its header included."""
        return 8 * self.frame_bytes / (max(self.frames, 1) * self.parameters)

    @property
    def bpp_up_sent(self) -> float:
        """The same of all that nodes publish: offers with their metadata, and the rest."""
        updates = sum(row["accepted"] + row["stale"] + row["refused"] for row in self.report["rounds"])
        return float(8 * self.report["bytes_up_total"] / (updates * self.parameters))

    @property
    def bpp_down(self) -> float:
        """Bits per parameter of a version, frame headers included; versions that nobody pulled count as the others."""
        return 8 * self.pulled_bytes / (max(self.pulled_versions, 1) * self.parameters)

    def versions_to(self, accuracy: float) -> int | None:
        """The first version with this accuracy."""
        return next((at for at, value in enumerate(self.accuracies, start=1) if value >= accuracy), None)

    def bytes_to(self, version: int) -> int:
        """Of all nodes in both directions, up to a version; announcements and receipts included."""
        return sum(int(row["bytes_up"] + row["bytes_down"]) for row in self.report["rounds"][:version])

    def plain_bytes_to(self, version: int) -> int:
        """What plain float32 would take up to a version: an update up and a model down for each that was accepted."""
        return sum(8 * int(row["accepted"]) * self.parameters for row in self.report["rounds"][:version])


@dataclass(slots=True)
class Bench:
    """Runs that several figures share."""

    seeds: int
    rounds: int
    keep: Path | None = None
    until: float = float("inf")
    _runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)

    def runs(self, job: Job, codec: str) -> Sequence[Run]:
        """One run for each seed; `lossless` up is lossless down, anything else leaves the way down to its default."""
        if (job.name, codec) not in self._runs:
            self._runs[job.name, codec] = [self._run(job, codec, seed) for seed in range(self.seeds)]
        return self._runs[job.name, codec]

    def _run(self, job: Job, codec: str, seed: int) -> Run:
        kept = None if self.keep is None else self.keep / f"{job.name}-{codec}-{self.rounds}-{seed}.json"
        if kept is not None and kept.exists():
            return Run.load(job, kept)
        if monotonic() >= self.until:
            raise TimeoutError
        say(f"{job.name}, {codec}, seed {seed}: {self.rounds} versions")
        options = DemoOptions(
            task=job.task,
            nodes=job.nodes,
            per_round=job.per_round,
            rounds=self.rounds,
            codec=codec,
            seed=seed,
            chaos=False,
            data=DATA,
        )
        run = Run(job=job)
        run.report = run_demo(make_plan(options), run.hear)
        if kept is not None:
            run.save(kept)
        say(f"  {run.end:.2f} %, up {run.bpp_up:.3f}, down {run.bpp_down:.3f} bits per parameter")
        return run


def lost(bench: Bench, job: Job, codec: str, bars: tuple[float, float, float]) -> Iterator[Figure]:
    """Accuracy lost at equal versions, and the bits of an update and of a version."""
    accuracy_bar, up_bar, down_bar = bars
    plain, coded = bench.runs(job, "lossless"), bench.runs(job, codec)
    pairs = [(one.end, other.end) for one, other in zip(plain, coded, strict=True)]
    told = ", ".join(f"{one:.2f} → {other:.2f}" for one, other in pairs)
    what = f"{job.name}, {codec}: accuracy lost after {bench.rounds} versions"
    loss = statistics.fmean(one - other for one, other in pairs)
    yield Figure(what=what, measured=loss, bar=accuracy_bar, unit="points", note=f"last {TAIL}: {told}")
    sent = f"with headers; {max(run.bpp_up_sent for run in coded):.3f} with the messages around it"
    up, down = max(run.bpp_up for run in coded), max(run.bpp_down for run in coded)
    yield Figure(what=f"{job.name}, {codec}: update up", measured=up, bar=up_bar, unit="bpp", note=sent)
    yield Figure(
        what=f"{job.name}, {codec}: version down", measured=down, bar=down_bar, unit="bpp", note="with headers"
    )


def to_target(bench: Bench, codec: str, bars: tuple[float, float]) -> Iterator[Figure]:
    """Bytes and versions to J1's 96.0 %."""
    bytes_ratios, version_ratios, told = [], [], []
    for plain, coded in zip(bench.runs(J1, "lossless"), bench.runs(J1, codec), strict=True):
        first, second = plain.versions_to(TARGET), coded.versions_to(TARGET)
        if first is None or second is None:
            told.append("not reached")
            bytes_ratios.append(0.0)
            version_ratios.append(float("inf"))
            continue
        spent = coded.bytes_to(second)
        bytes_ratios.append(plain.plain_bytes_to(first) / spent)
        version_ratios.append(second / first)
        told.append(f"{plain.plain_bytes_to(first) / 1e6:.0f} → {spent / 1e6:.1f} MB in {first} → {second} versions")
    note = "; ".join(told)
    what = f"J1: plain fp32 bytes of all nodes to {TARGET:.1%} / those with {codec}"
    yield Figure(what=what, measured=min(bytes_ratios), bar=bars[0], at_least=True, note=note)
    what = f"J1: versions to it, {codec} / fp32"
    yield Figure(what=what, measured=statistics.fmean(version_ratios), bar=bars[1])


def _j1(bench: Bench) -> Iterator[Figure]:
    yield from lost(bench, J1, "edge", (0.6, 0.40, 0.13))
    yield from to_target(bench, "edge", (60, 1.15))


def _compact(bench: Bench) -> Iterator[Figure]:
    yield from lost(bench, J1, "compact", (0.6, 0.13, 0.13))
    yield from to_target(bench, "compact", (100, 1.3))


FIGURES: Mapping[str, Callable[[Bench], Iterator[Figure]]] = {
    "j1": _j1,
    "compact": _compact,
    "extreme": lambda bench: lost(bench, J1, "extreme", (1.0, 0.12, 0.13)),
    "j3": lambda bench: lost(bench, J3, "edge", (0.6, 0.40, 0.70)),
    "j5": lambda bench: lost(bench, J5, "edge", (0.6, 0.40, 0.70)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns 0 if every bar was met."""
    parser = argparse.ArgumentParser(description="The codec in whole federations, beside the same without loss.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--rounds", type=int, default=100, help="versions of each run")
    parser.add_argument("--only", default="", help=f"comma-separated names: {', '.join(FIGURES)}")
    parser.add_argument("--keep", type=Path, help="folder of saved runs, which are not run again")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further run after this time")
    options = parser.parse_args(arguments)
    wanted = set(options.only.split(",")) if options.only else set(FIGURES)
    if unknown := wanted - set(FIGURES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    skipped = {} if DATA.is_dir() else dict.fromkeys(wanted, f"no data in {DATA} (set FEDMQ_DATA)")
    until = monotonic() + 60 * options.minutes
    bench = Bench(seeds=options.seeds, rounds=options.rounds, keep=options.keep, until=until)
    names = [name for name in FIGURES if name in wanted and name not in skipped]
    try:
        figures = [figure for name in names for figure in FIGURES[name](bench)]
    except TimeoutError:
        say("the time is over: the same command goes on with what is kept")
        return UNFINISHED
    return 0 if show("Codec in the system", figures, as_json=options.json, skipped=skipped) else 1


if __name__ == "__main__":
    sys.exit(main())
