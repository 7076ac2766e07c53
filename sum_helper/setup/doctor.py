"""``fedmq helper doctor`` and ``status``: what a helper needs and guards, and whether it can protect anybody here."""

import datetime as dt
import math
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from federation.config import broker_address
from federation.doctor import (
    FREE_BYTES_MIN,
    Finding,
    Verdict,
    check_clock,
    check_dial,
    check_folder,
    check_own_certificate,
    check_room,
    check_tls,
    check_versions,
    failed,
    judge_refusal,
    passed,
    passing_by,
    warned,
)
from federation.errors import FederationError, RemoteProtocolError
from federation.identity.signing_keys import enrolled_nodes, read_coordinator_key
from federation.privacy.accountant import gaussian_epsilon
from federation.protocol.messages import CoordinatorState, Presence
from federation.protocol.signing import Reader
from federation.protocol.topics import Topics
from federation.runtime.address import BrokerAddress
from federation.runtime.obstacles import read_obstacles
from federation.runtime.visit import Seen, visit_broker
from federation.types import FederationId
from federation.units import counted
from sum_helper.app import client_id, own_key
from sum_helper.config import HelperConfig
from sum_helper.setup.folder import key_line
from sum_helper.storage.store import open_read_only, read_ledger, read_totals

__all__ = ["check_apart", "check_register", "coordinators_here", "examine", "status"]

PROCESSES = Path("/proc")
DELTA = 1e-5
"""At which epsilon is told where the rules name no delta."""


def examine(config: HelperConfig) -> Iterator[Finding]:
    """Check everything; what needs a broker is left out when there is none."""
    yield check_versions()
    yield check_clock(time.time())
    state = check_folder(config.state_folder)
    yield state
    remedy = "make room: seeds that cannot be saved are not held"
    yield check_room(config.state_folder, bytes_min=FREE_BYTES_MIN, remedy=remedy)
    yield check_register(config)
    try:
        yield passed("own key", key_line(config.helper.id, own_key(config)))
        address = broker_address(config.broker)
    except FederationError as error:
        yield failed("keys", str(error), "see the paths in this setting, or begin with fedmq helper init")
        return
    yield check_apart(coordinators_here(), broker_here=_is_here(address))
    if config.broker.tls_certificate is not None:
        renewal = "ask for a new one (coordinator renew) and fedmq helper init FILE"
        now = dt.datetime.now(dt.UTC)
        yield check_own_certificate(config.broker.tls_certificate, now, owner=config.helper.id, renewal=renewal)
    yield from _check_broker(config, address, runs=state.verdict is Verdict.WARN)


def check_register(config: HelperConfig) -> Finding:
    """Whether so many nodes are admitted that a sum can ever be revealed."""
    try:
        admitted = len(enrolled_nodes(config.helper.register_file))
    except FederationError as error:
        return failed("register", str(error), "fedmq helper admit NODE=KEY, for each node that you know yourself")
    said, least = f"{counted(admitted, 'node')} admitted", config.rules.members_min
    if admitted < least:
        return failed("register", said, f"a sum has at least {least} of them: fedmq helper admit NODE=KEY")
    return passed("register", said)


def check_apart(coordinators: Mapping[int, str], *, broker_here: bool) -> Finding:
    """Whether this machine is another one than the coordinator's: else one person has both parts of every secret."""
    if coordinators:
        named = ", ".join(f"pid {pid}" for pid in coordinators)
        said = f"a coordinator runs on this machine ({named}): whoever runs it can read the seeds, too"
        return failed("apart", said, "run the helper on a machine of another administrator: here it protects nobody")
    if broker_here:
        said = "the broker is on this machine, and no coordinator that can be seen"
        return warned("apart", said, "see that the coordinator's administrator has no access to this machine")
    return passed("apart", "no coordinator and no broker on this machine")


