"""What masked sums cost: processor time of node, helper and coordinator, memory of a real helper, and bits up.

    python -m benchmarks.privacy.masks            (10^6 parameters, 32 members, 2 helpers)

Each processor time is the median of several runs on one thread, with everything that the role does for one version but
the network: boxes, tickets and signatures, masks, packing, and the coordinator's lift to float32.
"""

import argparse
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import Figure, show
from federation.identity.private_files import PRIVATE, PUBLIC, write_text
from federation.identity.signing_keys import NodeKeys, SigningKey, node_keys_text
from federation.privacy.boxes import Kem, KeyPair, PublicKey
from federation.privacy.seeds import SeedMask, open_seeds, seal_seeds
from federation.privacy.terms import SCHEME, batch_digest, helpers_digest, largest_sum, shape_of, terms_digest
from federation.protocol.chunking import Bitmap, chunk_count, payload_digest
from federation.protocol.messages import Grant, Message, UpdateOffer
from federation.protocol.signing import Reader, Writer
from federation.protocol.sum_messages import (
    Held,
    HelperState,
    PrivacyTerms,
    SealedSeeds,
    SumOffer,
    SumRequest,
    Ticket,
    transfer_id,
)
from federation.protocol.topics import HelperChunkTopic, Topics
from federation.runtime.address import parse_broker_url
from federation.runtime.local_broker import LocalBroker
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Inbox, MessageReceived
from federation.types import (
    Digest,
    FederationId,
    HelperId,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    UpdateId,
    update_id,
)
from sum_helper.records import SumJob
from sum_helper.runtime.summing import add_masks
from update_codec import CodecSpec, Manifest, MaskedSum, read_masked
from update_codec.masking import bits_for, masked

RUN, FEDERATION, HELPER = RunId("00000000000000aa"), FederationId("bench"), HelperId("helper")
TOPICS, BASE = Topics(FEDERATION), Digest(bytes(16))
HELPERS, LEVELS, REPEATS = 2, 1, 5
WAIT_S = 60.0
MASKED = CodecSpec.parse("masked")


@dataclass(frozen=True, slots=True)
class Job:
    """What is measured: the model, its terms, and who takes part."""

    dimension: int
    members: int

    @property
    def terms(self) -> PrivacyTerms:
        """Those of all members."""
        return PrivacyTerms(
            scheme=SCHEME,
            helpers=helpers_digest([bytes(32), bytes([1]) * 32], HELPERS),
            count=HELPERS,
            threshold=HELPERS,
            dimension=self.dimension,
            tail=4,
            step=0.01,
            levels=LEVELS,
            members=self.members,
            bits=bits_for(self.members * LEVELS),
        )

    @property
    def manifest(self) -> Manifest:
        """Of the model."""
        return Manifest.of({"weight": np.zeros(self.dimension, np.float32)})


@dataclass(frozen=True, slots=True)
class Made:
    """One node's update."""

    update: UpdateId
    frame: bytes
    ticket: bytes
    boxes: tuple[bytes, ...]
    integers: NDArray[np.int64]


def make_update(job: Job, node: NodeId, key: SigningKey, helpers: list[PublicKey], seed: int) -> Made:
    """What a node does once its integers are there."""
    integers = np.random.default_rng(seed).integers(-LEVELS, LEVELS + 1, job.dimension, dtype=np.int8)
    return mask_update(job, node, (key, helpers), integers)


def mask_update(job: Job, node: NodeId, keys: tuple[SigningKey, list[PublicKey]], integers: NDArray[np.int8]) -> Made:
    """Masks, frame, boxes, ticket."""
    update, terms = update_id(RoundId(1), node), job.terms
    seeds = [os.urandom(32) for _ in range(HELPERS)]
    made = masked(shape_of(terms), integers, np.zeros(4), [SeedMask(seed, RUN, update) for seed in seeds])
    frame = made.frame(job.manifest, step=terms.step, spec=MASKED)
    plain = Ticket(
        run=RUN,
        update=update,
        base_version=ModelVersion(1),
        base_digest=BASE,
        terms=terms_digest(terms),
        payload_digest=payload_digest(frame),
        boxes=(),
    )
    ticket, boxes = seal_seeds(plain, seeds, keys[1], threshold=HELPERS)
    payload = Writer(TOPICS, keys[0]).encode(TOPICS.node_ticket(node), ticket)
    return Made(update, frame, payload, boxes, integers.astype(np.int64))


