"""What ``coordinator init``, ``enroll``, ``revoke`` and ``renew`` do to a federation's folder."""

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.issuing import Applicant, PackedTask, applicant_of, issue_to
from coordinator.enrolment.register import Issued, Register, load_register, locked, save_register
from coordinator.enrolment.texts import FleetPlan, access_rules, broker_text, compose_text, settings_text
from federation.config import CONFIG_BYTES_MAX
from federation.documents import read_toml
from federation.errors import ConfigError, LocalProtocolError
from federation.identity.bundle import BUNDLE_BYTES_MAX, encode_bundle
from federation.identity.certificates import (
    AUTHORITY_DAYS,
    BACKDATED,
    CERTIFICATE_DAYS,
    LIST_BYTES_MAX,
    Identity,
    Purpose,
    Revoked,
    list_begin,
    listed_serials,
    new_authority,
    new_identity,
    read_certificate,
    read_identity,
    revocation_list,
)
from federation.identity.private_files import PRIVATE, PUBLIC, read_text, write_text
from federation.identity.request import NodeRequest
from federation.identity.signing_keys import SigningKey, node_keys_text, read_signing_key
from federation.protocol.topics import validate_node_id
from federation.types import FederationId, NodeId

__all__ = ["Fleet", "coordinator_name"]

FEDERATION_ID_MAX = 40
"""A common name has at most 64 characters, and the longest is ``coordinator-FEDERATION-control``."""

RESERVED = "coordinator-"
"""No node is called so: it would have the coordinator's rights."""