def coordinators_here(processes: Path = PROCESSES) -> dict[int, str]:
    """Running coordinators that this user can see, by process id, with their words."""
    found = {}
    for entry in sorted(processes.glob("[0-9]*")):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        names = [Path(word).name for word in words]
        if "run" in names and {"coordinator", "coordinator.cli"} & set(names[: names.index("run")]):
            found[int(entry.name)] = " ".join(words).strip()
    return found


def status(config: HelperConfig) -> dict[str, object]:
    """What the helper holds and has revealed, by name; read from its store, also while it runs.

    Raises:
        StorageError: There is no store, or it cannot be read.
        ConfigError: The register cannot be read.
    """
    database = open_read_only(config.state_folder)
    try:
        totals, ledger = read_totals(database), read_ledger(database)
    finally:
        database.close()
    delta = config.rules.delta or DELTA
    nodes = {
        node: {"sums": releases, "epsilon": gaussian_epsilon(math.sqrt(spent), delta) if spent else None}
        for node, (releases, spent) in ledger.items()
    }
    newest = totals.newest
    return {
        "helper": config.helper.id,
        "incarnation": totals.identity.incarnation,
        "admitted": len(enrolled_nodes(config.helper.register_file)),
        "members_min": config.rules.members_min,
        "held": totals.held,
        "used": totals.used,
        "trouble": {
            ("broker" if name == "node" else name): why for name, why in read_obstacles(config.state_folder).items()
        },
        "sums": totals.batches,
        "newest": None
        if newest is None
        else {"run": newest[0], "version": newest[1], "members": newest[2], "at": _utc(newest[3])},
        "key_made": None if totals.key_s is None else _utc(totals.key_s),
        "unit": "nodes",
        "delta": delta,
        "nodes": nodes,
    }


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _is_here(address: BrokerAddress) -> bool:
    """Whether the broker's address is one of this machine's."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, _, _, place in found:
        try:
            with socket.socket(family, kind) as probe:
                probe.connect(place)  # datagrams: nothing is sent
                if probe.getsockname()[0] == place[0]:
                    return True
        except OSError:
            continue
    return False


def _check_broker(config: HelperConfig, address: BrokerAddress, *, runs: bool) -> Iterator[Finding]:
    """The way to the broker, and who coordinates there; ``runs``: the helper does."""
    dialled = check_dial(address)
    yield dialled
    if dialled.verdict is not Verdict.PASS:
        return
    secured = check_tls(address, time.time())
    if secured is not None:
        yield secured
        if secured.verdict is Verdict.FAIL:
            return
    if config.broker.tls_certificate is not None and runs:
        # A broker that takes the client id from the certificate would end the running helper's connection for ours.
        said = "not tried: the helper runs, and the broker would take this visit for it"
        yield passing_by(config.state_folder, said, "see the helper's own log")
        return
    topics = Topics(FederationId(config.federation.id))
    wanted = topics.coordinator_state
    seen = visit_broker(
        address,
        f"{client_id(config)}-doctor",
        filters=[wanted],
        probes=[],
        enough=lambda seen: wanted in seen.messages,
    )
    if not seen.accepted:
        yield judge_refusal(seen, with_certificate=config.broker.tls_certificate is not None)
        return
    yield passed("broker session", f"accepted, packets up to {seen.packet_bytes_max:,} bytes")
    yield _judge_coordinator(config, topics, seen)


def _judge_coordinator(config: HelperConfig, topics: Topics, seen: Seen) -> Finding:
    payload = seen.messages.get(topics.coordinator_state)
    if payload is None:
        return warned(
            "coordinator", "none has been here", "start it, or see the federation's name and the broker's ACL"
        )
    try:
        reader = Reader(topics, read_coordinator_key(config.security.coordinator_key))
        state = reader.decode(topics.coordinator_state, payload)
    except RemoteProtocolError as error:
        return failed("coordinator", str(error), "somebody else speaks there, or this helper was enrolled elsewhere")
    online = isinstance(state, CoordinatorState) and state.presence is Presence.ONLINE
    return passed("coordinator", "online") if online else warned("coordinator", "it is not online", "start it")
