"""The helpers of masked sums as others have pinned them: a name and an Ed25519 key each.

Their text is ``NAME=KEY``, the key as 64 lower-case hexadecimal digits: what `fedmq helper` prints, and what the
configuration of a coordinator and of a node lists. A name alone proves nothing: whoever has the key is the helper.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from federation.errors import LocalProtocolError
from federation.protocol.limits import HELPERS_MAX
from federation.protocol.signing import Sender
from federation.protocol.topics import validate_helper_id
from federation.types import HelperId, SumHelper

__all__ = ["HelperKeys", "PinnedHelper", "in_key_order"]

KEY_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedHelper:
    """One helper.

    Attributes:
        name: Its name, a topic level.
        key: Its public Ed25519 key, 32 bytes.
    """

    name: HelperId
    key: bytes

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `str` makes.

        Raises:
            LocalProtocolError: It is something else.
        """
        name, _, digits = text.partition("=")
        try:
            key = bytes.fromhex(digits) if len(digits) == KEY_DIGITS else b""
            Ed25519PublicKey.from_public_bytes(key)
        except ValueError as error:
            raise LocalProtocolError(
                f"helper {text!r}: needs NAME=KEY with a key of {KEY_DIGITS} hex digits"
            ) from error
        return cls(name=validate_helper_id(name), key=key)

    def __str__(self) -> str:
        return f"{self.name}={self.key.hex()}"


def in_key_order(helpers: Iterable[PinnedHelper]) -> tuple[PinnedHelper, ...]:
    """Helpers in the order of their keys, which numbers them [FED-149].

    Raises:
        LocalProtocolError: There are too many, or two have a name or a key in common.
    """
    found = sorted(helpers, key=lambda helper: helper.key)
    if len(found) > HELPERS_MAX:
        raise LocalProtocolError(f"{len(found)} helpers are more than {HELPERS_MAX}")
    for what in ({helper.name for helper in found}, {helper.key for helper in found}):
        if len(what) != len(found):
            raise LocalProtocolError("two helpers have the same name or the same key")
    return tuple(found)


class HelperKeys:
    """A `Verifier` that knows these helpers and nobody else."""

    def __init__(self, helpers: Iterable[PinnedHelper]) -> None:
        self._keys = {helper.name: Ed25519PublicKey.from_public_bytes(helper.key) for helper in helpers}

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        """Whether a helper's own key has signed this."""
        key = self._keys.get(sender.name) if isinstance(sender, SumHelper) else None
        if key is None:
            return False
        try:
            key.verify(signature, digest)
        except InvalidSignature:
            return False
        return True
