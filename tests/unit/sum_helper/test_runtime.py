"""What a helper hears, and the thread that adds: nothing of a stranger's gets through, and a bug ends the process."""

import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from federation.errors import LocalProtocolError, TransportError
from federation.protocol.messages import Cancel, Message, RetryAfter
from federation.protocol.signing import Writer
from federation.protocol.sum_messages import SealedSeeds
from federation.runtime.transport import (
    Inbox,
    MessageReceived,
    TransportConnected,
    TransportDisconnected,
    TransportFailed,
)
from federation.types import RoundId, UpdateId
from sum_helper.engine.events import BrokerConnected, StopRequested, SumsComputed
from sum_helper.records import SumJob
from sum_helper.runtime.summing import SummingThread, add_masks, noise_from
from tests.rigs.helper_rig import COORDINATOR, HELPER, RUN, TOPICS, HelperRig, fleet, request, terms


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[HelperRig]:
    one = HelperRig(tmp_path, fleet(5))
    yield one
    one.close()


def test_connections_and_own_events_pass(rig: HelperRig) -> None:
    translate = rig.inbound.translate
    up = TransportConnected(connection="node", session_present=False, packet_bytes_max=1)
    assert translate(up) == BrokerConnected()
    assert translate(TransportDisconnected(connection="node", reason="x")) is None
    assert translate(StopRequested()) == StopRequested()
    with pytest.raises(TransportError, match="taken over"):
        translate(TransportFailed(connection="node", reason="taken over"))
    with pytest.raises(LocalProtocolError):
        translate("nothing of ours")
    with pytest.raises(ZeroDivisionError):
        translate(ZeroDivisionError())


def heard(rig: HelperRig, topic: str, message: Message, *, retained: bool = False) -> object:
    payload = Writer(TOPICS, COORDINATOR).encode(topic, message)
    return rig.inbound.translate(MessageReceived(topic=topic, payload=payload, retained=retained))


def test_what_is_no_command_or_on_another_topic_is_counted_and_dropped(rig: HelperRig) -> None:
    """FED-5, FED-4: a retained command would be obeyed again after each restart."""
    command, seeds = TOPICS.helper_command(HELPER), SealedSeeds(run=RUN, update=UpdateId("1-a"), ticket=b"t", box=b"b")
    assert heard(rig, command, Cancel(run=RUN, round=RoundId(1))) is None
    assert heard(rig, command, seeds, retained=True) is None
    assert heard(rig, TOPICS.coordinator_state, seeds) is None
    assert heard(rig, TOPICS.round, seeds) is None
    assert rig.inbound.refused == {"MalformedMessage": 4}
    assert rig.inbound.translate(MessageReceived(topic="fl/other/srv", payload=b"x")) is None
    assert rig.inbound.refused["MalformedTopic"] == 1
    assert heard(rig, command, RetryAfter(update=UpdateId("0-" + "a" * 32), seconds=1.0)) is None
    assert rig.inbound.translate(MessageReceived(topic=command, payload=b"")) is None
    own = MessageReceived(topic=TOPICS.helper_state(HELPER), payload=b"x")
    assert rig.inbound.translate(own) is None
    assert rig.inbound.refused.total() == 5


def job(rig: HelperRig) -> SumJob:
    under = terms()
    updates = [node.update(1, under, [rig.public]) for node in fleet(5)]
    asked = request(updates, under)
    return SumJob(request=asked, seeds={0: tuple((update.update, b"s" * 32) for update in updates)})


def test_the_thread_adds_what_it_is_given_and_ends_in_order(rig: HelperRig) -> None:
    inbox: Inbox = queue.Queue()
    thread = SummingThread(inbox, noise_from(bytes(32)))
    one = job(rig)
    thread.start(one)
    done = inbox.get(timeout=20).event
    assert done == SumsComputed(request=one.request, sums=add_masks(one, lambda _: None))
    assert thread.alive
    thread.close(timeout_s=20)
    assert not thread.alive


def test_a_bug_in_the_thread_is_told_where_it_ends_the_process(rig: HelperRig) -> None:
    def broken(_request: object) -> None:
        raise ZeroDivisionError

    inbox: Inbox = queue.Queue()
    thread = SummingThread(inbox, broken)
    thread.start(job(rig))
    with pytest.raises(ZeroDivisionError):
        rig.inbound.translate(inbox.get(timeout=20).event)
    thread.close(timeout_s=20)


def test_noise_is_a_function_of_the_secret_and_the_batch() -> None:
    from federation.protocol.enumerations import PrivacyUnit

    under = terms(tail=0, clip=1.0, step=0.1, noise=2.0, unit=PrivacyUnit.NODES, bits=12)
    nodes = fleet(5)
    from federation.privacy.boxes import Kem, KeyPair

    public = KeyPair.make(Kem.X25519).public
    one, two = (
        SumJob(request=request([node.update(number, under, [public]) for node in nodes], under), seeds={})
        for number in (1, 2)
    )
    drawn = noise_from(bytes(32))(one)
    assert drawn is not None
    codes, tail = drawn
    assert tail.shape == (0,)
    for secret, job, same in ((bytes(32), one, True), (bytes(32), two, False), (b"\x01" * 32, one, False)):
        again = noise_from(secret)(job)
        assert again is not None
        assert np.array_equal(codes, again[0]) is same
    plain = SumJob(request=request([nodes[0].update(1, terms(), [public])], terms()), seeds={})
    assert noise_from(bytes(32))(plain) is None
