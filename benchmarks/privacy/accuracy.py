"""J1 (MNIST, 10 nodes, 5 of them in each version) with masked updates, against the same run with plain fp32.

The nodes' real training and masking, and the coordinator's real aggregation, without a broker between: boxes are
opened, masks are summed as a helper sums them, and each version is made of the sum alone. The integers that nodes have
said are added beside it, and must be the same.

The bar of 94.3 % came of a prototype with standardised images, whose fp32 run reached 95.2 %. With those fp32 (--plain)
reaches 95.5 % here, and ternary masked updates 95.1 %; with the task's own images between -1 and 1 (--task-images) both
learn more slowly: 93.4 and 93.0 %.

    python -m benchmarks.privacy.accuracy [--versions 30] [--levels 1] [--data DIR] [--plain] [--task-images]
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.privacy.models import standardised_j1
from coordinator.global_model.aggregation import Aggregated, AggregateLimits, aggregate
from coordinator.global_model.masked import MaskedCombine, MaskedModel
from coordinator.records import Member
from coordinator.strategies.strategy import Averaging
from edge_node.records import FinishedTraining, Residual
from edge_node.training.adoption import manifest_of
from edge_node.training.masking import Masking, unmasked
from edge_node.training.update import ResidualChange, merge
from edge_node.training.worker import TrainingJob, TrainingSetup, run_round
from federation.privacy.boxes import Kem, KeyPair
from federation.privacy.seeds import SeedMask, open_seeds
from federation.privacy.terms import helpers_digest, shape_of
from federation.protocol.cohort import EVERYONE
from federation.protocol.messages import ModelRef, RoundAnnouncement
from federation.protocol.sum_messages import PrivacyTerms, Ticket
from federation.protocol.wire import decode_message, encode_message
from federation.runtime.clock import MonotonicClock
from federation.task import Task, TaskContext, prepare
from federation.tasks.registry import default_settings, load_task
from federation.types import Digest, Epoch, ModelVersion, NodeId, RoundId, RunId, UpdateId, update_id
from update_codec import Manifest, Vectors, decode
from update_codec.masking import MaskedSum, read_masked

DATA = Path(os.environ.get("FEDMQ_DATA", "../shared/data")) / "mnist"
NODES, COHORT = 10, 5
RUN = RunId("00000000000000aa")
SIGNATURE_BYTES = 64
ACCURACY_MIN, BITS_OVER_MAX, FACTOR_MIN = 0.943, 0.1, 6.0
"""The bars: accuracy after 30 versions, bits per parameter above k, and how many times fewer bytes than fp32."""


@dataclass(slots=True)
class Node:
    """One node's training, and what it has not said."""

    setup: TrainingSetup
    residual: Residual | None = None


@dataclass(slots=True)
class Run:
    """One run of a few versions.

    Attributes:
        bytes_up: Of frames, tickets and boxes.
        updates: How many.
        beyond_k: Most bits per parameter of an update above its own k.
    """

    nodes: list[Node]
    judge: Task
    manifest: Manifest
    model: Vectors
    state: dict[str, np.ndarray]
    rng: np.random.Generator
    bytes_up: int = 0
    updates: int = 0
    beyond_k: float = 0.0

    def announcement(self, version: int, codec: str, terms: PrivacyTerms | None) -> RoundAnnouncement:
        """What a coordinator would announce."""
        settings = replace(default_settings("mnist-mlp"), seed=version)
        reference = ModelRef(
            version=ModelVersion(version),
            digest=Digest(self.model.digest()),
            manifest_digest=Digest(self.manifest.digest),
            seed=None,
            parts=(),
        )
        return RoundAnnouncement(
            run=RUN,
            epoch=Epoch(1),
            round=RoundId(version),
            task="mnist-mlp",
            model=reference,
            cohort=EVERYONE,
            settings=settings,
            codec=codec,
            min_base_version=ModelVersion(0),
            lease_s=600.0,
            spread_s=0.0,
            privacy=terms,
        )

    def train(self, node: Node, asked: RoundAnnouncement, masking: Masking | None) -> FinishedTraining:
        """One node's real round."""
        job = TrainingJob(announcement=asked, base=self.model, residual=node.residual, masking=masking)
        done = run_round(node.setup, job, lambda: False, MonotonicClock())
        if isinstance(done.token, ResidualChange):
            node.residual = merge(node.residual, done.token)
        self.updates += 1
        self.bytes_up += len(done.frame)
        return done

    def plain(self, version: int) -> None:
        """A version of fp32 updates."""
        asked, chosen = self.announcement(version, "lossless", None), self.choose()
        frames = [self.train(node, asked, None).frame for node in chosen]
        updates = [decode(frame, self.manifest).parameters.astype(np.float64) for frame in frames]
        self.move(np.mean(updates, axis=0).astype(np.float32))

    def masked(self, version: int, model: MaskedModel, helpers: list[KeyPair]) -> None:
        """A version of masked updates, made of nothing but their sum and the helpers' answers."""
        terms = model.terms(self.manifest, self.state)
        asked = self.announcement(version, "masked", terms)
        masking = Masking(
            keys=[pair.public for pair in helpers],
            draw=os.urandom,
            sign=lambda ticket: encode_message(ticket, sign=lambda _: bytes(SIGNATURE_BYTES)),
        )
        answers = [MaskedSum(shape_of(terms)) for _ in helpers]
        said = np.zeros(self.manifest.parameter_count, np.int64)
        frames: dict[UpdateId, bytes] = {}
        for node in self.choose():
            done = self.train(node, asked, masking)
            name, offer = update_id(asked.round, node.setup.node), done.masked
            assert offer is not None  # noqa: S101 - it was asked for
            frames[name] = done.frame
            extra = len(offer.ticket) + sum(map(len, offer.boxes))
            self.bytes_up += extra
            bits = 8 * (len(done.frame) + extra) / self.manifest.parameter_count
            self.beyond_k = max(self.beyond_k, bits - terms.bits)
            ticket = decode_message(offer.ticket)
            assert isinstance(ticket, Ticket)  # noqa: S101 - we have just made it
            for answer, pair, box in zip(answers, helpers, offer.boxes, strict=True):
                answer.add_mask(SeedMask(open_seeds([pair], ticket, box).seeds[0], RUN, name))
            values = unmasked(done.frame, self.manifest, offer.seeds, (RUN, name))
            said += np.rint(values / np.float32(read_masked(done.frame, self.manifest).step)).astype(np.int64)
        combine = MaskedCombine(terms, [one.to_bytes() for one in answers], self.model.counters)
        members = [Member(update=name, node=NodeId(name), num_examples=1, staleness=0) for name in frames]
        nothing: dict[str, np.ndarray] = {}
        context = (self.manifest, nothing, AggregateLimits())
        made = aggregate(members, frames.__getitem__, Averaging(importance="uniform"), context, combine=combine)
        assert isinstance(made, Aggregated)  # noqa: S101 - honest nodes make usable sums
        expected = (said * (terms.step / COHORT)).astype(np.float32)
        if not np.array_equal(made.step.parameters, expected):
            raise SystemExit(f"version {version + 1}: the masked sum is not the sum of the integers")
        self.move(made.step.parameters)
        assert combine.tail is not None  # noqa: S101 - it was combined
        self.state = dict(model.follow(self.state, version + 1, combine.tail.length, self.manifest.parameter_count))

    def choose(self) -> list[Node]:
        """Who takes part."""
        return [self.nodes[int(index)] for index in self.rng.choice(NODES, COHORT, replace=False)]

    def move(self, step: np.ndarray) -> None:
        """The next version."""
        self.model = Vectors(self.model.parameters + step, self.model.statistics, self.model.counters)

    def accuracy(self) -> float:
        """Of the model, on the test set."""
        return float(self.judge.evaluate(self.manifest.unflatten(self.model))["accuracy"])


