"""``make bench-bytes``: where the bytes of job J1 go, by kind, and how far updates are from what theory allows.

    python -m benchmarks.bytes [--json] [--codec balanced] [--rounds N] [--only kinds,rates]

`kinds` runs J1 (MNIST, ten node processes, five per round) through a broker of its own, to which a witness listens: it
sees each message once, and an announcement counts once for each node. Beside it stands what the same updates and models
take in plain float32. `rates` trains J1's nodes in this process, takes their updates and the aggregates of some rounds,
and sets the bits of real frames against the rate-distortion function of a Gaussian source at the same error: with the
spread of each tensor, of each band of cosine coefficients, and of each pair of singular vectors of what the model has
moved so far, which is what a prior that both ends share would give.
"""

import argparse
import logging
import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from benchmarks.main_job import DATA, run_demo, say
from benchmarks.table import Figure, show
from coordinator.runtime.traffic import PACKET_HEADER_BYTES
from federation.errors import RemoteProtocolError
from federation.protocol.messages import Grant, NodeState, Receipt, RoundAnnouncement, UpdateOffer
from federation.protocol.wire import decode_message
from federation.runtime.local_broker import LocalBroker
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import InboxItem, MessageReceived
from federation.task import TaskContext
from federation.tasks.registry import default_settings, load_task
from fedmq.demo.plan import DemoOptions, make_plan
from fedmq.demo.processes import Line
from fedmq.demo.run import Demo
from update_codec import CodecSpec, Manifest, Vectors, encode
from update_codec.bands import matrices
from update_codec.quantizers.cosine import forward

NODES, PER_ROUND = 10, 5
DOWN_BARS = {"balanced": 1 / 40, "edge": 1 / 40, "compact": 1 / 40}
KINDS: Mapping[type, str] = {
    RoundAnnouncement: "announcements",
    UpdateOffer: "offers without updates",
    Receipt: "receipts",
    Grant: "grants",
    NodeState: "states of nodes",
}
SEEN = (1, 5, 10, 20)
"""Rounds whose updates are looked at."""

F64 = NDArray[np.float64]


@dataclass(slots=True)
class Witness:
    """Listens to a whole federation, without acknowledgements.

    Attributes:
        url: The broker.
        federation: Its name.
        bytes_of: Bytes by kind, headers of MQTT apart.
        messages: How many that were, deliveries counted.
    """

    url: str
    federation: str
    bytes_of: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    _inbox: "queue.Queue[InboxItem]" = field(default_factory=lambda: queue.Queue(100_000))
    _thread: threading.Thread = field(init=False)
    _transport: MqttTransport = field(init=False)

    def __enter__(self) -> Self:
        session = SessionSettings(client_id="bench-witness", connection="node")
        self._transport = MqttTransport(parse_broker_url(self.url), session, self._inbox)
        self._transport.subscribe(f"fl/{self.federation}/round", qos=0)
        self._transport.subscribe(f"fl/{self.federation}/n/#", qos=0)
        self._transport.open()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._inbox.put(InboxItem(event=None))
        self._thread.join(30.0)
        self._transport.close()

    def _listen(self) -> None:
        while (item := self._inbox.get()).event is not None:
            if isinstance(item.event, MessageReceived):
                self._count(item.event.topic, item.event.payload)

    def _count(self, topic: str, payload: bytes) -> None:
        times = NODES if topic.endswith("/round") else 1
        self.messages += times
        self.bytes_of["MQTT headers and topics"] += times * (PACKET_HEADER_BYTES + len(topic))
        try:
            message = decode_message(payload)
        except RemoteProtocolError:
            self.bytes_of["chunks of updates"] += len(payload)
            return
        inline = message.inline if isinstance(message, UpdateOffer) else None
        delta = message.model.delta if isinstance(message, RoundAnnouncement) else None
        if inline is not None:
            self.bytes_of["updates"] += len(inline)
        if delta is not None:
            self.bytes_of["versions"] += times * len(delta)
        rest = times * (len(payload) - len(inline or b"") - len(delta or b""))
        self.bytes_of[KINDS.get(type(message), "other messages")] += rest


