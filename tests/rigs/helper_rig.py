"""A helper without a network: the real machine, inbound, executor and SQLite store, and nodes that really mask."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from federation.errors import PayloadTooLarge
from federation.identity.private_files import PUBLIC, write_text
from federation.identity.signing_keys import NodeKeys, SigningKey, enrolled_nodes, node_keys_text
from federation.privacy.boxes import PublicKey
from federation.privacy.classes import classes
from federation.privacy.seeds import SeedMask, seal_seeds
from federation.privacy.terms import batch_digest, helpers_digest, shape_of, terms_digest
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import Message
from federation.protocol.signing import Reader, Sender, Writer
from federation.protocol.sum_messages import (
    Held,
    HelperState,
    PrivacyTerms,
    SealedSeeds,
    SumOffer,
    SumRefusal,
    SumRequest,
    Ticket,
)
from federation.protocol.topics import Topics
from federation.runtime.transport import MessageReceived
from federation.types import (
    Digest,
    FederationId,
    HelperId,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    SumHelper,
    UpdateId,
    update_id,
)
from sum_helper.engine.events import BrokerConnected, Event, SumsComputed
from sum_helper.engine.machine import HelperMachine
from sum_helper.records import HelperRules, Keeping, SumJob
from sum_helper.runtime.executor import HelperExecutor, HelperParts, renew_key
from sum_helper.runtime.inbound import Inbound
from sum_helper.runtime.summing import Noise, add_masks, noise_from
from sum_helper.storage.store import HelperStore
from update_codec import MaskedSum
from update_codec.masking import bits_for, masked

TOPICS = Topics(FederationId("plant"))
RUN = RunId("0123456789abcdef")
HELPER = HelperId("works_council")
COORDINATOR = SigningKey.new()
BASE = Digest(b"b" * 16)


def terms(**changes: object) -> PrivacyTerms:
    """Terms of a small model under one helper."""
    plain = PrivacyTerms(
        scheme=1,
        helpers=helpers_digest([bytes(32)], 1),
        count=1,
        threshold=1,
        dimension=40,
        tail=2,
        step=0.5,
        levels=1,
        members=10,
        bits=bits_for(10),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@dataclass
class MaskingNode:
    """One node with its keys."""

    name: NodeId
    key: SigningKey = field(default_factory=SigningKey.new)

    def update(
        self,
        number: int,
        under: PrivacyTerms,
        helpers: list[PublicKey],
        *,
        base: tuple[int, Digest] = (3, BASE),
        run: RunId = RUN,
        signer: SigningKey | None = None,
    ) -> "MaskedUpdate":
        """A masked update of this node, with the integers that are in it."""
        update = update_id(RoundId(number), self.name)
        rng = np.random.default_rng(crc32(f"{number}/{self.name}".encode()))
        integers = rng.integers(-under.levels, under.levels + 1, under.dimension)
        seeds = [rng.bytes(32) for _ in classes(under.count, under.threshold)]
        tail = rng.integers(-100, 100, under.tail)
        made = masked(shape_of(under), integers, tail, [SeedMask(seed, run, update) for seed in seeds])
        plain = Ticket(
            run=run,
            update=update,
            base_version=ModelVersion(base[0]),
            base_digest=base[1],
            terms=terms_digest(under),
            payload_digest=payload_digest(made.to_bytes()),
            boxes=(),
        )
        ticket, boxes = seal_seeds(plain, seeds, helpers, threshold=under.threshold)
        writer = Writer(TOPICS, signer or self.key)
        payload = writer.encode(TOPICS.node_ticket(self.name), ticket)
        return MaskedUpdate(update, made, integers, tail, payload, boxes, run)


@dataclass
class MaskedUpdate:
    """What a coordinator has of an update, and what only its node knows."""

    update: UpdateId
    made: MaskedSum
    integers: NDArray[np.int64]
    tail: NDArray[np.int64]
    ticket: bytes
    boxes: tuple[bytes, ...]
    run: RunId

    @property
    def digest(self) -> Digest:
        return payload_digest(self.ticket)

    def sealed(self, place: int = 0) -> SealedSeeds:
        return SealedSeeds(run=self.run, update=self.update, ticket=self.ticket, box=self.boxes[place])


def request(
    updates: list[MaskedUpdate], under: PrivacyTerms, *, version: int = 4, asked: tuple[int, ...] = (0,)
) -> SumRequest:
    """A request for these updates, as an honest coordinator makes it."""
    members = sorted(update.digest for update in updates)
    return SumRequest(
        run=updates[0].run,
        version=ModelVersion(version),
        batch=batch_digest(updates[0].run, ModelVersion(version), under, members),
        terms=under,
        members=b"".join(members),
        classes=asked,
    )


class Said:
    """A transport that keeps what is said, and refuses packets above a limit."""

    def __init__(self, packet_bytes_max: int = 1 << 20) -> None:
        self.published: list[tuple[str, bytes, bool]] = []
        self._packet_bytes_max = packet_bytes_max

    def open(self) -> None: ...

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None: ...

    def unsubscribe(self, topic_filter: str) -> None: ...

    def close(self, *, timeout_s: float = 5.0) -> None: ...

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        if len(payload) > self._packet_bytes_max:
            raise PayloadTooLarge("too large for this broker")
        self.published.append((topic, payload, retain))


class AtOnce:
    """Adds masks when it is told to, on the caller's thread."""

    def __init__(self, noise: Noise) -> None:
        self.jobs: list[SumJob] = []
        self._noise = noise

    def start(self, job: SumJob) -> None:
        self.jobs.append(job)

    def finished(self) -> Iterator[Event]:
        while self.jobs:
            job = self.jobs.pop(0)
            yield SumsComputed(request=job.request, sums=add_masks(job, self._noise))


