"""The register of one authority: which certificates it has issued to whom, and which of them are revoked."""

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.errors import ConfigError, StorageError
from federation.identity.certificates import PEM_BYTES_MAX
from federation.identity.private_files import PUBLIC, read_text, write_text
from federation.storage.folder import lock

__all__ = ["Issued", "Register", "load_register", "locked", "save_register"]

REGISTER_BYTES_MAX = 64 << 20
ISSUED_MAX = 200_000


class Issued(BaseModel):
    """One certificate.

    Attributes:
        name: Its common name.
        serial: Its serial number; text in the file, because it has up to 160 bits.
        ends: When it expires.
        revoked: When it was revoked; None is not.
        signing: The public key with which a node signs its messages, 64 hexadecimal digits; None for the server's.
        device_key: The certificate's public key, PEM, when the device has made the keys itself: renewed as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    serial: Annotated[str, Field(pattern=r"^[0-9]{1,49}\z")]
    ends: dt.datetime
    revoked: dt.datetime | None = None
    signing: Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")] | None = None
    device_key: Annotated[str, Field(max_length=PEM_BYTES_MAX)] | None = None

    @classmethod
    def of(
        cls, name: str, certificate: x509.Certificate, *, signing: str | None = None, device_key: str | None = None
    ) -> "Issued":
        """What was issued now."""
        serial, ends = str(certificate.serial_number), certificate.not_valid_after_utc
        return cls(name=name, serial=serial, ends=ends, signing=signing, device_key=device_key)


class Register(BaseModel):
    """All certificates, in the order in which they were issued.

    Attributes:
        federation: Whose they are.
        broker_url: As devices reach the broker.
        task: For enrolment files; None where the devices must name it.
        issued: The certificates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    federation: str
    broker_url: str
    task: str | None
    issued: Annotated[tuple[Issued, ...], Field(max_length=ISSUED_MAX)] = ()

    def of(self, name: str) -> list[Issued]:
        """Everything that was issued to ``name``."""
        return [one for one in self.issued if one.name == name]

    def signing_keys(self, now: dt.datetime) -> dict[str, list[str]]:
        """The public keys of each node whose certificates are neither revoked nor at their end."""
        keys: dict[str, list[str]] = {}
        for one in self.issued:
            known = keys.setdefault(one.name, []) if one.signing and one.revoked is None and one.ends > now else None
            if known is not None and one.signing is not None and one.signing not in known:
                known.append(one.signing)
        return keys

    def with_issued(self, *more: Issued) -> "Register":
        """The register after these."""
        return self.model_copy(update={"issued": (*self.issued, *more)})

    def without(self, name: str, now: dt.datetime) -> "Register":
        """The register after everything of ``name`` was revoked."""
        revoked = {"revoked": now}
        issued = tuple(
            one.model_copy(update=revoked) if one.name == name and one.revoked is None else one for one in self.issued
        )
        return self.model_copy(update={"issued": issued})


def load_register(path: Path) -> Register:
    """Read the register.

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _no_authority(path) from error
    except OSError:
        pass  # whoever reads it says why
    try:
        return Register.model_validate_json(read_text(path, bytes_max=REGISTER_BYTES_MAX))
    except ValidationError as error:
        raise ConfigError(path.name, f"is damaged: {error.errors()[0]['msg']}", source=str(path)) from error


def save_register(path: Path, register: Register) -> None:
    """Replace the register; it is durable before anything that it names is handed out.

    Raises:
        StorageError: It cannot be written.
    """
    write_text(path, register.model_dump_json(indent=1) + "\n", mode=PUBLIC)


def _no_authority(path: Path) -> ConfigError:
    problem = f"{path.parent.parent} has no authority: make it with coordinator init"
    return ConfigError("DIR", problem, source="command line")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the register: two commands at once would forget one of two certificates.

    Raises:
        ConfigError: There is no such federation.
        StorageError: The lock cannot be taken.
    """
    try:
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _no_authority(path) from error
    except OSError as error:
        raise StorageError(f"{path.parent} cannot be used: {error.strerror}") from error
    try:
        if not lock(handle):
            raise StorageError(f"another command is at work in {path.parent}")
        yield
    finally:
        os.close(handle)
