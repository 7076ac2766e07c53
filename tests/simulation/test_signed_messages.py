"""Every second seed signs: nothing is heard without a signature, and nothing is lost by what is refused as too old."""

import pytest

from federation.protocol.limits import SIGNATURE_BYTES
from federation.protocol.messages import Message
from federation.protocol.signing import Writer
from federation.protocol.wire import split_signature
from fedmq.simulation.protocol.campaign import random_scenario
from fedmq.simulation.protocol.federation import Simulation, quiet_log

SEEDS = range(40)


def ran(seed: int) -> Simulation:
    with quiet_log():
        simulation = Simulation(random_scenario(seed), tail=1_000_000)
        outcome = simulation.run()
    assert not outcome.violations
    return simulation


def test_about_every_second_federation_signs() -> None:
    assert 10 < sum(random_scenario(seed).engine.signed for seed in SEEDS) < 30


@pytest.mark.parametrize("signed", [True, False])
def test_all_messages_are_signed_or_none(*, signed: bool) -> None:
    """FED-75, FED-76."""
    seed = next(seed for seed in SEEDS if random_scenario(seed).engine.signed is signed)
    lengths = {len(split_signature(payload)[1]) for payload in ran(seed).transcript.messages()}
    assert lengths == ({SIGNATURE_BYTES} if signed else {0})


def test_what_nobody_has_signed_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """FED-76: a federation whose nodes do not sign makes no version."""
    seed = next(seed for seed in SEEDS if random_scenario(seed).engine.signed)
    encode = Writer.encode

    def only_the_coordinator_signs(writer: Writer, topic: str, message: Message) -> bytes:
        own = topic in {writer.topics.round, writer.topics.coordinator_state} or topic.endswith("/cmd")
        return encode(writer if own else Writer(writer.topics), topic, message)

    monkeypatch.setattr(Writer, "encode", only_the_coordinator_signs)
    with quiet_log():
        outcome = Simulation(random_scenario(seed)).run()
    assert outcome.versions == 0
    assert any(violation.startswith("I6") for violation in outcome.violations)