def new_run(data: Path | None, seed: int, *, task_images: bool) -> Run:
    """Ten nodes and a judge."""
    build = load_task("mnist-mlp") if task_images else standardised_j1
    nodes = []
    for index in range(NODES):
        task = build(TaskContext(node_index=index, node_count=NODES, data=data, device="cpu", seed=seed))
        prepare(task)
        nodes.append(Node(TrainingSetup(node=NodeId(f"n{index}"), task=task, manifest=manifest_of(task))))
    judge = build(TaskContext(node_index=None, node_count=1, data=data, device="cpu", seed=seed))
    manifest = nodes[0].setup.manifest
    model = manifest.flatten(dict(judge.initial_parameters(seed)))
    return Run(nodes, judge, manifest, model, {}, np.random.default_rng(seed))


def main() -> int:
    """Run it, print the curve and the bars; exit code 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--versions", type=int, default=30)
    parser.add_argument("--levels", type=int, default=1)
    parser.add_argument("--step", type=float, default=None, help="of the first version; none sends it finely")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA if DATA.is_dir() else None)
    parser.add_argument("--plain", action="store_true", help="fp32 instead of masks")
    parser.add_argument("--task-images", action="store_true", help="images between -1 and 1, as mnist-mlp has them")
    given, _ = parser.parse_known_args()  # the others' flags come here, too
    run, began = new_run(given.data, given.seed, task_images=given.task_images), time.monotonic()
    helpers = [KeyPair.make(Kem.X25519) for _ in range(2)]
    digest = helpers_digest([b"a" * 32, b"b" * 32], 2)
    model = MaskedModel(
        helpers=digest, count=2, threshold=2, members=COHORT, levels=given.levels, first_step=given.step
    )
    for version in range(given.versions):
        if given.plain:
            run.plain(version)
        else:
            run.masked(version, model, helpers)
        if version + 1 in (1, 5, 10, 20, given.versions):
            sys.stdout.write(f"version {version + 1}: {run.accuracy():.2%}\n")
    reached, plain = run.accuracy(), 4.0 * run.manifest.parameter_count * run.updates
    factor, bits = plain / run.bytes_up, 8.0 * run.bytes_up / run.updates / run.manifest.parameter_count
    sys.stdout.write(f"accuracy {reached:.2%}; {bits:.3f} bits up per parameter; 1/{factor:.2f} of fp32; ")
    sys.stdout.write(f"{time.monotonic() - began:.0f} s\n")
    if given.plain:
        return 0
    sys.stdout.write(f"most bits of an update above its k: {run.beyond_k:.3f}\n")
    bars = [reached >= ACCURACY_MIN, run.beyond_k <= BITS_OVER_MAX, factor >= FACTOR_MIN]
    sys.stdout.write(f"bars (accuracy, bits, factor): {bars}\n")
    asked = given.versions == 30 and not given.task_images
    return 0 if all(bars) or not asked else 1


if __name__ == "__main__":
    raise SystemExit(main())