def kinds(codec: str, rounds: int) -> Iterator[Figure]:
    """Bytes of each kind in one round of J1, and the whole against float32."""
    say(f"J1, {codec}, {rounds} rounds through a broker")
    pulled = Counter[str]()

    def hear(line: Line, _demo: Demo) -> None:
        if line.event == "model_ready" and isinstance(size := line.fields.get("bytes"), int):
            pulled["versions"] += size

    with LocalBroker() as broker:
        options = DemoOptions(
            task="mnist-mlp",
            nodes=NODES,
            per_round=PER_ROUND,
            rounds=rounds,
            codec=codec,
            chaos=False,
            data=DATA,
            broker=broker.url,
        )
        plan = make_plan(options)
        with Witness(broker.url, plan.federation) as witness:
            report = run_demo(plan, hear)
    counted = witness.bytes_of + pulled
    total, plain = sum(counted.values()), float(report["bytes_up_fp32"] + report["bytes_down_fp32"])
    for kind, size in counted.most_common():
        note = f"{size / total:.1%} of all"
        yield Figure(what=f"{codec}: {kind}", measured=size / rounds / 1e3, bar=None, unit="kB/round", note=note)
    note = f"{total / 1e6:.2f} of {plain / 1e6:.0f} MB in {rounds} rounds, {witness.messages} messages"
    note += f"; accuracy {float(report['final_accuracy']):.2%}"
    yield Figure(what=f"{codec}: all bytes, fp32 / ours", measured=plain / total, bar=None, note=note)
    down = float(report["bytes_down_total"]) / float(report["bytes_down_fp32"])
    up = float(report["bytes_up_total"]) / float(report["bytes_up_fp32"])
    note = f"1/{1 / down:.1f}, as the coordinator's report counts; up 1/{1 / up:.1f}"
    yield Figure(what=f"{codec}: bytes down / fp32", measured=down, bar=DOWN_BARS.get(codec), note=note)


def gaussian_bits(variances: F64, counts: F64, distortion: float) -> float:
    """Bits that Gaussian sources of these variances need for a total squared error (reverse water-filling)."""
    low, high = 0.0, float(variances.max())
    for _ in range(100):
        level = (low + high) / 2
        if float((counts * np.minimum(variances, level)).sum()) > distortion:
            high = level
        else:
            low = level
    return float((counts * 0.5 * np.log2(np.maximum(variances / max(high, 1e-300), 1.0))).sum())


