"""Whether a revoked node is really shut out: asked of the broker, and of the coordinator that runs beside it."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from coordinator.config.sections import CoordinatorConfig
from coordinator.enrolment.federation import Fleet
from coordinator.monitoring.state_files import read_enrolled
from coordinator.runtime.enrolled import keys_digest
from federation.config import broker_address
from federation.identity.certificates import Identity
from federation.identity.private_files import PRIVATE, write_text
from federation.runtime.address import BrokerAddress, TlsFiles
from federation.runtime.visit import Answer, knock
from federation.storage.folder import lock_holder
from federation.types import NodeId

__all__ = ["SHUT", "running_state", "still_open"]

SHUT = "shut out: the broker refuses revoked certificates, and no connection of theirs is open"
"""When nothing is open."""

PATIENCE_S = 5.0
"""How long broker and coordinator may take to notice, in seconds."""

KNOCK_S = 5.0
"""How long the broker may take for one step of a connection, in seconds; one that hangs is told as soon as this."""

PAUSE_S = 0.1

FoundT = TypeVar("FoundT")


def still_open(fleet: Fleet, config: CoordinatorConfig, names: Sequence[NodeId]) -> Iterator[str]:
    """What is not shut yet, in words for a person; nothing is: these nodes are shut out, proved.

    The broker must refuse a certificate that was revoked with theirs, and their connections are taken over and ended.
    A coordinator that runs with the state folder here must have taken note.

    Raises:
        ConfigError: A certificate cannot be loaded.
    """
    address = broker_address(config.broker)
    where = f"the broker at {address.host}:{address.port}"
    refused = replace(address, tls=_files(fleet, fleet.folder.revoked_pair))
    answer = _until(Answer.REVOKED, lambda: knock(refused, names[0], limit_s=KNOCK_S))
    match answer:
        case Answer.REVOKED:
            yield from _end_connections(fleet, address, names)
        case Answer.ACCEPTED:
            yield f"{where} still accepts a revoked certificate: it has not read broker/revoked.crl and broker/acl"
        case Answer.REFUSED:
            yield f"{where} refuses a revoked certificate, but not because it was revoked: see its log"
        case Answer.ABSENT:
            yield f"{where} does not answer, or is not this federation's"
    yield from _unaware(config)


def _end_connections(fleet: Fleet, address: BrokerAddress, names: Sequence[NodeId]) -> Iterator[str]:
    """A list of revoked certificates ends no connection that is open; whoever comes with the same name does."""
    for name in names:
        if _take_over(fleet, address, name) is not Answer.ACCEPTED:
            yield f"a connection of {name} may still be open: the broker at {address.host} did not let it be taken over"


def _take_over(fleet: Fleet, address: BrokerAddress, name: NodeId) -> Answer:
    with tempfile.TemporaryDirectory(prefix="fedmq-revoke-") as folder:
        pair = _written(fleet.successor(name), Path(folder))
        return knock(replace(address, tls=_files(fleet, pair)), name, limit_s=KNOCK_S)


def _written(identity: Identity, folder: Path) -> tuple[Path, Path]:
    pair = folder / "node.crt", folder / "node.key"
    for path, text in zip(pair, (identity.certificate_pem, identity.key_pem), strict=True):
        write_text(path, text, mode=PRIVATE)
    return pair


def _files(fleet: Fleet, pair: tuple[Path, Path]) -> TlsFiles:
    return TlsFiles(authority=str(fleet.folder.coordinator_authority), certificate=str(pair[0]), key=str(pair[1]))


def _unaware(config: CoordinatorConfig) -> Iterator[str]:
    """A coordinator that runs here and goes on counting on the node."""
    keys, state = config.security.node_keys, running_state(config.store.folder)
    if state is None:
        return
    pid = lock_holder(state)
    if keys is None or not config.security.require_signatures:
        yield f"the coordinator (pid {pid}) follows no list of nodes (security.node_keys): restart it"
    elif not _until(True, lambda: read_enrolled(state) == keys_digest(keys)):
        yield f"the coordinator (pid {pid}) has not taken note: restart it"


def running_state(state: Path) -> Path | None:
    """The state folder that a process has open: this one, or that of a run in it, as a gateway keeps it; None: none."""
    try:
        runs = sorted(one for one in state.iterdir() if one.is_dir())
    except OSError:
        runs = []
    return next((one for one in (state, *runs) if lock_holder(one) is not None), None)


def _until(wanted: FoundT, look: Callable[[], FoundT]) -> FoundT:
    """What ``look`` says once it is ``wanted``, or at the end of our patience."""
    by = time.monotonic() + PATIENCE_S
    while (found := look()) != wanted and time.monotonic() < by:
        time.sleep(PAUSE_S)
    return found
