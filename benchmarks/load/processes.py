"""Broker and coordinator of a load: real processes, and what they cost."""

import datetime as dt
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from benchmarks.load import packets
from coordinator.enrolment.broker import FleetBroker
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from edge_node.setup.join import install
from federation.identity.signing_keys import CoordinatorKey, SigningKey, read_coordinator_key, read_signing_key
from federation.runtime.local_broker import BROKER_LIMITS, LocalBroker, free_port
from federation.types import FederationId, NodeId

__all__ = ["FEDERATION", "Broker", "Coordinator", "Cost", "DropWatch", "Enrolled", "cost_of", "started_broker"]

FEDERATION: Final = FederationId("plant")
DROPPED_TOPIC: Final = "$SYS/broker/publish/messages/dropped"
STOP_S: Final = 60.0
PING_S: Final = 10.0
PINGREQ: Final = b"\xc0\x00"
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has cost until now: CPU in seconds, resident memory now and at most, in bytes."""

    cpu_s: float
    rss: int
    rss_max: int


def cost_of(pid: int) -> Cost:
    """From ``/proc``.

    Raises:
        OSError: There is no such process any more.
    """
    times = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    sizes = dict[str, int]()
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in {"VmRSS", "VmHWM"}:
            sizes[name] = int(value.split()[0]) * 1024
    return Cost(cpu_s=(int(times[11]) + int(times[12])) / TICKS, rss=sizes["VmRSS"], rss_max=sizes["VmHWM"])


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A federation as ``coordinator init`` and ``coordinator enroll`` make it, with all nodes joined."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, names: list[NodeId], task: str) -> "Enrolled":
        """Enrol everybody: a certificate and a signing key each."""
        fleet = Fleet(folder=FleetFolder(folder / "plant"), now=dt.datetime.now(dt.UTC))
        plan = FleetPlan(federation=FEDERATION, hosts=("localhost",), port=free_port(), task=task, evaluate=False)
        fleet.create(plan)
        for name in fleet.enroll(names):
            install(fleet.folder.bundle(name), folder / "nodes" / name)
        return cls(folder)

    @property
    def plant(self) -> FleetFolder:
        """The coordinator's side."""
        return FleetFolder(self.folder / "plant")

    def signer(self, name: NodeId) -> SigningKey:
        """A node's key."""
        file = self.folder / "nodes" / name / "signing.key"
        return read_signing_key(file.read_text(encoding="ascii"), source=str(file))

    @property
    def coordinator_key(self) -> CoordinatorKey:
        """What nodes have pinned."""
        node = next((self.folder / "nodes").iterdir())
        return read_coordinator_key(node / "coordinator.pub")

    @property
    def monitor(self) -> ssl.SSLContext:
        """The coordinator's certificate, which it needs no more: it may read what the broker has dropped."""
        context = ssl.create_default_context(cafile=str(self.plant.coordinator_authority))
        context.load_cert_chain(*self.plant.coordinator("control"))
        return context

    def tls(self, name: NodeId) -> ssl.SSLContext:
        """A node's certificate."""
        node = self.folder / "nodes" / name
        context = ssl.create_default_context(cafile=str(node / "ca.crt"))
        context.load_cert_chain(node / "node.crt", node / "node.key")
        return context


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that runs.

    Attributes:
        port: Where it listens.
        pid: Its process.
        url: For the coordinator; None: its own configuration says it.
        silent_s: Within how many seconds it says anew how much it has dropped.
    """

    port: int
    pid: int
    url: str | None
    silent_s: float


@contextmanager
def started_broker(enrolled: Enrolled | None, *, tls: bool) -> Iterator[Broker]:
    """A Mosquitto with the limits of ``mosquitto/limits``; with ``tls`` that of the enrolled federation."""
    if tls and enrolled is not None:
        with FleetBroker(enrolled.plant.broker) as fleet_broker:
            yield Broker(port=_port_of(enrolled.plant), pid=fleet_broker.pid, url=None, silent_s=12.0)
        return
    with LocalBroker(settings={**BROKER_LIMITS, "sys_interval": "1"}) as broker:
        yield Broker(port=broker.port, pid=broker.pid, url=broker.url, silent_s=3.0)


def _port_of(plant: FleetFolder) -> int:
    lines = (plant.broker / "mosquitto.conf").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("listener "))


@dataclass(slots=True)
class Coordinator:
    """``coordinator run`` as a process.

    Attributes:
        keys: Settings, by section and name, as its environment has them.
        config: Folder of an enrolled federation, or None.
        log: Its log file.
    """

    keys: Mapping[str, str]
    config: Path | None
    log: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    def start(self) -> None:
        """Start it; it says on its own when it leads."""
        environ = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environ |= {f"FEDMQ_COORDINATOR__{name}": value for name, value in self.keys.items()}
        more = [] if self.config is None else ["--config", str(self.config)]
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "coordinator", "run", *more]
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        """Its process.

        Raises:
            RuntimeError: It has ended, and its log says why.
        """
        if self.process is None or self.process.poll() is not None:
            said = self.log.read_text(encoding="utf-8", errors="replace")[-2_000:]
            raise RuntimeError(f"the coordinator has ended:\n{said}")
        return self.process.pid

    def stop(self) -> None:
        """An orderly stop; what does not end is killed."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class DropWatch:
    """Hears from a broker's start on how many messages it has dropped.

    Mosquitto says it when it changes, and what it retains of that is gone after a minute: nobody can ask at the end.

    Args:
        broker: Which one; it has dropped nothing yet.
        tls: To reach it with certificates.
    """

    def __init__(self, broker: Broker, tls: ssl.SSLContext | None) -> None:
        self._broker, self._ended = broker, threading.Event()
        self._count: int | None = None
        plain = socket.create_connection(("127.0.0.1", broker.port), timeout=PING_S)
        self._wire = plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost")
        self._wire.sendall(packets.connect("load-monitor"))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Listens already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._ended.set()
        with suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._wire.close()

    def count(self) -> int | None:
        """How many until now, once the broker has had time to say it; None where it does not say it to us."""
        self._ended.wait(self._broker.silent_s)
        return self._count if self._thread.is_alive() else None

    def _listen(self) -> None:
        buffer = packets.Buffer()
        with suppress(OSError):
            while not self._ended.is_set():
                try:
                    data = self._wire.recv(65_536)
                except TimeoutError:
                    self._wire.sendall(PINGREQ)
                    continue
                if not data:
                    return
                for header, body in buffer.feed(data):
                    if header >> 4 == packets.CONNACK:
                        self._wire.sendall(packets.subscribe([DROPPED_TOPIC], mid=1))
                    elif header >> 4 == packets.PUBLISH and packets.published(header, body).topic == DROPPED_TOPIC:
                        self._count = int(packets.published(header, body).payload)
