"""The coordinator's side of sealing: opens what nodes say, seals what is said to them, closes the model to others.

The machine knows nothing of it: sizes and digests that it hears and says are those of the codec's frames (PROTOCOL.md,
section 14). Keys are on the disk before anything is said under them.
"""

import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from coordinator.config.privacy import SealingSettings
from federation.errors import BadSeal, ConfigError
from federation.privacy.boxes import Kem, KeyPair
from federation.privacy.envelopes import (
    SECRET_BYTES,
    ChunkKey,
    open_message,
    part_key,
    public_key,
    seal_message,
    sealing_key,
    update_key,
    wrap_group_key,
)
from federation.protocol.limits import HEADER_BYTES_MAX
from federation.protocol.messages import (
    CoordinatorState,
    Message,
    ModelPart,
    NodeState,
    Presence,
    Rebirth,
    Receipt,
    RoundAnnouncement,
    UpdateOffer,
)
from federation.protocol.sealed_messages import KeyWrap, PartsSeal, Sealed, SealingKey
from federation.protocol.signing import Signer
from federation.protocol.topics import NodeCommandTopic, Topics
from federation.storage.sealing_keys import ROTATE, Group, Pair, SealingKeys, read_keys, write_keys
from federation.types import Epoch, NodeId, RunId, UpdateId

__all__ = ["PAIRS_MAX", "CoordinatorSealing", "check_room"]

PAIRS_MAX = 2
"""Own keys that are kept: what was sealed to the one before is under way; a node seals anew whenever it offers."""

UPDATES_MAX = 32
"""Updates of one node whose secrets are remembered: as many as its outbox holds, twice."""

PARTS_MAX = 64
"""Model parts whose keys are remembered."""


STATE_BYTES = 300
"""What a coordinator's state has beside its key and the description of the inputs, at most, signature included."""


def check_room(settings: SealingSettings, inputs: str | None) -> None:
    """See that the key fits into the retained state, beside what the run's inputs mean.

    Raises:
        ConfigError: It does not.
    """
    room = HEADER_BYTES_MAX - STATE_BYTES - settings.kem.public_bytes
    size = len((inputs or "").encode())
    if settings.on and size > room:
        why = f"the description of the task's inputs has {size} bytes, and beside this key there is room for {room}"
        raise ConfigError("privacy.kem", f"{why}: take x25519, or shorten the description")


