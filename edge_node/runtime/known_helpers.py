"""The pinned helpers of masked sums as this node knows them: each one's newest word, over restarts of both.

A helper that is away has said its key all the same, and opens what is sealed to it when it is back. So its word is kept
in the state folder, as it was signed: a broker that has lost what was retained, and a node that starts again meanwhile,
would else keep this node from every round until the helper is back, also where the others suffice for a sum. What a
full disk has not taken is tried again: the helper may never say its word again.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from edge_node.training.masking import Masking
from federation.documents import read_json
from federation.errors import MalformedMessage, RemoteProtocolError
from federation.identity.helper_keys import HelperKeys, PinnedHelper
from federation.privacy.boxes import Kem, PublicKey
from federation.protocol.signing import Reader
from federation.protocol.sum_messages import HelperState, Ticket
from federation.protocol.topics import Topics
from federation.runtime.log import get_log
from federation.storage.folder import write_file
from federation.types import HelperId

__all__ = ["FILE", "KnownHelpers"]

FILE: Final = "helpers.json"
"""Its name in the state folder: each helper's newest word in hexadecimal digits, by its name."""

_BYTES_MAX: Final = 1 << 20


class KnownHelpers:
    """What the pinned helpers have said.

    Args:
        topics: The federation's tree.
        pinned: They, in the order of their keys.
        folder: Where their words are kept; None keeps nothing.

    Attributes:
        kept: Whether all that is known would be known after a restart.
    """

    def __init__(self, topics: Topics, pinned: Iterable[PinnedHelper], folder: Path | None = None) -> None:
        self._topics, self._pinned = topics, tuple(pinned)
        self._reader = Reader(topics, HelperKeys(self._pinned))
        self._file = None if folder is None else folder / FILE
        self._states: dict[HelperId, HelperState] = {}
        self._payloads: dict[HelperId, bytes] = {}
        self.kept = True
        self._log = get_log("helpers")
        for helper, payload in self._kept().items():
            try:
                self._take(helper, payload)
            except RemoteProtocolError as error:
                self._log.warning("helper_forgotten", helper=helper, reason=str(error)[:200])

    def hear(self, helper: HelperId, payload: bytes) -> None:
        """A word of a helper; an older process's word does not replace a newer one.

        Raises:
            RemoteProtocolError: It is no pinned helper's, or no such word.
        """
        news = self._take(helper, payload)
        self.kept = self._file is None or (self.kept and not news)
        self.keep()

    def keep(self) -> None:
        """Write what is not in the file yet; what cannot be written now is tried again with the next call."""
        if self.kept or self._file is None:
            return
        body = json.dumps({name: payload.hex() for name, payload in self._payloads.items()}).encode("ascii")
        try:
            write_file(self._file, body)
            self.kept = True
        except OSError as error:
            self._log.warning("helpers_not_kept", reason=str(error))

    def masking(self, sign: Callable[[Ticket], bytes]) -> Masking | str:
        """What it takes to mask for the pinned helpers, or which of them has not been heard."""
        keys = []
        for helper in self._pinned:
            state = self._states.get(helper.name)
            if state is None or state.kem not in set(Kem):
                return f"helpers: {helper.name} has said no key that is known here, signed with the pinned one"
            keys.append(PublicKey(kem=Kem(state.kem), raw=state.key))
        return Masking(keys=keys, draw=os.urandom, sign=sign)

    def _take(self, helper: HelperId, payload: bytes) -> bool:
        """Take a word; says whether it tells of another key than is known."""
        topic = self._topics.helper_state(helper)
        state = self._reader.decode(topic, payload)
        if not isinstance(state, HelperState):
            raise MalformedMessage(f"topic {topic[:128]!r} does not carry this message to a node")
        known = self._states.get(helper)
        if known is not None and known.state_id == state.state_id and state.incarnation < known.incarnation:
            return False
        self._states[helper], self._payloads[helper] = state, payload
        return known is None or (known.state_id, known.kem, known.key) != (state.state_id, state.kem, state.key)

    def _kept(self) -> dict[HelperId, bytes]:
        """What is in the file; a damaged one is as good as none: helpers say their keys again."""
        try:
            if self._file is None or self._file.stat().st_size > _BYTES_MAX:
                return {}
            found = read_json(self._file.read_text(encoding="ascii"))
            names = {helper.name for helper in self._pinned}
            return {HelperId(name): bytes.fromhex(word) for name, word in found.items() if name in names}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