def sources(vector: NDArray[np.float32], manifest: Manifest, moved: NDArray[np.float32]) -> dict[str, tuple[F64, F64]]:
    """Variances and how many entries have each: by tensor, by band of coefficients, by pair of singular vectors."""
    found: dict[str, list[tuple[F64, F64]]] = {"tensor": [], "cosine band": [], "past directions": []}
    for matrix in matrices(manifest):
        part = vector[matrix.start : matrix.stop]
        found["tensor"].append((np.array([np.square(part, dtype=np.float64).mean()]), np.array([float(len(part))])))
        columns = np.square(forward(part, matrix).reshape(matrix.rows, -1), dtype=np.float64).mean(axis=0)
        bands = matrix.band_of(turned=True)
        widths = np.bincount(bands).astype(np.float64)
        found["cosine band"].append((np.bincount(bands, weights=columns) / widths, widths * matrix.rows))
        left, _, right = np.linalg.svd(moved[matrix.start : matrix.stop].reshape(matrix.rows, -1), full_matrices=False)
        turned = np.square(left.T @ part.reshape(matrix.rows, -1) @ right.T, dtype=np.float64)
        # Neighbours in the order of singular values share a variance: 8 by 8 pairs.
        sides = [-(-side // 8) for side in turned.shape]
        for row in range(sides[0]):
            for column in range(sides[1]):
                block = turned[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                found["past directions"].append((np.array([block.mean()]), np.array([float(block.size)])))
        outside = max(0.0, float(np.square(part, dtype=np.float64).sum() - turned.sum()))
        if (rest := part.size - turned.size) > 0:
            found["past directions"].append((np.array([outside / rest]), np.array([float(rest)])))
    return {
        name: (np.concatenate([one for one, _ in rows]), np.concatenate([two for _, two in rows]))
        for name, rows in found.items()
    }


def distances(
    name: str, vector: NDArray[np.float32], manifest: Manifest, moved: NDArray[np.float32]
) -> Iterator[Figure]:
    """Bits of real frames over the bits that each model of the source needs for the same error."""
    known, empty = sources(vector, manifest, moved), Vectors.zeros(manifest)
    energy = float(np.square(vector, dtype=np.float64).sum())
    for spec in ("deadzone(bpp=0.35)", "cosine(bpp=0.12)"):
        update = replace(empty, parameters=vector)
        encoded = encode(update, manifest, CodecSpec.parse(spec))
        bits = 8.0 * len(encoded.frame)
        limits = {one: gaussian_bits(*source, encoded.nmse * energy) for one, source in known.items()}
        note = ", ".join(f"by {one} {bits / max(limit, 1.0):.2f} x" for one, limit in limits.items())
        what = f"{name}, {spec}: error left, NMSE"
        yield Figure(
            what=what, measured=encoded.nmse, bar=None, note=f"{bits / len(vector):.3f} bits; over R(D): {note}"
        )


def rates() -> Iterator[Figure]:
    """How far real updates' frames are from R(D)."""
    say(f"J1's updates, {SEEN[-1]} rounds in this process")
    build, settings = load_task("mnist-mlp"), default_settings("mnist-mlp")
    tasks = [build(TaskContext(node_index=node, node_count=NODES, data=DATA, device="cpu")) for node in range(NODES)]
    model: Any = dict(tasks[0].initial_parameters(0))
    manifest = Manifest.of(model)
    first = manifest.flatten(model).parameters
    rng = np.random.default_rng(0)
    for number in range(1, SEEN[-1] + 1):
        before = manifest.flatten(model).parameters
        deltas = []
        for node in rng.choice(NODES, 2, replace=False):
            given = replace(settings, seed=1000 * number + int(node))
            result = tasks[node].train(model, given, lambda: False)
            deltas.append(manifest.flatten(dict(result.parameters)).parameters - before)
        step = ((deltas[0] + deltas[1]) / 2).astype(np.float32)
        if number in SEEN and number > 1:
            yield from distances(f"round {number}, update", deltas[0], manifest, before - first)
            yield from distances(f"round {number}, aggregate", step, manifest, before - first)
        model = manifest.unflatten(replace(Vectors.zeros(manifest), parameters=(before + step).astype(np.float32)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns 0 if every bar was met."""
    parser = argparse.ArgumentParser(description="Where the bytes of J1 go, and how far they are from the limit.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--codec", default="balanced,edge,compact", help="comma-separated codecs of the updates")
    parser.add_argument("--rounds", type=int, default=5, help="versions of each run")
    parser.add_argument("--only", default="kinds,rates", help="comma-separated: kinds, rates")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    wanted = options.only.split(",")
    if unknown := set(wanted) - {"kinds", "rates"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    figures, skipped = list[Figure](), dict[str, str]()
    if not DATA.is_dir():
        skipped = dict.fromkeys(wanted, f"no data in {DATA} (set FEDMQ_DATA)")
        wanted = []
    if "kinds" in wanted:
        figures += [figure for codec in options.codec.split(",") for figure in kinds(codec, options.rounds)]
    if "rates" in wanted:
        figures += rates()
    return 0 if show("Bytes of J1", figures, as_json=options.json, skipped=skipped) else 1


if __name__ == "__main__":
    sys.exit(main())
