"""What the wire allows and nobody honest says, through a helper's inbox, machine and store (FED-103)."""

import os
from dataclasses import replace
from io import StringIO
from pathlib import Path
from random import Random

import pytest

from federation.errors import LocalProtocolError
from federation.protocol.enumerations import Presence
from federation.protocol.messages import CoordinatorState, Grant, Message
from federation.protocol.signing import Writer
from federation.protocol.sum_messages import Held, SealedSeeds, SumOffer, Ticket
from federation.protocol.sum_schema import PRIVACY_TERMS
from federation.runtime.log import configure_log
from federation.types import Digest, Epoch, UpdateId
from tests.rigs.extreme_messages import Extremes
from tests.rigs.helper_rig import (
    BASE,
    COORDINATOR,
    HELPER,
    RUN,
    TOPICS,
    HelperRig,
    MaskedUpdate,
    MaskingNode,
    fleet,
    request,
    terms,
)

MESSAGES = int(os.environ.get("FEDMQ_EXTREMES", "500")) // 5
TERMS = terms()
ENDS = (0, 3, 4, 2**32 - 1)


class Liars:
    """A coordinator and nodes of which some of what they say is at an end of what is allowed."""

    def __init__(self, rng: Random, rig: HelperRig, nodes: list[MaskingNode]) -> None:
        self._rng, self._rig, self._nodes = rng, rig, nodes
        self._extremes = Extremes(rng, (RUN, "00000000000000bb"), ["1-n0"])
        self._held: list[MaskedUpdate] = []

    def say(self) -> Message:
        """Something; what cannot be said is something else."""
        kind = self._rng.random()
        if kind < 0.45 or not self._held:
            return self._seeds()
        if kind < 0.85:
            return self._request()
        if kind < 0.95:
            return self._extremes.varied(Grant(update=UpdateId("1-n0"), bitmap=b"", window=4))
        state = CoordinatorState(presence=Presence.ONLINE, run=RUN, epoch=Epoch(1), protocol_min=1, protocol_max=1)
        return self._extremes.varied(state)

    def _seeds(self) -> SealedSeeds:
        rng, node = self._rng, self._rng.choice(self._nodes)
        digest = BASE if rng.random() < 0.9 else Digest(bytes(16))
        made = node.update(rng.choice((1, 2, 3, 2**32 - 1)), TERMS, [self._rig.public], base=(rng.choice(ENDS), digest))
        sealed, kind = made.sealed(), rng.random()
        if kind < 0.3:
            return self._extremes.varied(sealed)
        if kind < 0.6:
            ticket = self._rig.inbound._tickets.decode(TOPICS.node_ticket(node.name), made.ticket)
            assert isinstance(ticket, Ticket)
            signed = Writer(TOPICS, node.key).encode(TOPICS.node_ticket(node.name), self._extremes.varied(ticket))
            return replace(sealed, ticket=signed)
        self._held.append(made)
        return sealed

    def _request(self) -> Message:
        rng = self._rng
        members = rng.sample(self._held, min(len(self._held), rng.choice((1, 5, 6, 8))))
        asked = rng.choice(((0,), (0, 0), (34,), ()))
        under = TERMS if rng.random() < 0.7 else self._extremes.of(PRIVACY_TERMS)
        try:
            made = request(members, under, version=rng.choice(ENDS), asked=asked)
            Writer(TOPICS, COORDINATOR).encode(TOPICS.helper_command(HELPER), made)
        except LocalProtocolError:
            return request(members, TERMS)
        return self._extremes.varied(made) if rng.random() < 0.4 else made


@pytest.mark.parametrize("seed", range(2))
def test_no_value_that_the_wire_allows_ends_a_helper(seed: int, tmp_path: Path) -> None:
    """Nor its next start; and it goes on holding what honest nodes seal to it."""
    configure_log(json=True, stream=StringIO())
    rng, nodes = Random(f"extremes of a helper/{seed}"), fleet(8)
    rig = HelperRig(tmp_path, nodes)
    liars = Liars(rng, rig, nodes)
    answers: list[Message] = []
    for _ in range(MESSAGES):
        rig.now += rng.choice((0.1, 1.0, 1_000.0))
        message = liars.say()
        rig.hear(message, topic=TOPICS.coordinator_state if isinstance(message, CoordinatorState) else None)
        answers += rig.take()
        if rng.random() < 0.03:
            rig.restart()
    rig.restart()
    rig.close()
    assert any(isinstance(each, Held | SumOffer) for each in answers)
