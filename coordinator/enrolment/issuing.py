"""What one node is given: a certificate and a signing key, made here for it, or for keys that only the device has."""

import base64
import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.enrolment.register import Issued, Register
from coordinator.runtime.task_releases import ReleaseShelf
from federation.errors import ConfigError
from federation.identity.bundle import TASK_FILE_BYTES_MAX, Bundle
from federation.identity.certificates import Identity, Purpose, issue, new_identity, parsing
from federation.identity.private_files import read_text
from federation.identity.request import NodeRequest
from federation.identity.signing_keys import SigningKey
from federation.types import NodeId

__all__ = ["Applicant", "Enrolled", "PackedTask", "applicant_of", "issue_to", "pack_release", "pack_task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """A node that is to get a certificate.

    Attributes:
        name: Who.
        device_key: The public key of its certificate, PEM, when the device has made its keys; else None.
        signing: The public key of its messages, hexadecimal, in the same case.
    """

    name: NodeId
    device_key: str | None = None
    signing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTask:
    """A task whose source goes to the devices.

    Attributes:
        task: ``FILE.py:FUNCTION``.
        files: Text by file name.
        release: A signed release in their place, and its archive.
    """

    task: str
    files: Mapping[str, str] = field(default_factory=dict)
    release: tuple[str, bytes] | None = None

    @property
    def members(self) -> dict[str, object]:
        """What an enrolment file has of it."""
        if self.release is None:
            return {"task": self.task, "files": dict(self.files)}
        text, archive = self.release
        return {"task": self.task, "release": text, "archive": base64.b64encode(archive).decode("ascii")}


def pack_release(shelf: ReleaseShelf) -> PackedTask | None:
    """The release that is published now, where its task is a file; None where there is none, or it was withdrawn.

    Raises:
        ConfigError: It is damaged.
        StorageError: Its archive is not there.
    """
    found = shelf.current()
    if found is None or found[1].withdrawn or not found[1].task.partition(":")[0].endswith(".py"):
        return None
    text, release = found
    return PackedTask(task=release.task, release=(text, shelf.archive(release.number)))


def pack_task(task: str) -> PackedTask:
    """Read the source of ``PATH/FILE.py:FUNCTION``.

    Raises:
        ConfigError: It is a built-in task or one of a package, its file cannot be read, or has a name of other than
            letters, digits and ``_``.
    """
    place, _, function = task.partition(":")
    if not place.endswith(".py") or not function:
        said = (
            f"packs a task FILE.py:FUNCTION, and this is {task}: every installation has that, enroll without --bundle"
        )
        raise ConfigError("--bundle", said, source="command line")
    file = Path(place)
    if re.fullmatch(r"[A-Za-z0-9_]{1,64}\.py", file.name) is None:
        raise ConfigError("--bundle", f"{file.name}: call it by letters, digits and '_' only", source="command line")
    return PackedTask(task=f"{file.name}:{function}", files={file.name: read_text(file, bytes_max=TASK_FILE_BYTES_MAX)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What was made for a node.

    Attributes:
        name: Who.
        certificate: Its certificate.
        entry: Its line in the register.
        key: The certificate's private key, PEM; None when only the device has it.
        signing_key: The private key of its messages, PEM; None in the same case.
    """

    name: NodeId
    certificate: x509.Certificate
    entry: Issued
    key: str | None
    signing_key: str | None

    def bundle(
        self, register: Register, authority: Identity, coordinator_key: str, helpers: tuple[str, ...] = ()
    ) -> Bundle:
        """The enrolment file; ``helpers`` are what the coordinator's settings list."""
        return Bundle(
            federation=register.federation,
            node=self.name,
            broker_url=register.broker_url,
            task=register.task,
            authority=authority.certificate_pem,
            certificate=self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
            coordinator_key=coordinator_key,
            key=self.key,
            signing_key=self.signing_key,
            helpers=helpers,
            version=3 if helpers else 2,
        )


def applicant_of(request: NodeRequest, name: NodeId) -> Applicant:
    """Who asks with a request file."""
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    key = request.public_key.public_bytes(serialization.Encoding.PEM, kind).decode("ascii")
    return Applicant(name=name, device_key=key, signing=request.signing_key)


def issue_to(authority: Identity, applicant: Applicant, *, now: dt.datetime, days: int) -> Enrolled:
    """Make what a node is given.

    Raises:
        ConfigError: The authority has expired, or the register holds a damaged key.
    """
    name = applicant.name
    if applicant.device_key is None:
        made, signing = new_identity(authority, name, purpose=Purpose.CLIENT, now=now, days=days), SigningKey.new()
        entry = Issued.of(name, made.certificate, signing=signing.public_hex)
        return Enrolled(name=name, certificate=made.certificate, entry=entry, key=made.key_pem, signing_key=signing.pem)
    certificate = issue(authority, name, _public(applicant.device_key), purpose=Purpose.CLIENT, now=now, days=days)
    entry = Issued.of(name, certificate, signing=applicant.signing, device_key=applicant.device_key)
    return Enrolled(name=name, certificate=certificate, entry=entry, key=None, signing_key=None)


def _public(pem: str) -> ec.EllipticCurvePublicKey:
    with parsing("register"):
        key = serialization.load_pem_public_key(pem.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError("register", "holds a key that is not an elliptic curve key")
    return key
