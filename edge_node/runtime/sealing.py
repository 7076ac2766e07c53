"""A node's side of sealing: what it says is for its coordinator only, and what it pulls opens with the run's group key.

The machine knows nothing of it: sizes and digests that it hears and says are those of the codec's frames (PROTOCOL.md,
section 14). A node seals once its coordinator has said a key under its signature, and to that run for good.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from federation.errors import BadSeal, StorageError
from federation.privacy.boxes import Kem, KeyPair, PublicKey
from federation.privacy.envelopes import (
    SECRET_BYTES,
    ChunkKey,
    open_group_key,
    open_message,
    part_key,
    public_key,
    seal_message,
    sealing_key,
    update_key,
)
from federation.protocol.chunking import SEGMENT_CHUNKS, payload_digest
from federation.protocol.messages import (
    CoordinatorState,
    Message,
    ModelPart,
    NodeState,
    PartKind,
    Presence,
    RoundAnnouncement,
    UpdateOffer,
)
from federation.protocol.sealed_messages import KeyWrap, Sealed, SealingKey
from federation.protocol.topics import NodeEventTopic, NodeTelemetryTopic, Topics
from federation.runtime.log import get_log
from federation.storage.sealing_keys import Pair, Peer, SealingKeys, read_keys, write_keys
from federation.types import NO_START, Digest, ModelVersion, NodeId, RunId, UpdateId

__all__ = ["NO_COORDINATOR_KEY", "NO_KEY", "NodeSealing"]

NO_KEY = "the model is sealed, and its key has not come: the coordinator is away, or the broker's rules lack n/%u/key"
"""Why a round is declined that cannot be read."""

NO_COORDINATOR_KEY = "the run is sealed, and its coordinator has not said its key: it is away"
"""Why a round is declined whose update could not be sealed."""

RUNS_MAX = 4
"""Runs whose coordinator's key is kept: so many does a node keep, too."""

GROUPS_MAX = 4
"""Group keys of one run that are kept in memory: what was announced before somebody was shut out is still pulled."""

PARTS_MAX = 64
"""Model parts whose keys are remembered."""

UPDATES_MAX = 64
"""Updates whose secrets are remembered; one that is not is offered with a new one."""