BROKER = "broker"
CONNECTIONS = ("control", "data")
ALWAYS_HOSTS = ("localhost", "127.0.0.1", "::1", BROKER)
"""The broker's own machine, and its name in the compose file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """One federation's folder, and the time at which something is done to it.

    Attributes:
        folder: Where.
        now: With a time zone.
    """

    folder: FleetFolder
    now: dt.datetime

    def create(self, plan: FleetPlan, *, days: int = CERTIFICATE_DAYS, settings: str | None = None) -> None:
        """Make the folder; the register is written last, and says that all of it is there.

        Args:
            plan: What is made.
            days: Until the certificates end.
            settings: The coordinator's, as TOML; None is those of a federation of its own.

        Raises:
            ConfigError: There is a federation already, or its name is too long.
            StorageError: Something cannot be written.
        """
        folder = self.folder
        if folder.register.exists():
            raise ConfigError("DIR", f"{folder.root} has a federation: take another folder", source="command line")
        if len(plan.federation) > FEDERATION_ID_MAX:
            raise ConfigError("--federation", f"has more than {FEDERATION_ID_MAX} characters", source="command line")
        authority = new_authority(f"fedmq {plan.federation}", now=self.now)
        _write_pair(folder.authority, authority)
        self._signing_key()
        for path in (folder.coordinator_authority, folder.broker / "ca.crt"):
            write_text(path, authority.certificate_pem, mode=PUBLIC)
        write_text(folder.config, settings_text(plan) if settings is None else settings, mode=PUBLIC)
        write_text(folder.broker / "mosquitto.conf", broker_text(plan), mode=PUBLIC)
        write_text(folder.compose, compose_text(plan, user=f"{os.getuid()}:{os.getgid()}"), mode=PUBLIC)
        for made in (folder.broker / "data", *(folder.root / name for name in ("state", "enrolled", "nodes"))):
            made.mkdir(mode=0o700, exist_ok=True)
        register = Register(federation=plan.federation, broker_url=plan.broker_url, task=plan.portable_task)
        register = self._issue_server(register, authority, [*plan.hosts, *ALWAYS_HOSTS], days)
        self._write_rules(register)
        save_register(folder.register, register)

    def enroll(
        self, nodes: Sequence[str], *, days: int = CERTIFICATE_DAYS, packed: PackedTask | None = None
    ) -> list[NodeId]:
        """Write the enrolment file of each node; all of them, or none. ``packed`` goes into each.

        Raises:
            ConfigError: A name cannot be a node's, or has a valid certificate already.
            StorageError: Something cannot be written.
        """
        return self._admit([Applicant(name=_node_id(text)) for text in nodes], days, packed)

    def enroll_request(
        self, request: NodeRequest, *, days: int = CERTIFICATE_DAYS, packed: PackedTask | None = None
    ) -> NodeId:
        """Write the enrolment file of a device that has made its own keys: it holds no secret.

        ``packed`` goes into it.

        Raises:
            ConfigError: Its name cannot be a node's, or has a valid certificate already.
            StorageError: Something cannot be written.
        """
        return self._admit([applicant_of(request, _node_id(request.node))], days, packed)[0]

    def renew(self, nodes: Sequence[str], *, days: int = CERTIFICATE_DAYS) -> list[NodeId]:
        """Write new enrolment files for nodes that are enrolled; their old certificates stay valid until they end.

        Raises:
            ConfigError: A node is not enrolled, or was revoked.
            StorageError: Something cannot be written.
        """
        names = [_node_id(text) for text in nodes]
        with locked(self.folder.register):
            register = load_register(self.folder.register)
            applicants = [_renewed(register, name) for name in names]
            self._hand_out(register, applicants, days)
        return names

    def renew_server(self, *, days: int = CERTIFICATE_DAYS) -> None:
        """Give the broker and the coordinator new certificates; the broker keeps its host names.

        Raises:
            ConfigError: A file is missing or damaged.
            StorageError: Something cannot be written.
        """
        with locked(self.folder.register):
            register = load_register(self.folder.register)
            old = read_certificate(read_text(self.folder.broker_pair[0], bytes_max=BUNDLE_BYTES_MAX))
            names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            hosts = [str(name.value) for name in names]
            save_register(self.folder.register, self._issue_server(register, self._authority(), hosts, days))

    def revoke(self, nodes: Sequence[str]) -> list[NodeId]:
        """Revoke every certificate of these nodes, in the broker's list and in its access rules.

        Where all of them are revoked and listed already, nothing is written: a broker elsewhere may just have been
        given the list. What an earlier command has begun and not ended, such as on a full disk, is done now.

        Raises:
            ConfigError: A node is not enrolled.
            StorageError: Something cannot be written.
        """
        names = [_node_id(text) for text in nodes]
        with locked(self.folder.register):
            before = register = load_register(self.folder.register)
            for name in names:
                if not register.of(name):
                    raise ConfigError(name, "is not enrolled", source="command line")
                register = register.without(name, self.now)
            if register == before and self._is_listed():
                return names
            register = register.with_issued(self._refused_by_all(names[0]))
            save_register(self.folder.register, register)
            self._write_rules(register)
            for name in names:
                self.folder.bundle(name).unlink(missing_ok=True)
        return names

    def _is_listed(self) -> bool:
        """Whether the list has the last certificate that every broker must refuse: then all rules were written."""
        try:
            made = read_certificate(read_text(self.folder.revoked_pair[0], bytes_max=BUNDLE_BYTES_MAX))
            listed = listed_serials(read_text(self.folder.revoked, bytes_max=LIST_BYTES_MAX))
        except ConfigError:
            return False
        return self.folder.revoked_pair[1].exists() and made.serial_number in listed

    def _refused_by_all(self, name: NodeId) -> Issued:
        """Make a certificate that is revoked from the first: a broker that accepts it has not read its list."""
        made = new_identity(self._authority(), name, purpose=Purpose.CLIENT, now=self.now, days=AUTHORITY_DAYS)
        _write_pair(self.folder.revoked_pair, made)
        return Issued.of(name, made.certificate).model_copy(update={"revoked": self.now})

    def successor(self, name: NodeId) -> Identity:
        """A certificate with a revoked node's name, for who takes over its connection, and with it ends it.

        It is in the next list of revoked certificates, and its access rules are those of a revoked node: none.

        Raises:
            StorageError: The register cannot be written.
        """
        with locked(self.folder.register):
            made = new_identity(self._authority(), name, purpose=Purpose.CLIENT, now=self.now, days=1)
            entry = Issued.of(name, made.certificate).model_copy(update={"revoked": self.now})
            save_register(self.folder.register, load_register(self.folder.register).with_issued(entry))
        return made

    def expiring(self, *, within_days: int) -> list[tuple[str, dt.datetime]]:
        """Names whose newest certificate ends soon or has ended, and when; revoked ones are left out."""
        newest = {one.name: one for one in load_register(self.folder.register).issued}
        limit = self.now + dt.timedelta(days=within_days)
        return [(name, one.ends) for name, one in newest.items() if one.revoked is None and one.ends <= limit]

    @staticmethod
    def is_server(name: str) -> bool:
        """Whether a certificate of this name is the broker's or the coordinator's."""
        return name == BROKER or name.startswith(RESERVED)

    def _admit(self, applicants: Sequence[Applicant], days: int, packed: PackedTask | None = None) -> list[NodeId]:
        names = [applicant.name for applicant in applicants]
        with locked(self.folder.register):
            register = load_register(self.folder.register)
            for name in names:
                if any(one.revoked is None and one.ends > self.now for one in register.of(name)):
                    raise ConfigError(name, "is enrolled: renew it, or revoke it first", source="command line")
            self._hand_out(register, applicants, days, packed)
        return names

    def _hand_out(
        self, register: Register, applicants: Sequence[Applicant], days: int, packed: PackedTask | None = None
    ) -> None:
        authority = self._authority()
        made = [issue_to(authority, one, now=self.now, days=days) for one in applicants]
        register = register.with_issued(*(one.entry for one in made))
        # The register first: what is not in it could never be revoked.
        save_register(self.folder.register, register)
        self._write_rules(register)
        coordinator_key = self._signing_key().public_pem
        for one in made:
            bundle = one.bundle(register, authority, coordinator_key, self._helpers())
            if packed is not None:
                bundle = bundle.model_copy(update=packed.members)
            write_text(self.folder.bundle(one.name), encode_bundle(bundle), mode=PRIVATE)

    def _helpers(self) -> tuple[str, ...]:
        """The helpers of masked sums, as the coordinator's settings in this folder list them.

        Raises:
            ConfigError: The settings cannot be read.
        """
        if not self.folder.config.exists():
            return ()
        try:
            settings = read_toml(read_text(self.folder.config, bytes_max=CONFIG_BYTES_MAX))
            return tuple(str(one) for one in settings.get("privacy", {}).get("helpers", ()))
        except (ValueError, AttributeError, TypeError) as error:
            raise ConfigError("privacy.helpers", f"cannot be read: {error}", source=str(self.folder.config)) from error

    def _issue_server(self, register: Register, authority: Identity, hosts: Sequence[str], days: int) -> Register:
        entries = []
        for connection in CONNECTIONS:
            name = coordinator_name(register.federation, connection)
            made = new_identity(authority, name, purpose=Purpose.CLIENT, now=self.now, days=days)
            _write_pair(self.folder.coordinator(connection), made)
            entries.append(Issued.of(name, made.certificate))
        broker = new_identity(authority, BROKER, purpose=Purpose.BROKER, now=self.now, days=days, hosts=hosts)
        _write_pair(self.folder.broker_pair, broker)
        return register.with_issued(*entries, Issued.of(BROKER, broker.certificate))

    def _write_rules(self, register: Register) -> None:
        valid = {one.name for one in register.issued if one.revoked is None}
        rules = access_rules(
            FederationId(register.federation),
            control=coordinator_name(register.federation, "control"),
            data=coordinator_name(register.federation, "data"),
            revoked={one.name for one in register.issued} - valid,
        )
        write_text(self.folder.broker / "acl", rules, mode=PRIVATE)
        write_text(self.folder.node_keys, node_keys_text(register.signing_keys(self.now)), mode=PUBLIC)
        # The list last: what it has is proof of the others.
        revoked = [Revoked(serial=int(one.serial), at=one.revoked) for one in register.issued if one.revoked]
        listed = revocation_list(self._authority(), revoked, begins=self._list_begin())
        write_text(self.folder.revoked, listed, mode=PUBLIC)

    def _list_begin(self) -> dt.datetime:
        """Later than the list that is there: a broker that has read both believes the later one, in whole seconds.

        Not later than one that is damaged, or that a clock which was ahead has dated into the future: a broker believes
        neither, and with such a list it lets nobody in.
        """
        usual = self.now - BACKDATED
        try:
            next_one = list_begin(read_text(self.folder.revoked, bytes_max=LIST_BYTES_MAX)) + dt.timedelta(seconds=1)
        except ConfigError:
            return usual
        return max(usual, next_one) if next_one < self.now else usual

    def _authority(self) -> Identity:
        certificate, key = (read_text(path, bytes_max=BUNDLE_BYTES_MAX) for path in self.folder.authority)
        return read_identity(certificate, key, source="authority")

    def _signing_key(self) -> SigningKey:
        """The coordinator's; a folder that was made before there were signatures gets one."""
        path = self.folder.signing_key
        if not path.exists():
            write_text(path, SigningKey.new().pem, mode=PRIVATE)
        return read_signing_key(read_text(path, bytes_max=BUNDLE_BYTES_MAX), source=path.name)


def coordinator_name(federation: str, connection: str) -> str:
    """The common name, and with it the client id, of one of the coordinator's connections."""
    return f"{RESERVED}{federation}-{connection}"


def _renewed(register: Register, name: NodeId) -> Applicant:
    """A node that has made its keys keeps them: nobody else could give it the private halves."""
    valid = [one for one in register.of(name) if one.revoked is None]
    if not valid:
        raise ConfigError(name, "is not enrolled: enroll it", source="command line")
    return Applicant(name=name, device_key=valid[-1].device_key, signing=valid[-1].signing)


def _node_id(text: str) -> NodeId:
    try:
        name = validate_node_id(text)
    except LocalProtocolError as error:
        raise ConfigError("NODE", str(error), source="command line") from error
    if Fleet.is_server(name):
        raise ConfigError("NODE", f"{name!r} is no node's name: it is kept for the server", source="command line")
    return name


def _write_pair(paths: tuple[Path, Path], identity: Identity) -> None:
    certificate, key = paths
    # The key first: a certificate without its key is noticed, a key without its certificate is harmless.
    write_text(key, identity.key_pem, mode=PRIVATE)
    write_text(certificate, identity.certificate_pem, mode=PUBLIC)
