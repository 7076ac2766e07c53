"""What a message costs on a connection: processor time of one that goes out, is acknowledged, and comes back.

Run it with ``python -m benchmarks.connection`` (``--json``). A client says messages to itself through a real broker,
a few at a time, as a coordinator's answers and offers come. The reference is the same client with the library's own
reading and decoding, in turn; the figure is the ratio of the best of each.
"""

import argparse
import contextlib
import queue
import resource
import sys
from collections.abc import Iterator, Sequence

from benchmarks.table import Figure, show
from federation.runtime import client
from federation.runtime.local_broker import LocalBroker
from federation.runtime.log import configure_log
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import Inbox, MessageReceived, TransportConnected

ROUNDS, TURNS, TOGETHER = 6, 60, 5
PAYLOAD = bytes(3_400)
LIMIT_S = 30.0


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def librarys_own() -> Iterator[None]:
    """Read and decode as the library does."""
    kept, client.FAST_RELEASES = client.FAST_RELEASES, ()
    try:
        yield
    finally:
        client.FAST_RELEASES = kept


def message_us(url: str) -> float:
    """Processor time of a message, out and back, in microseconds."""
    inbox: Inbox = queue.Queue()
    transport = MqttTransport(parse_broker_url(url), SessionSettings(client_id="bench", connection="node"), inbox)
    transport.subscribe("bench/+")
    transport.open()
    try:
        while not isinstance(inbox.get(timeout=LIMIT_S).event, TransportConnected):
            pass
        _turn(transport, inbox)  # the first waits until the subscription stands
        before = _cpu_s()
        for _ in range(TURNS):
            _turn(transport, inbox)
        return (_cpu_s() - before) / (TURNS * TOGETHER) * 1e6
    finally:
        transport.close()


def _turn(transport: MqttTransport, inbox: Inbox) -> None:
    for _ in range(TOGETHER):
        transport.publish("bench/a", PAYLOAD)
    heard = 0
    while heard < TOGETHER:
        item = inbox.get(timeout=LIMIT_S)
        item.acknowledge()
        heard += isinstance(item.event, MessageReceived)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 where the bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.connection", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    configure_log(json=False, level="error")
    ours, theirs = list[float](), list[float]()
    with LocalBroker() as broker:
        for _ in range(ROUNDS):
            ours.append(message_us(broker.url))
            with librarys_own():
                theirs.append(message_us(broker.url))
    figure = Figure(
        what="a message out and back / with the library's own reading, processor time",
        measured=min(ours) / min(theirs),
        bar=0.7,
        note=f"{min(ours):.0f} and {min(theirs):.0f} us, best of {ROUNDS}",
    )
    return 0 if show("a connection", [figure], as_json=options.json, skipped={}) else 1


if __name__ == "__main__":
    sys.exit(main())
