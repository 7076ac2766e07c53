"""A release of a task: which archive it is, who should take it, and the authority's signature over both.

Format. A signed release MUST be UTF-8 JSON of at most 8 KiB with exactly the members ``format``
(``fedmq-signed-task``), ``statement`` (text) and ``signature`` (hexadecimal: ECDSA P-256 with SHA-256, DER, by the key
of the federation's authority, over the text ``fedmq task release 1``, a line feed and ``statement``, in UTF-8). The
statement is JSON with exactly the members of `TaskRelease`. The authority's key signs certificates, too: these begin
with the byte 0x30, so that no signature can serve as one of the other kind. A reader MUST refuse everything else.
"""

import re
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from federation.errors import ConfigError
from federation.identity.bundle import read_document
from federation.identity.certificates import Identity, parsing, read_certificate

__all__ = [
    "ARCHIVE_BYTES_MAX",
    "RELEASE_BYTES_MAX",
    "TaskRelease",
    "read_release",
    "sign_release",
    "unverified_release",
]

RELEASE_BYTES_MAX: Final = 8_192
ARCHIVE_BYTES_MAX: Final = 4 << 20
"""Of a release's archive, in bytes: code, not data and not models."""

_SOURCE: Final = "task release"
_CONTEXT: Final = b"fedmq task release 1\n"
_NUMBER_MAX: Final = 2**31 - 1
_ENTRY = re.compile(
    r"(?:(?:[A-Za-z0-9_]{1,64}/){0,7}[A-Za-z0-9_]{1,64}\.py|[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*){0,7})"
    r":[A-Za-z_][A-Za-z0-9_]{0,63}"
)


class TaskRelease(BaseModel):
    """What the authority says of one release.

    Attributes:
        federation: Whose nodes it is for.
        number: Counts up with each archive; a node never takes a lower one than it has heard of.
        step: Counts up with each further statement about the same archive.
        task: ``FOLDER/FILE.py:FUNCTION`` or ``PACKAGE.MODULE:FUNCTION`` in the archive.
        sha256: Of the archive, in hexadecimal digits.
        archive_bytes: Its size.
        chunk_bytes: Size of the pieces in which it is retained at the broker; the last one may be smaller.
        share: Which share of the nodes takes it, above 0 and at most 1.
        withdrawn: Nodes that run it go back to the one before.
        new_model: The task's model is another one than that of the release before.
        made_at: When it was signed, in ISO 8601, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["fedmq-task-release"] = "fedmq-task-release"
    version: Literal[1] = 1
    federation: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\z")]
    number: Annotated[int, Field(ge=1, le=_NUMBER_MAX)]
    step: Annotated[int, Field(ge=0, le=_NUMBER_MAX)] = 0
    task: Annotated[str, Field(max_length=256)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
    archive_bytes: Annotated[int, Field(ge=1, le=ARCHIVE_BYTES_MAX)]
    chunk_bytes: Annotated[int, Field(ge=1_024, le=61_440)]
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    withdrawn: bool = False
    new_model: bool = False
    made_at: Annotated[str, Field(max_length=40)] = ""

    @model_validator(mode="after")
    def _names_a_task(self) -> "TaskRelease":
        if _ENTRY.fullmatch(self.task) is None:
            raise ValueError("task: needs FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION")
        return self

    @property
    def order(self) -> tuple[int, int]:
        """What tells an older statement from a newer one."""
        return self.number, self.step

    @property
    def chunks(self) -> int:
        """How many pieces the archive has."""
        return -(-self.archive_bytes // self.chunk_bytes)

    @property
    def name(self) -> str:
        """Number and digest: the name of its folder, and of its level among the topics."""
        return f"{self.number}-{self.sha256[:16]}"


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["fedmq-signed-task"] = "fedmq-signed-task"
    statement: Annotated[str, Field(max_length=4_096)]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{16,160}\z")]


def sign_release(release: TaskRelease, authority: Identity) -> str:
    """The text of a signed release."""
    statement = release.model_dump_json()
    signature = authority.key.sign(_CONTEXT + statement.encode(), ec.ECDSA(hashes.SHA256()))
    return _Signed(statement=statement, signature=signature.hex()).model_dump_json() + "\n"


def read_release(text: str, authority_pem: str, *, federation: str) -> TaskRelease:
    """Read and check a signed release.

    Args:
        text: At most `RELEASE_BYTES_MAX` bytes.
        authority_pem: Certificate whose key must have signed it.
        federation: For which it must be.

    Raises:
        ConfigError: It is none, somebody else has signed it, or it is another federation's.
    """
    signed = read_document(_Signed, text, source=_SOURCE, bytes_max=RELEASE_BYTES_MAX)
    with parsing("authority"):
        key = read_certificate(authority_pem, source="authority").public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError("authority", "its key is no elliptic curve key: it signs no tasks")
    try:
        key.verify(bytes.fromhex(signed.signature), _CONTEXT + signed.statement.encode(), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise ConfigError(_SOURCE, "the federation's authority has not signed it") from error
    release = read_document(TaskRelease, signed.statement, source=_SOURCE)
    if release.federation != federation:
        raise ConfigError(_SOURCE, f"is for the federation {release.federation}, and this is {federation}")
    return release


def unverified_release(text: str) -> TaskRelease:
    """What a signed release says, without a look at the signature: for whoever has made it, or shows it.

    Raises:
        ConfigError: It is none.
    """
    signed = read_document(_Signed, text, source=_SOURCE, bytes_max=RELEASE_BYTES_MAX)
    return read_document(TaskRelease, signed.statement, source=_SOURCE)
