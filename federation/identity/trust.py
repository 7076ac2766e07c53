"""What a role gives the protocol: its own key to sign with, and the keys of those whom it believes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from federation.identity.certificates import PEM_BYTES_MAX
from federation.identity.private_files import read_text
from federation.identity.signing_keys import read_signing_key
from federation.protocol.signing import Signer, Verifier

__all__ = ["Trust", "read_trust"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """One role's keys.

    Attributes:
        signer: Its own key; None says everything without a signature.
        verifier: Whom to believe; None believes what is not signed.
    """

    signer: Signer | None = None
    verifier: Verifier | None = None


def read_trust(own: Path | None, others: Path | None, read_others: Callable[[Path], Verifier]) -> Trust:
    """Read the keys from their files; None is no key.

    Raises:
        ConfigError: A file is missing or damaged.
    """
    signer = None if own is None else read_signing_key(read_text(own, bytes_max=PEM_BYTES_MAX), source=own.name)
    return Trust(signer=signer, verifier=None if others is None else read_others(others))
