"""What a broker reads of a sealed federation, and what sealing costs: job J1 with a recording broker.

Ten nodes, five of them in each round, train MNIST's perceptron in real processes with certificates; a client that may
read everything records what passes. The same federation runs sealed and not sealed in turn, in pairs, so that a machine
that slows down slows both. At last a node is shut out, the others go on, and with all that it has and all that was
recorded it tries to read the next version.

``python -m benchmarks.privacy.sealing [--pairs N] [--versions N] [--kem KEM] [--json]``; needs torch and the data that
FEDMQ_DATA names. What the figures are compared with (the same recording, not sealed) is in their notes.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.privacy.recording import FEDERATION, RECORDER, TOPICS, Recording, Site
from benchmarks.table import Figure, show
from coordinator.storage.read_only import ReadOnlyStore
from edge_node.runtime.sealing import NodeSealing
from federation.errors import BadSeal, RemoteProtocolError
from federation.protocol.messages import CoordinatorState, Message, RoundAnnouncement
from federation.protocol.sealed_messages import KeyWrap
from federation.protocol.topics import CoordinatorStateTopic, ModelChunkTopic, NodeKeyTopic, RoundTopic
from federation.protocol.wire import decode_message
from federation.runtime.log import configure_log
from federation.tasks.registry import load_task
from federation.types import NodeId

NODES, PER_ROUND = 10, 5
BYTES_MAX = 150.0
TIME_MAX = 1.05
DATA = Path(os.environ.get("FEDMQ_DATA", "../shared/data"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheard:
    """One run, its recording, and what was in its store.

    Attributes:
        recording: What passed the broker.
        frames: The codec frames of all updates, and of the model's parts that the head lists.
        shape: The digest of the model's names and shapes, which frames and announcements have both.
        metrics: The names of the numbers that nodes report.
        loop_s: Seconds from the first announcement to the last version.
        update_bytes: Mean bytes of an offer beside its frame.
    """

    recording: Recording
    frames: tuple[bytes, ...]
    shape: bytes
    metrics: tuple[str, ...]
    loop_s: float
    update_bytes: float


def overhear(
    site: Site, state: Path, names: Iterable[NodeId], flags: Mapping[str, object], *, fresh: bool = True
) -> Overheard:
    """Run the federation once, and look at what was recorded."""
    with site.broker(fresh=fresh) as recording:
        site.run(state, names, flags)
    with ReadOnlyStore(state / "coordinator") as store:
        rows = list(store.updates())
        updates = [store.payload(row.record.update) for row in rows]
        parts = [store.frame(part) for part in store.listed_parts()[0]]
        metrics = {name for row in rows for name in row.record.metrics}
        offers = [len(payload) for payload in recording.on("evt")]
        frame_bytes = sum(len(frame) for frame in updates)
        return Overheard(
            recording=recording,
            frames=(*updates, *parts),
            shape=store.manifest().digest,
            metrics=tuple(sorted(metrics)),
            loop_s=sum(row.figures.wall_s for row in store.history()),
            update_bytes=(sum(offers) - frame_bytes) / max(1, len(rows)),
        )


def read_by(recording: Recording, folder: Path, node: NodeId, version: int) -> tuple[int, int]:
    """How many chunks of a version and later ones this node's keys open, of how many that were recorded.

    It knows its state folder and hears everything, also what stood before.
    """
    sealing = NodeSealing(TOPICS, node, folder)
    known = [(topic, TOPICS.parse(topic), payload) for topic, payload in recording.messages if payload]
    for topic, place, payload in known:
        if isinstance(place, CoordinatorStateTopic | RoundTopic | NodeKeyTopic):
            with contextlib.suppress(RemoteProtocolError):  # another node's key
                _tell(sealing, topic, decode_message(payload))
    chunks = [(place, payload) for _, place, payload in known if isinstance(place, ModelChunkTopic)]
    wanted = [(place, payload) for place, payload in chunks if place.version >= version]
    return sum(_opens(sealing, place, payload) for place, payload in wanted), len(wanted)


def _tell(sealing: NodeSealing, topic: str, said: Message) -> None:
    match said:
        case CoordinatorState():
            sealing.hear(said)
        case RoundAnnouncement():
            sealing.announced(said)
        case KeyWrap():
            sealing.wrapped(topic, said)


def _opens(sealing: NodeSealing, place: ModelChunkTopic, payload: bytes) -> bool:
    try:
        sealing.part_chunk(place.version, place.segment, place.index, payload)
    except BadSeal:
        return False
    return True


def figures_of(site: Site, pairs: int, versions: int, kem: str) -> list[Figure]:
    """Run everything."""
    rounds: dict[str, object] = {
        "round.concurrency": PER_ROUND,
        "round.nodes_min": site.nodes,
        "round.quorum": PER_ROUND,
    }
    ways: dict[bool, dict[str, object]] = {
        True: {"privacy.sealed": True, "privacy.kem": kem},
        False: {"privacy.sealed": False},
    }
    found: dict[bool, list[Overheard]] = {True: [], False: []}
    state = site.folder / "state"
    for number in range(pairs):
        for sealed in (True, False) if number % 2 == 0 else (False, True):
            shutil.rmtree(state, ignore_errors=True)
            state.mkdir()
            flags = rounds | ways[sealed] | {"round.versions": versions}
            found[sealed].append(overhear(site, state, site.names, flags))
            if sealed:
                kept = site.folder / "sealed"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(state, kept)
    return [
        *_readable(found[True][-1], found[False][-1]),
        *_costs(found),
        _revoked(site, rounds | ways[True], versions),
    ]


def _readable(sealed: Overheard, plain: Overheard) -> list[Figure]:
    hits, total = sealed.recording.shared_runs(sealed.frames, known=[sealed.shape])
    plain_hits, plain_total = plain.recording.shared_runs(plain.frames, known=[plain.shape])
    names = [name for name in sealed.metrics if sealed.recording.holds(name.encode())]
    plain_names = [name for name in plain.metrics if plain.recording.holds(name.encode())]
    return [
        Figure(
            what="8-byte runs of frames in the recording",
            measured=hits,
            bar=0,
            note=f"of {total:,} in {len(sealed.frames)} frames; not sealed {plain_hits:,} of {plain_total:,}",
        ),
        Figure(
            what="metric names in the recording",
            measured=len(names),
            bar=0,
            note=f"of {', '.join(sealed.metrics)}; not sealed {len(plain_names)}",
        ),
    ]


def _costs(found: dict[bool, list[Overheard]]) -> list[Figure]:
    sealed, plain = found[True], found[False]
    more = statistics.mean(one.update_bytes for one in sealed) - statistics.mean(one.update_bytes for one in plain)
    ratios = [one.loop_s / other.loop_s for one, other in zip(sealed, plain, strict=True)]
    times = [f"{statistics.median(one.loop_s for one in runs):.2f} s" for runs in (sealed, plain)]
    spread = f"ratios {min(ratios):.3f} to {max(ratios):.3f}"
    return [
        Figure(what="more bytes per update", measured=round(more, 1), bar=BYTES_MAX, unit="B"),
        Figure(
            what="loop time, sealed / not sealed",
            measured=round(statistics.median(ratios), 4),
            bar=TIME_MAX,
            note=f"{' / '.join(times)} (medians), {spread}",
        ),
    ]


def _revoked(site: Site, flags: dict[str, object], versions: int) -> Figure:
    """Shut the first node out, go on for a version, and let it try."""
    gone, *others = site.names
    state = site.folder / "sealed"
    site.fleet.revoke([gone])
    flags = flags | {"round.nodes_min": len(others), "round.versions": versions + 1}
    after = overhear(site, state, others, flags, fresh=False)
    opened, seen = read_by(after.recording, state / gone, gone, versions + 1)
    by_others, _ = read_by(after.recording, state / others[0], others[0], versions + 1)
    if by_others != seen or not seen:
        raise RuntimeError(f"an enrolled node opens {by_others} of {seen} chunks: the figure would say nothing")
    return Figure(
        what="chunks of the next version that a revoked node opens",
        measured=opened,
        bar=0,
        note=f"of {seen}; an enrolled one opens {by_others}",
    )


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--kem", choices=["x25519", "mlkem768_x25519"], default="x25519")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    configure_log(json=False, level="error")
    title = f"{FEDERATION}: J1 sealed, overheard by {RECORDER}: {given.pairs} pairs of {given.versions} versions"
    if not DATA.is_dir():
        return 0 if show(title, [], as_json=given.json, skipped={"sealing": f"no data in {DATA}"}) else 1
    load_task("mnist-mlp")  # torch is loaded once, here: the nodes are forked from this process
    with tempfile.TemporaryDirectory(prefix="fedmq-sealing-") as folder:
        site = Site(Path(folder), NODES, "mnist-mlp", DATA.resolve())
        site.prepare()
        figures = figures_of(site, given.pairs, given.versions, given.kem)
    return 0 if show(title, figures, as_json=given.json, skipped={}) else 1


if __name__ == "__main__":
    raise SystemExit(main())