class HelperVerifier:
    """Believes one helper."""

    def __init__(self, key: SigningKey) -> None:
        from federation.identity.signing_keys import read_public_key

        self._key = read_public_key(key.public_pem, source="test")

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, digest)
        except InvalidSignature:
            return False
        return isinstance(sender, SumHelper)


class HelperRig:
    """One helper on one folder; `restart` kills it and starts it again."""

    def __init__(
        self,
        folder: Path,
        nodes: list[MaskingNode],
        *,
        rules: HelperRules | None = None,
        keeping: Keeping | None = None,
        chunk_bytes: int = 61_440,
        packet_bytes_max: int = 1 << 20,
    ) -> None:
        self.folder, self.rules = folder, rules or HelperRules(members_min=5)
        self.keeping, self.key = keeping or Keeping(), SigningKey.new()
        self.register = folder / "register.json"
        self.admit({node.name: [node.key.public_hex] for node in nodes})
        self._limits = (chunk_bytes, packet_bytes_max)
        self._start()

    def admit(self, keys: Mapping[str, list[str]]) -> None:
        write_text(self.register, node_keys_text(keys), mode=PUBLIC)

    def _start(self) -> None:
        self.store = HelperStore(self.folder / "state")
        self.said, self.now = Said(self._limits[1]), 0.0
        self.summing = AtOnce(noise_from(self.store.secret))
        renew_key(self.store, self.keeping)
        parts = HelperParts(
            helper=HELPER,
            store=self.store,
            summing=self.summing,
            transport=self.said,
            writer=Writer(TOPICS, self.key),
            registered=lambda: enrolled_nodes(self.register),
            rules=self.rules,
            keeping=self.keeping,
            chunk_bytes=self._limits[0],
        )
        self.executor, self.machine = HelperExecutor(parts), HelperMachine(self.rules)
        self.inbound = Inbound(
            TOPICS,
            HELPER,
            coordinator=_Coordinator(),
            register=NodeKeys(self.register),
            store=self.store,
            rules=self.rules,
        )
        self.step(None)
        self.step(BrokerConnected())

    def restart(self) -> None:
        """As after SIGKILL: nothing is flushed or said."""
        self.store._database.close()
        self.store._lock.release()
        self._start()

    def close(self) -> None:
        self.store.close()

    @property
    def public(self) -> PublicKey:
        return self.store.keys()[0].public

    def step(self, event: Event | None) -> None:
        """One event and all that follows from it, the adding thread's work included."""
        pending: list[Event | None] = [event]
        while pending:
            for effect in self.machine.handle(pending.pop(0), self.now):
                pending.extend(self.executor.execute(effect))
            self.executor.settle()
            if not pending:
                pending.extend(self.summing.finished())

    def hear(self, message: Message, *, signer: SigningKey = COORDINATOR, topic: str | None = None) -> None:
        """The coordinator says this to the helper."""
        topic = topic or TOPICS.helper_command(HELPER)
        payload = Writer(TOPICS, signer).encode(topic, message)
        event = self.inbound.translate(MessageReceived(topic=topic, payload=payload))
        if event is not None:
            self.step(event)

    def take(self) -> list[Message]:
        """What was said on the event topic since the last time."""
        reader, topic = Reader(TOPICS, HelperVerifier(self.key)), TOPICS.helper_event(HELPER)
        found = [reader.decode(topic, payload) for where, payload, _ in self.said.published if where == topic]
        self.said.published.clear()
        return found

    def hold(self, *updates: MaskedUpdate) -> list[Held]:
        """The coordinator sends these seeds on."""
        self.take()
        for update in updates:
            self.hear(update.sealed())
        held = self.take()
        assert all(isinstance(word, Held) for word in held)
        return held  # type: ignore[return-value]

    def ask(self, asked: SumRequest) -> SumOffer | SumRefusal | None:
        """The coordinator asks for one class."""
        self.take()
        self.hear(asked)
        answers = self.take()
        assert len(answers) <= 1
        (answer,) = answers or (None,)
        assert answer is None or isinstance(answer, SumOffer | SumRefusal)
        return answer

    def dump(self) -> list[tuple[object, ...]]:
        """Everything that the store holds and that answers depend on."""
        tables = ("updates", "seeds", "bases", "batches", "answers", "ledger")
        rows = chain.from_iterable(self.store._database.execute(f"SELECT * FROM {name}") for name in tables)  # noqa: S608
        return [tuple(row) for row in rows]

    def states(self) -> list[HelperState]:
        topic = TOPICS.helper_state(HELPER)
        reader = Reader(TOPICS, HelperVerifier(self.key))
        told = (reader.decode(topic, payload) for where, payload, _ in self.said.published if where == topic)
        return [state for state in told if isinstance(state, HelperState)]


class _Coordinator:
    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        return sender is None and signature == COORDINATOR.sign(digest)


def fleet(count: int) -> list[MaskingNode]:
    return [MaskingNode(NodeId(f"press_{index:02}")) for index in range(count)]


def unmasked(updates: list[MaskedUpdate], answers: list[bytes], under: PrivacyTerms) -> NDArray[np.int64]:
    """The integers of the sum, once all masks are away."""
    total = MaskedSum(shape_of(under))
    for update in updates:
        total._codes += update.made._codes
        total._tail += update.made._tail
    for answer in answers:
        total.take_away(answer)
    sums, tail = total.lift(limit=1 << 40)
    assert (tail == sum(update.tail for update in updates)).all()
    return sums
