"""How long the coordinator takes to answer a control message while nodes upload large updates, and while none does.

A stranger declines a round of another run, and the coordinator asks it to introduce itself (Rebirth): one message each
way over the control connection, and nothing is saved in between.
"""

import queue
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.chaos.table import percentile
from benchmarks.large_run import COORDINATOR, FEDERATION, LargeRun, moment_s
from federation.protocol.messages import Decline
from federation.protocol.topics import Topics
from federation.protocol.wire import encode_message
from federation.runtime.local_broker import LocalBroker
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import Inbox, MessageReceived
from federation.types import FederationId, NodeId, RoundId, RunId

__all__ = ["Latencies", "measure_latencies"]

PROBER = NodeId("prober")
QUIET_PROBES = 200
ANSWER_S = 30.0
PAUSE_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Answers to control messages.

    Attributes:
        quiet_s: While no node uploads, in seconds.
        bulk_s: While at least one update is on its way, in seconds.
    """

    quiet_s: list[float]
    bulk_s: list[float]

    @property
    def ratio(self) -> float:
        """Median under bulk through median without."""
        return statistics.median(self.bulk_s) / statistics.median(self.quiet_s)

    def note(self) -> str:
        """The parts of the ratio, in milliseconds."""
        said = []
        for name, found in (("bulk", self.bulk_s), ("quiet", self.quiet_s)):
            p50, p95 = (1e3 * percentile(found, share) for share in (0.5, 0.95))
            said.append(f"{name} p50 {p50:.1f}, p95 {p95:.1f} ms of {len(found)}")
        return "; ".join(said)


@dataclass(slots=True)
class Prober:
    """Asks and waits, again and again, on a thread of its own.

    Attributes:
        samples: When each was asked, in seconds since 1970, and how long the answer took, in seconds.
    """

    transport: MqttTransport
    inbox: Inbox
    samples: list[tuple[float, float]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    enough: threading.Event = field(default_factory=threading.Event)

    def live(self) -> None:
        """Until it is over."""
        topics = Topics(FederationId(FEDERATION))
        asked = encode_message(Decline(run=RunId("0" * 16), round=RoundId(0), reason="latency"))
        while not self.over.wait(PAUSE_S):
            at, began_s = time.time(), time.monotonic()
            self.transport.publish(topics.node_event(PROBER), asked)
            if not self._answered():
                return
            self.samples.append((at, time.monotonic() - began_s))
            if len(self.samples) >= QUIET_PROBES:
                self.enough.set()

    def _answered(self) -> bool:
        while True:
            try:
                item = self.inbox.get(timeout=ANSWER_S)
            except queue.Empty:
                return False
            if isinstance(item.event, MessageReceived):
                return True


@contextmanager
def probing(broker: LocalBroker) -> Iterator[Prober]:
    """A prober at work."""
    inbox: Inbox = queue.Queue(1_000)
    session = SessionSettings(client_id="prober", first_connect_spread_s=0.0)
    transport = MqttTransport(parse_broker_url(broker.url), session, inbox)
    transport.subscribe(Topics(FederationId(FEDERATION)).node_command(PROBER))
    transport.open()
    prober = Prober(transport, inbox)
    thread = threading.Thread(target=prober.live, daemon=True)
    thread.start()
    try:
        yield prober
    finally:
        prober.over.set()
        thread.join()
        transport.close(timeout_s=2.0)


def measure_latencies(run: LargeRun) -> Latencies:
    """Both in the same run: first with every node stopped (SIGSTOP), then while all of them upload.

    Raises:
        RuntimeError: The coordinator did not answer in time.
    """
    for name in run.plan.names:
        run.fleet.send_signal(name, signal.SIGSTOP)
    # It is connected, and has read what is retained.
    run.wait(lambda: any(line.fields["reason"] == "nodes_min" for line in run.said("waiting", COORDINATOR)))
    with probing(run.broker) as prober:
        quiet, quiet_until = prober.enough.wait(ANSWER_S), time.time()
        for name in run.plan.names:
            run.fleet.send_signal(name, signal.SIGCONT)
        if not quiet:
            raise RuntimeError(f"the coordinator answered {len(prober.samples)} of {QUIET_PROBES} control messages")
        run.wait(lambda: len(run.said("transfer_complete")) == run.plan.nodes)
    uploads = _uploads(run)
    return Latencies(
        quiet_s=[took for at, took in prober.samples if at < quiet_until],
        bulk_s=[took for at, took in prober.samples if any(began <= at < ended for began, ended in uploads)],
    )


def _uploads(run: LargeRun) -> list[tuple[float, float]]:
    """From when until when each update was on its way, in seconds since 1970."""
    offered: dict[object, float] = {}
    for line in run.said("update_offered"):
        offered.setdefault(line.fields["update"], moment_s(line))
    return [(offered[line.fields["update"]], moment_s(line)) for line in run.said("transfer_complete")]
