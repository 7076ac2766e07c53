"""The enrolment file: one JSON document with all that a device needs to take part as one node; code only if packed.

Format, versions 2 to 5. It MUST be UTF-8 JSON of at most 64 KiB (version 4: 1 MiB) with exactly these members:
``format`` (``fedmq-enrolment``), ``version``, ``federation``, ``node``, ``broker_url`` (mqtts or wss, no password),
``task`` (name of a built-in task, or null), ``authority`` (PEM), ``certificate`` (PEM; its CN is ``node`` and
``authority`` has signed it), ``coordinator_key`` (PEM, Ed25519: whose word the node obeys), ``key`` and ``signing_key``
(PEM; both null when the device has made them itself and asked with a request file). Version 3 has ``helpers`` besides:
the helpers of masked sums that the server proposes, 1 to 7 texts ``NAME=KEY``. Nobody may pin them without a person's
word. Version 4 may have ``helpers`` as well, and has ``files``: the sources of a task that the server's owner packs, by
name (``[A-Za-z0-9_]+.py``, no folders, 1 to 16 of at most 256 KiB), of which ``task`` names one (``FILE.py:FUNCTION``).
Nobody may run them without a person's word. Version 5, at most 6 MiB, has ``release`` and ``archive`` in the place of
``files``: a release of the task, signed by the authority (`task_release`), and its archive in base64; ``task`` is what
the release says, in the form ``FOLDER/FILE.py:FUNCTION``. A reader MUST refuse everything else. A file with keys is a
secret.
"""

import datetime as dt
import re
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.errors import ConfigError, LocalProtocolError
from federation.identity.certificates import PEM_BYTES_MAX, check_identity, parsing, read_certificate, read_identity
from federation.identity.helper_keys import PinnedHelper, in_key_order
from federation.identity.signing_keys import read_public_key, read_signing_key
from federation.protocol.limits import HELPERS_MAX
from federation.runtime.address import parse_broker_url

__all__ = [
    "BUNDLE_BYTES_MAX",
    "PACKED_BYTES_MAX",
    "RELEASED_BYTES_MAX",
    "TASK_FILE_BYTES_MAX",
    "Bundle",
    "decode_bundle",
    "encode_bundle",
    "proposed_helpers",
    "read_document",
]

BUNDLE_BYTES_MAX = 65_536
PACKED_BYTES_MAX = 1 << 20
"""Of a file that has a task packed with it, in bytes."""
RELEASED_BYTES_MAX = 6 << 20
"""Of a file that has a signed release of the task, in bytes."""
TASK_FILE_BYTES_MAX = 262_144
TASK_FILES_MAX = 16

DocumentT = TypeVar("DocumentT", bound=BaseModel)

_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\z")]
_Pem = Annotated[str, Field(max_length=PEM_BYTES_MAX)]
_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,64}\.py\z")]
_Source = Annotated[str, Field(max_length=TASK_FILE_BYTES_MAX)]
_NAMED = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RELEASED = re.compile(r"(?:[A-Za-z0-9_]{1,64}/){0,7}[A-Za-z0-9_]{1,64}\.py:[A-Za-z_][A-Za-z0-9_]{0,63}")
_PACKED = re.compile(r"([A-Za-z0-9_]{1,64}\.py):[A-Za-z_][A-Za-z0-9_]{0,63}")


class Bundle(BaseModel):
    """What an enrolment file says.

    Attributes:
        federation: What the node takes part in.
        node: Who it is: the certificate's CN, its MQTT client id, and its topic level.
        broker_url: Where the broker is, as devices reach it.
        task: What is trained, when that is a task which every installation has; a device runs no code from a file.
        authority: Certificate that signs the broker's and the clients'.
        certificate: The node's.
        coordinator_key: The public key with which the coordinator signs.
        key: The certificate's private key; None when only the device has it.
        signing_key: The private key with which the node signs; None when only the device has it.
        helpers: Helpers of masked sums as the server proposes them; who owns the node compares them and pins them.
        files: Sources of the task, by name, which the device runs only where its owner says so.
        release: A signed release of the task in their place.
        archive: Its archive, in base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["fedmq-enrolment"] = "fedmq-enrolment"
    version: Literal[2, 3, 4, 5] = 2
    federation: _Id
    node: _Id
    broker_url: Annotated[str, Field(max_length=512, pattern=r"^(mqtts|wss)://[^@\s\"\\]+\z")]
    task: Annotated[str, Field(max_length=160)] | None
    authority: _Pem
    certificate: _Pem
    coordinator_key: _Pem
    key: Annotated[_Pem | None, Field(repr=False)] = None
    signing_key: Annotated[_Pem | None, Field(repr=False)] = None
    helpers: Annotated[tuple[str, ...], Field(max_length=HELPERS_MAX)] = ()
    files: Annotated[dict[_FileName, _Source], Field(repr=False, max_length=TASK_FILES_MAX)] = Field(
        default_factory=dict
    )
    release: Annotated[str | None, Field(max_length=8_192)] = None
    archive: Annotated[str | None, Field(repr=False, max_length=RELEASED_BYTES_MAX)] = None


def encode_bundle(bundle: Bundle) -> str:
    """The file's text, in the lowest version that has all of it: earlier releases read 2."""
    version = 5 if bundle.release else 4 if bundle.files else 3 if bundle.helpers else 2
    absent = {name for name in ("files", "helpers", "release", "archive") if not getattr(bundle, name)}
    return bundle.model_copy(update={"version": version}).model_dump_json(indent=1, exclude=absent) + "\n"


