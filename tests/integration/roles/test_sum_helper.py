"""A real helper process against a real broker: killed between two sums, it says what it said, and nothing else."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.privacy.masks import RUN, TOPICS, Job, Made, RealHelper, make_update, request_for
from federation.identity.signing_keys import SigningKey
from federation.privacy.boxes import Kem, KeyPair, PublicKey
from federation.protocol.enumerations import HeldStatus, Presence, SumReason
from federation.protocol.messages import CoordinatorState, Message
from federation.protocol.signing import Reader, Writer
from federation.protocol.sum_messages import Held, HelperState, SealedSeeds, SumOffer, SumRefusal, SumRequest
from federation.runtime.local_broker import LocalBroker
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.types import Epoch
from sum_helper.config import read_config
from sum_helper.setup.doctor import examine

pytestmark = pytest.mark.broker

JOB = Job(dimension=1_000, members=10)
LIMIT_S = 60.0


class Played(RealHelper):
    """The coordinator's side by hand."""

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "sum_helper", "run", "--config", str(self.folder)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def state(self, presence: Presence, incarnation: int) -> HelperState:
        found: list[HelperState] = []

        def is_it(topic: str, payload: bytes) -> bool:
            message = Reader(TOPICS).decode(topic, payload)
            if isinstance(message, HelperState) and (message.presence, message.incarnation) == (presence, incarnation):
                found.append(message)
            return bool(found)

        self.heard(is_it)
        return found[0]

    def answer(self, wanted: type[Message]) -> Message:
        found: list[Message] = []

        def is_it(topic: str, payload: bytes) -> bool:
            message = Reader(TOPICS).decode(topic, payload)
            found.extend([message] if isinstance(message, wanted) else [])
            return bool(found)

        self.heard(is_it)
        return found[0]

    def ask(self, asked: SumRequest, wanted: type[Message]) -> Message:
        self.say(asked)
        return self.answer(wanted)

    def hold(self, updates: list[Made]) -> None:
        for made in updates:
            self.say(SealedSeeds(run=RUN, update=made.update, ticket=made.ticket, box=made.boxes[0]))
        held: set[str] = set()
        while len(held) < len(updates):
            word = self.answer(Held)
            assert isinstance(word, Held)
            assert word.status is HeldStatus.HELD
            held.add(word.update)


@pytest.fixture
def played(broker: LocalBroker, tmp_path: Path) -> Iterator[Played]:
    one = Played(JOB, tmp_path, broker.url)
    one.settings()
    one.transport = MqttTransport(parse_broker_url(broker.url), SessionSettings(client_id="c"), one.inbox)
    for topic_filter in (TOPICS.helper_states, *TOPICS.helper_answers):
        one.transport.subscribe(topic_filter)
    one.transport.open()
    yield one
    one.transport.close(timeout_s=2.0)


def test_a_killed_helper_says_what_it_said_and_no_second_set(played: Played) -> None:
    """FED-152, FED-155: over SIGKILL, and an orderly end."""
    process = played.start()
    try:
        state = played.state(Presence.ONLINE, 1)
        public = PublicKey(kem=Kem(state.kem), raw=state.key)
        other = KeyPair.make(Kem.X25519).public
        updates = [
            make_update(JOB, node, key, [public, other], index)
            for index, (node, key) in enumerate(played.nodes.items())
        ]
        played.hold(updates)
        first = played.ask(request_for(JOB, updates[:8], 0), SumOffer)
        process.kill()
        process.wait(LIMIT_S)
        process = played.start()
        assert played.state(Presence.ONLINE, 2).state_id == state.state_id
        assert played.ask(request_for(JOB, updates[:8], 0), SumOffer) == first
        refused = played.ask(request_for(JOB, updates, 0), SumRefusal)
        assert isinstance(refused, SumRefusal)
        assert (refused.reason, len(refused.members)) == (SumReason.USED, 8 * 16)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
        played.state(Presence.OFFLINE, 2)
    finally:
        process.kill()
        process.wait(LIMIT_S)


def test_the_doctor_sees_broker_and_coordinator_and_who_speaks_in_its_name(played: Played) -> None:
    """A visit under a name of its own: a helper that runs is not disturbed."""
    config = read_config(played.folder, {}, environ={})

    def found() -> dict[str, str]:
        return {one.check: one.verdict for one in examine(config)}

    def lead(signer: SigningKey, presence: Presence) -> None:
        state = CoordinatorState(presence=presence, run=RUN, epoch=Epoch(1), protocol_min=1, protocol_max=1)
        topic = TOPICS.coordinator_state
        played.transport.subscribe(topic)
        played.transport.publish(topic, Writer(TOPICS, signer).encode(topic, state), retain=True)
        played.heard(lambda where, payload: where == topic and Reader(TOPICS).decode(where, payload) == state)

    first = found()
    assert (first["broker port"], first["broker session"], first["coordinator"]) == ("PASS", "PASS", "WARN")
    assert first["apart"] in {
        "WARN",
        "FAIL",
    }  # the broker is here; a coordinator of another test may be, too
    lead(played.coordinator, Presence.LOST)
    assert found()["coordinator"] == "WARN"
    lead(played.coordinator, Presence.ONLINE)
    assert found()["coordinator"] == "PASS"
    lead(SigningKey.new(), Presence.ONLINE)
    assert found()["coordinator"] == "FAIL"