class CoordinatorSealing:
    """What one run seals and opens; used by the driver's thread only.

    Args:
        topics: The federation's tree.
        run: Which run, and the number of its coordinator's start.
        folder: Its state folder.
        settings: How.
        signer: The coordinator's own key.
        now_s: Seconds of the wall clock.

    Attributes:
        publish: Says a retained message on a topic: a node's group key. None where nothing can be said yet.

    Raises:
        StorageError: The keys cannot be read, or not be kept.
    """

    def __init__(
        self,
        topics: Topics,
        run: tuple[RunId, Epoch],
        folder: Path,
        settings: SealingSettings,
        signer: Signer | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._topics, (self._run, self._start), self._folder = topics, run, folder
        self._settings, self._signer, self._now_s = settings, signer, now_s
        self._keys, self._pairs = SealingKeys(), tuple[KeyPair, ...]()
        self._use(read_keys(folder))
        self._nodes: dict[NodeId, SealingKey | None] = {}
        self._wrapped: dict[NodeId, bytes] = {}
        self._contents: dict[NodeId, OrderedDict[UpdateId, ChunkKey]] = {}
        self._parts: OrderedDict[ModelPart, ChunkKey] = OrderedDict()
        self._speaks = False
        self.publish: Callable[[str, KeyWrap], None] = lambda _topic, _wrap: None
        if settings.on:
            self._have_keys()

    @property
    def on(self) -> bool:
        """Whether the run is sealed."""
        return self._settings.on

    @property
    def key_epoch(self) -> int:
        """The number of the group key."""
        return self._keys.groups[-1].epoch

    def row(self) -> dict[str, object]:
        """How the run is sealed, for people; nothing where it is not."""
        if not self.on:
            return {}
        newest = self._keys.pairs[-1]
        return {
            "kem": Kem(newest.kem).name.lower(),
            "key": self._pairs[-1].public.key_id.hex(),
            "made_s": newest.made_s,
            "key_epoch": self.key_epoch,
        }

    # --- own keys ---------------------------------------------------------------------------------------------------

    def rotation_is_due(self) -> bool:
        """Whether the newest key is old, or somebody asks for another; a clock that went back makes none old."""
        if not self.on:
            return False
        is_old = self._now_s() - self._keys.pairs[-1].made_s >= self._settings.rotate_s
        return is_old or (self._folder / ROTATE).exists()

    def rotate(self) -> None:
        """Take another key; the one before goes on opening what is under way.

        Raises:
            StorageError: The old one stays.
        """
        fresh = Pair.of(KeyPair.make(self._settings.kem), self._now_s())
        self._save(pairs=(*self._keys.pairs, fresh)[-PAIRS_MAX:])
        with contextlib.suppress(OSError):  # else it rotates once more
            (self._folder / ROTATE).unlink(missing_ok=True)

    def _have_keys(self) -> None:
        if not self._pairs or self._pairs[-1].kem is not self._settings.kem:
            self.rotate()
        if not self._keys.groups:
            self._save(groups=(self._new_group(),))

    def _new_group(self) -> Group:
        """Its number is higher than that of any start before, also where the keys were lost."""
        before = self._keys.groups[-1].epoch if self._keys.groups else 0
        return Group(epoch=max(before + 1, self._start), secret=secrets.token_hex(SECRET_BYTES))

    def _save(self, **changed: object) -> None:
        keys = self._keys.model_copy(update=changed)
        write_keys(self._folder, keys)
        self._use(keys)

    def _use(self, keys: SealingKeys) -> None:
        self._keys = keys
        self._pairs = tuple(kept.pair for kept in keys.pairs)

    # --- who may read the model -------------------------------------------------------------------------------------

    def follow(self, enrolled: Collection[NodeId]) -> bool:
        """Who is enrolled now; True: somebody has left, so there is another group key, and nobody has it yet.

        Raises:
            StorageError: Nothing has changed.
        """
        before, now = self._keys.nodes, tuple(sorted(enrolled))
        if now == before:
            return False
        leaves = before is not None and not set(before) <= set(now)
        groups = (*self._keys.groups, self._new_group())[-1:] if leaves else self._keys.groups
        self._save(nodes=now, groups=groups)
        for node in [node for node in self._nodes if node not in enrolled]:
            self.forget(node)
        if leaves:
            self._wrapped.clear()
            self._parts.clear()
        return leaves

    def forget(self, node: NodeId) -> None:
        """A node has left the federation."""
        self._nodes.pop(node, None)
        self._wrapped.pop(node, None)
        self._contents.pop(node, None)

    def hear(self, node: NodeId, state: NodeState) -> None:
        """A node says its key; it gets the group key once this process speaks for the run."""
        if state.presence is Presence.ONLINE:
            self._nodes[node] = state.seal
            self._wrap(node)

    def speaks(self) -> None:
        """This process leads: every node that was heard gets its key."""
        self._speaks = True
        self.speak_again()

    def speak_again(self) -> None:
        """Every node that was heard gets the group key, where it has not got this one."""
        for node in self._nodes:
            self._wrap(node)

    def broker_connected(self) -> None:
        """The broker may have lost what it retained, and somebody else may lead meanwhile."""
        self._speaks = False
        self._wrapped.clear()

    def _wrap(self, node: NodeId) -> None:
        said = self._nodes[node]
        if not (self.on and self._speaks) or said is None or said.kem != self._settings.kem:
            return  # a node follows the coordinator's kind of key with its next birth
        public = public_key(said)
        if self._wrapped.get(node) == public.key_id:
            return
        topic, group = self._topics.node_key(node), self._keys.groups[-1]
        try:
            wrap = wrap_group_key(
                public, self._topics, topic, bytes.fromhex(group.secret), run=self._run, epoch=group.epoch
            )
        except BadSeal:
            return  # what it calls its key is none: it declines, and says that no key has come
        self._wrapped[node] = public.key_id
        self.publish(topic, wrap)

    # --- messages ---------------------------------------------------------------------------------------------------

    def stated(self, state: CoordinatorState) -> CoordinatorState:
        """A state with the coordinator's key in it."""
        if not self.on or state.presence is not Presence.ONLINE:
            return state
        return replace(state, seal=sealing_key(self._pairs[-1].public))

    def sealed(self, topic: str, message: Message) -> Message:
        """What is said to a node is for that node; who can open nothing is told as ever, and is not asked to train.

        To a node that has not said its key yet only the question goes who it is: it offers again whatever waits.
        """
        place = self._topics.parse(topic)
        if not self.on or not isinstance(place, NodeCommandTopic):
            return message
        if isinstance(message, Rebirth):
            # The node may obey a copy of this run, whose key it knows: the proof is for whoever asks.
            return replace(message, seal=sealing_key(self._pairs[-1].public)) if message.proof else message
        if place.node not in self._nodes:
            return Rebirth()
        said = self._nodes[place.node]
        if said is None:
            return message
        # A node keeps a receipt as the proof of what this coordinator has said: it must be able to show it.
        signer = self._signer if isinstance(message, Receipt) else None
        try:
            return seal_message(public_key(said), self._topics, topic, message, signer=signer)
        except BadSeal:
            return message  # of a kind that this release does not know: as good as none

    def opened(self, topic: str, sealed: Sealed) -> tuple[Message, bytes]:
        """What a node has sealed to this coordinator, and its bytes.

        Raises:
            BadSeal: It does not open.
            MalformedMessage: What is in it is no message.
        """
        return open_message(self._pairs, self._topics, topic, sealed)

    # --- updates ----------------------------------------------------------------------------------------------------

    def offered(self, node: NodeId, offer: UpdateOffer) -> None:
        """What opens the chunks of an update that come from here on; a newer word of its node replaces an older one."""
        if offer.content_key is None:
            return
        known = self._contents.setdefault(node, OrderedDict())
        known.pop(offer.update, None)
        known[offer.update] = update_key(offer.content_key, self._topics, offer.update, offer.chunk_bytes)
        if len(known) > UPDATES_MAX:
            known.popitem(last=False)

    def update_chunk(self, node: NodeId, update: UpdateId, index: int, body: bytes) -> bytes:
        """The body of a chunk of an update.

        Raises:
            BadSeal: It does not open with what its node has offered it with.
        """
        known = self._contents.get(node)
        key = None if known is None else known.get(update)
        if key is None:
            if self.on and self._nodes.get(node) is not None:
                raise BadSeal(f"a chunk of {update}, whose key this process has not heard: it is offered again")
            return body
        return key.open(index, body)

    # --- the model --------------------------------------------------------------------------------------------------

    def announced(self, announcement: RoundAnnouncement) -> RoundAnnouncement:
        """An announcement that says how its model is sealed; a delta in it is closed like any other part."""
        if not self.on:
            return announcement
        model, newest = announcement.model, announcement.model.newest_delta
        delta = None
        if model.delta is not None and newest is not None and len(model.delta) <= newest.chunk_bytes:
            delta = self.part_chunk(newest, 0, model.delta)
        seal = PartsSeal(key_epoch=self.key_epoch, delta=delta)
        return replace(announcement, model=replace(model, delta=None), seal=seal)

    def part_chunk(self, part: ModelPart, index: int, body: bytes) -> bytes:
        """A chunk of a model part as it is published: the same bytes after a restart."""
        if not self.on:
            return body
        key = self._parts.get(part)
        if key is None:
            group = bytes.fromhex(self._keys.groups[-1].secret)
            key = self._parts[part] = part_key(group, self._topics, self._run, part)
            if len(self._parts) > PARTS_MAX:
                self._parts.popitem(last=False)
        return key.seal(index, body)