def cpu_s(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median processor time of this process, in seconds."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return statistics.median(found)


def request_for(job: Job, updates: list[Made], asked: int) -> SumRequest:
    """For all of them."""
    members = sorted(payload_digest(made.ticket) for made in updates)
    batch = batch_digest(RUN, ModelVersion(2), job.terms, members)
    return SumRequest(
        run=RUN,
        version=ModelVersion(2),
        batch=batch,
        terms=job.terms,
        members=b"".join(members),
        classes=(asked,),
    )


def processor_figures(job: Job, folder: Path) -> list[Figure]:
    """Node, helper and coordinator."""
    pairs = [KeyPair.make(Kem.X25519) for _ in range(HELPERS)]
    publics = [pair.public for pair in pairs]
    nodes = {NodeId(f"n{index:04}"): SigningKey.new() for index in range(job.members)}
    updates = [make_update(job, node, key, publics, index) for index, (node, key) in enumerate(nodes.items())]
    name, key = next(iter(nodes.items()))
    integers = np.random.default_rng(0).integers(-LEVELS, LEVELS + 1, job.dimension, dtype=np.int8)
    node_s = cpu_s(lambda: mask_update(job, name, (key, publics), integers))
    write_text(
        folder / "keys.json", node_keys_text({node: [one.public_hex] for node, one in nodes.items()}), mode=PUBLIC
    )
    reader = Reader(TOPICS, NodeKeys(folder / "keys.json"))

    def help_with(place: int) -> bytes:
        seeds = []
        for node, made in zip(nodes, updates, strict=True):
            ticket = reader.decode(TOPICS.node_ticket(node), made.ticket)
            assert isinstance(ticket, Ticket)  # noqa: S101 - for the type checker
            held = open_seeds([pairs[place]], ticket, made.boxes[place])
            seeds.append((made.update, held.seeds[0]))
        summed = SumJob(request=request_for(job, updates, place), seeds={place: tuple(seeds)})
        return add_masks(summed, lambda _: None)[place]

    answers = [help_with(place) for place in range(HELPERS)]
    helper_s = cpu_s(lambda: help_with(0))
    manifest, found = job.manifest, np.zeros(0, np.int64)

    def coordinate() -> None:
        nonlocal found
        total = MaskedSum(shape_of(job.terms))
        for made in updates:
            total.add(read_masked(made.frame, manifest))
        for answer in answers:
            total.take_away(answer)
        sums, _ = total.lift(limit=largest_sum(job.terms))
        found = sums
        (sums * (job.terms.step / job.members)).astype(np.float32)

    coordinator_s = cpu_s(coordinate)
    exact = bool((found == sum(made.integers for made in updates)).all())
    taken = {"node": node_s, "helper": helper_s, "coordinator": coordinator_s}
    return [
        *_times(job, taken),
        Figure(
            what="bits up per parameter, all in",
            measured=_bits_up(job, updates[0]),
            bar=job.terms.bits + 0.1,
            note="frame, offer, ticket, boxes",
        ),
        Figure(what="sum equals the integer sum", measured=float(exact), bar=1.0, at_least=True),
    ]


def _times(job: Job, taken: dict[str, float]) -> list[Figure]:
    bars = {"node": 15.0, "helper": 60.0, "coordinator": 300.0} if job == Job(1_000_000, 32) else {}
    what = f"{job.dimension:,} parameters, {job.members} members, {HELPERS} helpers, k = {job.terms.bits}"
    each = {"node": "update"}
    return [
        Figure(
            what=f"{role}, CPU per {each.get(role, 'version')}",
            measured=1e3 * seconds,
            bar=bars.get(role),
            unit="ms",
            note=what,
        )
        for role, seconds in taken.items()
    ]


def _bits_up(job: Job, made: Made) -> float:
    offer = UpdateOffer(
        run=RUN,
        round=RoundId(1),
        update=made.update,
        incarnation=Incarnation(1),
        base_version=ModelVersion(1),
        base_digest=BASE,
        num_examples=1,
        metrics={},
        codec="masked",
        payload_bytes=len(made.frame),
        payload_digest=payload_digest(made.frame),
        chunk_bytes=61_440,
        ticket=made.ticket,
        boxes=made.boxes,
    )
    said = Writer(TOPICS, SigningKey.new()).encode(TOPICS.node_event(NodeId("n0000")), offer)
    return 8 * (len(said) + len(made.frame)) / job.dimension


class RealHelper:
    """A helper process on a broker of its own, with the coordinator played here."""

    def __init__(self, job: Job, folder: Path, url: str) -> None:
        self.job, self.folder, self.url = job, folder, url
        self.own, self.coordinator = SigningKey.new(), SigningKey.new()
        self.nodes = {NodeId(f"n{index:04}"): SigningKey.new() for index in range(job.members)}
        self.inbox: Inbox = queue.Queue(10_000)
        self.writer = Writer(TOPICS, self.coordinator)

    def settings(self) -> Path:
        """Write its folder."""
        write_text(self.folder / "signing.key", self.own.pem, mode=PRIVATE)
        write_text(self.folder / "coordinator.pub", self.coordinator.public_pem, mode=PUBLIC)
        keys = {str(node): [key.public_hex] for node, key in self.nodes.items()}
        write_text(self.folder / "register.json", node_keys_text(keys), mode=PUBLIC)
        text = f"""[federation]
id = "{FEDERATION}"
[helper]
id = "{HELPER}"
register = "{{here}}/register.json"
[broker]
url = "{self.url}"
[security]
coordinator_key = "{{here}}/coordinator.pub"
signing_key = "{{here}}/signing.key"
[store]
folder = "{{here}}/state"
"""
        write_text(self.folder / "helper.toml", text, mode=PUBLIC)
        return self.folder

    def say(self, message: Message) -> None:
        """To the helper."""
        topic = TOPICS.helper_command(HELPER)
        self.transport.publish(topic, self.writer.encode(topic, message))

    def heard(self, until: Callable[[str, bytes], bool]) -> None:
        """Listen until something is true.

        Raises:
            TimeoutError: It was not, for `WAIT_S`.
        """
        limit_s = time.monotonic() + WAIT_S
        while time.monotonic() < limit_s:
            item = self.inbox.get(timeout=WAIT_S)
            event = item.event
            if isinstance(event, MessageReceived) and event.payload and until(event.topic, event.payload):
                return
        raise TimeoutError("the helper does not answer")

    def measure(self) -> tuple[float, float]:
        """Most memory that it had, in MB, and seconds from the request to the last chunk of its sum."""
        command = [sys.executable, "-m", "sum_helper", "run", "--config", str(self.settings())]
        session = SessionSettings(client_id="coordinator", connection="control")
        self.transport = MqttTransport(parse_broker_url(self.url), session, self.inbox)
        for topic_filter in (TOPICS.helper_states, *TOPICS.helper_answers):
            self.transport.subscribe(topic_filter)
        self.transport.open()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            took_s = self._play()
            memory = Path(f"/proc/{process.pid}/status").read_text("utf-8").split("VmHWM:")[1].split()[0]
            return int(memory) * 1024 / 1e6, took_s
        finally:
            process.terminate()
            process.wait(WAIT_S)
            self.transport.close(timeout_s=2.0)

    def _play(self) -> float:
        reader, states = Reader(TOPICS), list[HelperState]()

        def born(topic: str, payload: bytes) -> bool:
            if topic == TOPICS.helper_state(HELPER):
                message = reader.decode(topic, payload)
                if isinstance(message, HelperState):
                    states.append(message)
            return bool(states)

        self.heard(born)
        public = PublicKey(kem=Kem(states[0].kem), raw=states[0].key)
        other = KeyPair.make(Kem.X25519).public
        updates = [
            make_update(self.job, node, key, [public, other], index)
            for index, (node, key) in enumerate(self.nodes.items())
        ]
        for made in updates:
            self.say(SealedSeeds(run=RUN, update=made.update, ticket=made.ticket, box=made.boxes[0]))
        held: set[UpdateId] = set()

        def all_held(topic: str, payload: bytes) -> bool:
            message = reader.decode(topic, payload) if topic == TOPICS.helper_event(HELPER) else None
            if isinstance(message, Held):
                held.add(message.update)
            return len(held) == len(updates)

        self.heard(all_held)
        began = time.monotonic()
        self._take_sum(request_for(self.job, updates, 0), reader)
        return time.monotonic() - began

    def _take_sum(self, asked: SumRequest, reader: Reader) -> None:
        arrived: list[Bitmap] = []
        self.say(asked)
        transfer = transfer_id(asked.batch, 0)

        def complete(topic: str, payload: bytes) -> bool:
            parsed = TOPICS.parse(topic)
            if isinstance(parsed, HelperChunkTopic):
                arrived[0].add(parsed.index)
                return arrived[0].complete
            message = reader.decode(topic, payload)
            if isinstance(message, SumOffer) and message.inline is None:
                arrived.append(Bitmap(chunk_count(message.payload_bytes, message.chunk_bytes)))
                self.say(Grant(update=transfer, bitmap=arrived[0].to_bytes(), window=arrived[0].count))
            return isinstance(message, SumOffer) and message.inline is not None

        self.heard(complete)


def memory_figures(job: Job, folder: Path) -> list[Figure]:
    """Of a helper process that answers over a broker."""
    with LocalBroker() as broker:
        megabytes, took_s = RealHelper(job, folder, broker.url).measure()
    bar = 90 + 8 * job.dimension / 1e6
    return [
        Figure(what="helper, most memory (RSS)", measured=megabytes, bar=bar, unit="MB", note="a real process: VmHWM"),
        Figure(what="helper, request to last chunk", measured=took_s, bar=None, unit="s", note="wall, loopback"),
    ]


def main() -> int:
    """Measure and print; 1 when a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    job = Job(options.parameters, options.members)
    with tempfile.TemporaryDirectory() as folder:
        figures = processor_figures(job, Path(folder)) + memory_figures(job, Path(folder) / "helper")
    return 0 if show("Masked sums", figures, as_json=options.json, skipped={}) else 1


if __name__ == "__main__":
    sys.exit(main())