class NodeSealing:
    """What one node seals and opens; used by the driver's thread only.

    Args:
        topics: The federation's tree.
        node: Who it is.
        folder: Its state folder.

    Attributes:
        renewed: Called when the node has another key to say.

    Raises:
        StorageError: The keys cannot be read.
    """

    def __init__(self, topics: Topics, node: NodeId, folder: Path) -> None:
        self._topics, self._node, self._folder = topics, node, folder
        self._keys, self._pairs = SealingKeys(), tuple[KeyPair, ...]()
        self._use(read_keys(folder))
        self._run = RunId(self._keys.peers[-1].run) if self._keys.peers else None
        self._groups: dict[RunId, OrderedDict[int, bytes]] = {}
        self._parts: OrderedDict[tuple[PartKind, ModelVersion], tuple[RunId, ModelPart]] = OrderedDict()
        self._asked_epoch: tuple[RunId, int] | None = None
        self._unsealed = set[RunId]()
        self._secrets: OrderedDict[tuple[RunId, UpdateId, Digest], bytes] = OrderedDict()
        self.renewed: Callable[[], None] = lambda: None

    # --- keys -------------------------------------------------------------------------------------------------------

    def hear(self, state: CoordinatorState) -> None:
        """What a coordinator says of its key: it is kept, and the node's own follows its kind.

        A state without a key opens nothing again: who has it repeats what was said before the run was sealed, or it is
        a will.

        Raises:
            BadSeal: The key is of a kind that this release does not know.
        """
        if state.presence is not Presence.ONLINE:
            return
        self._run = state.run
        if state.seal is None:
            self._unsealed.add(state.run)
            return
        public, start = public_key(state.seal), state.start or NO_START
        known = next((peer for peer in self._keys.peers if peer.run == state.run), None)
        if known is not None and (state.epoch, start) < (known.epoch, known.start):
            return
        said = Peer(run=state.run, epoch=state.epoch, start=start, kem=int(public.kem), key=public.raw.hex())
        if said != known or not self._own(public.kem):
            self._keep(said, public.kem)

    def stated(self, state: NodeState) -> NodeState:
        """A state with the node's key in it, as long as the node is there."""
        if state.presence is not Presence.ONLINE or not self._pairs:
            return state
        return replace(state, seal=sealing_key(self._pairs[-1].public))

    def start(self) -> None:
        """Have a key before anything is said.

        Raises:
            StorageError: It cannot be kept.
        """
        if not self._pairs:
            self._use(self._keys.model_copy(update={"pairs": (Pair.of(KeyPair.make(Kem.X25519)),)}))
            write_keys(self._folder, self._keys)

    def _own(self, kem: Kem) -> bool:
        return bool(self._pairs) and self._pairs[-1].kem is kem

    def _keep(self, said: Peer, kem: Kem) -> None:
        others = [peer for peer in self._keys.peers if peer.run != said.run]
        pairs, is_new = self._keys.pairs[-1:], not self._own(kem)
        if is_new:
            pairs = (*pairs, Pair.of(KeyPair.make(kem)))
        self._use(self._keys.model_copy(update={"pairs": pairs, "peers": (*others[1 - RUNS_MAX :], said)}))
        try:
            write_keys(self._folder, self._keys)
        except StorageError as error:
            # Whatever is said is sealed all the same; the next start hears of the key before it has anything to say.
            get_log("node").error("sealing_keys_not_saved", reason=str(error))
        if is_new:
            self.renewed()

    def _use(self, keys: SealingKeys) -> None:
        self._keys = keys
        self._pairs = tuple(kept.pair for kept in keys.pairs)

    def _coordinator(self, run: RunId | None) -> PublicKey | None:
        known = next((peer for peer in self._keys.peers if peer.run == run), None)
        return None if known is None else known.public

    # --- messages ---------------------------------------------------------------------------------------------------

    @property
    def on(self) -> bool:
        """Whether a coordinator has said its key."""
        return bool(self._keys.peers)

    def would_show(self, topic: str, message: Message) -> bool:
        """Whether the broker could read this, though the run is sealed, or may be: the coordinator's key has not come.

        A node may read the announcement of a round before it hears who coordinates. And what is in its outbox may be of
        a sealed run whose key no process of it has heard: it says nothing of a run of which it has heard nothing.
        """
        if not isinstance(self._topics.parse(topic), NodeEventTopic | NodeTelemetryTopic):
            return False
        run = getattr(message, "run", self._run)
        if self._coordinator(run) is not None:
            return False
        if self._asked_epoch is not None and run in (None, self._asked_epoch[0]):
            return True
        return run is not None and run not in self._unsealed

    def sealed(self, topic: str, message: Message) -> Message:
        """What is said on a topic: events and telemetry go to the coordinator of their run only."""
        is_sealed = isinstance(message, Sealed)
        if is_sealed or not isinstance(self._topics.parse(topic), NodeEventTopic | NodeTelemetryTopic):
            return message
        public = self._coordinator(getattr(message, "run", self._run))
        return message if public is None else seal_message(public, self._topics, topic, message)

    def sealed_for(self, reader: SealingKey | None, topic: str, message: Message) -> Message:
        """The same for whoever has asked with this key: of two copies of a run's store each has keys of its own.

        It is not sealed where the run is not, and a key of a kind that this release does not know is as good as none.
        """
        if reader is None or self._coordinator(self._run) is None:
            return message
        try:
            return seal_message(public_key(reader), self._topics, topic, message)
        except BadSeal:
            return message

    def opened(self, topic: str, sealed: Sealed) -> tuple[Message, bytes]:
        """What the coordinator has sealed to this node, and its bytes.

        Raises:
            BadSeal: It does not open.
            MalformedMessage: What is in it is no message.
        """
        return open_message(self._pairs, self._topics, topic, sealed)

    # --- updates ----------------------------------------------------------------------------------------------------

    def offered(self, offer: UpdateOffer) -> UpdateOffer:
        """An offer without its payload, with what opens the chunks that may follow."""
        if self._coordinator(offer.run) is None:
            return offer
        return replace(offer, content_key=self._secret(offer))

    def chunk(self, offer: UpdateOffer, chunk_bytes: int, index: int, body: bytes) -> bytes:
        """A chunk of an update as it is sent."""
        if self._coordinator(offer.run) is None:
            return body
        return update_key(self._secret(offer), self._topics, offer.update, chunk_bytes).seal(index, body)

    def _secret(self, offer: UpdateOffer) -> bytes:
        """Drawn once for each content in this process: what has arrived is kept open by the coordinator.

        Updates of two runs have the same ids: with one secret their chunks would have one key and one nonce [FED-335].
        """
        content = (offer.run, offer.update, offer.payload_digest)
        if content not in self._secrets:
            self._secrets[content] = secrets.token_bytes(SECRET_BYTES)
            if len(self._secrets) > UPDATES_MAX:
                self._secrets.popitem(last=False)
        return self._secrets[content]

    # --- the model --------------------------------------------------------------------------------------------------

    def wrapped(self, topic: str, wrap: KeyWrap) -> None:
        """A group key has come.

        Raises:
            BadSeal: It does not open.
        """
        group = open_group_key(self._pairs, self._topics, topic, wrap)
        groups = self._groups.setdefault(wrap.run, OrderedDict())
        groups[wrap.key_epoch] = group
        while len(groups) > GROUPS_MAX:
            del groups[min(groups)]
        while len(self._groups) > RUNS_MAX:
            del self._groups[next(iter(self._groups))]

    def announced(self, announcement: RoundAnnouncement) -> RoundAnnouncement:
        """An announcement as it would be without sealing; what it lists can be opened from here on."""
        seal, model = announcement.seal, announcement.model
        self._asked_epoch = None if seal is None else (announcement.run, seal.key_epoch)
        if seal is None:
            self._unsealed.add(announcement.run)
        for part in model.parts:
            self._parts.pop((part.kind, part.version), None)
            if seal is not None:
                self._parts[part.kind, part.version] = announcement.run, part
        while len(self._parts) > PARTS_MAX:
            self._parts.popitem(last=False)
        newest = model.newest_delta
        if seal is None or seal.delta is None or newest is None:
            return announcement
        try:
            delta = self._open(announcement.run, newest, 0, seal.delta)
        except BadSeal:
            return announcement  # it is pulled like any other part, once its key is there
        if len(delta) != newest.payload_bytes or payload_digest(delta) != newest.payload_digest:
            return announcement
        return replace(announcement, model=replace(model, delta=delta))

    def lacks(self) -> str | None:
        """Why the announced model cannot be read now, or None."""
        if self._asked_epoch is None:
            return None
        run, epoch = self._asked_epoch
        if self._coordinator(run) is None:
            return NO_COORDINATOR_KEY
        return None if epoch in self._groups.get(run, {}) else NO_KEY

    def part_chunk(self, version: ModelVersion, segment: str, index: int, body: bytes) -> bytes:
        """The body of a chunk of the model.

        Raises:
            BadSeal: It does not open with any key that is known.
        """
        kind = PartKind.KEYFRAME if segment.startswith("k") else PartKind.DELTA
        known = self._parts.get((kind, version))
        if known is None:
            return body
        return self._open(*known, int(segment[1:]) * SEGMENT_CHUNKS + index, body)

    def _open(self, run: RunId, part: ModelPart, index: int, body: bytes) -> bytes:
        for _, group in sorted(self._groups.get(run, {}).items(), reverse=True):
            try:
                return self._key(group, run, part).open(index, body)
            except BadSeal:
                continue
        raise BadSeal(f"a chunk of {part.kind.value} {part.version} does not open with any key of this run")

    def _key(self, group: bytes, run: RunId, part: ModelPart) -> ChunkKey:
        return part_key(group, self._topics, run, part)