def decode_bundle(text: str, *, now: dt.datetime) -> Bundle:
    """Read and check an enrolment file.

    Args:
        text: At most `BUNDLE_BYTES_MAX` bytes, or `PACKED_BYTES_MAX` with a task packed, `RELEASED_BYTES_MAX` with a
            release of one.
        now: This device's time, with a time zone.

    Raises:
        ConfigError: It is not such a file, or its parts do not belong together, or it is not valid at ``now``.
    """
    if not text.lstrip().startswith("{"):
        raise ConfigError(
            "enrolment file", "this is none: coordinator enroll DIR NODE writes one, DIR/enrolled/NODE.fedmq"
        )
    bundle = read_document(Bundle, text, source="enrolment file", bytes_max=RELEASED_BYTES_MAX)
    _check_task(bundle, len(text.encode()))
    parse_broker_url(bundle.broker_url, source="enrolment file")
    read_public_key(bundle.coordinator_key, source="enrolment file")
    if bundle.version < 4 and bool(bundle.helpers) is not (bundle.version == 3):
        raise ConfigError("enrolment file", "names helpers in version 3, and only there")
    proposed_helpers(bundle)
    if (bundle.key is None) is not (bundle.signing_key is None):
        raise ConfigError("enrolment file", "has one private key of two")
    if bundle.key is not None and bundle.signing_key is not None:
        read_identity(bundle.certificate, bundle.key, source="enrolment file")
        read_signing_key(bundle.signing_key, source="enrolment file")
    authority = read_certificate(bundle.authority, source="enrolment file")
    certificate = read_certificate(bundle.certificate, source="enrolment file")
    with parsing("enrolment file"):
        check_identity(certificate, authority, name=bundle.node, now=now)
    return bundle


def _check_task(bundle: Bundle, size: int) -> None:
    """A task is a name, or one of the files that came with it."""
    if bool(bundle.files) is not (bundle.version == 4):
        raise ConfigError("enrolment file", "has files in version 4, and only there")
    if {bundle.release is not None, bundle.archive is not None} != {bundle.version == 5}:
        raise ConfigError("enrolment file", "has a release and its archive in version 5, and only there")
    most = {4: PACKED_BYTES_MAX, 5: RELEASED_BYTES_MAX}.get(bundle.version, BUNDLE_BYTES_MAX)
    if size > most:
        raise ConfigError("enrolment file", f"larger than {most} bytes")
    if bundle.release is not None:
        if _RELEASED.fullmatch(bundle.task or "") is None:
            raise ConfigError("enrolment file", "task: names no file of its release, as FILE.py:FUNCTION")
        return
    if not bundle.files:
        if bundle.task is not None and _NAMED.fullmatch(bundle.task) is None:
            raise ConfigError("enrolment file", "task: is no task's name")
        return
    found = _PACKED.fullmatch(bundle.task or "")
    if found is None or found.group(1) not in bundle.files:
        raise ConfigError("enrolment file", "task: names none of its files, as FILE.py:FUNCTION")


def proposed_helpers(bundle: Bundle) -> tuple[PinnedHelper, ...]:
    """The helpers that the server proposes, in the order of their keys.

    Raises:
        ConfigError: One of them is none.
    """
    try:
        return in_key_order(map(PinnedHelper.from_text, bundle.helpers))
    except LocalProtocolError as error:
        raise ConfigError("enrolment file", str(error)) from error


def read_document(model: type[DocumentT], text: str, *, source: str, bytes_max: int = BUNDLE_BYTES_MAX) -> DocumentT:
    """A JSON document that is exactly what its model says.

    Raises:
        ConfigError: It is larger than ``bytes_max``, or something else; ``source`` says which it was to be.
    """
    if len(text.encode()) > bytes_max:
        raise ConfigError(source, f"larger than {bytes_max} bytes")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(source, f"{where}: {first['msg']}".removeprefix(": ")) from None
