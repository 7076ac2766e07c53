"""What the wire allows and nobody honest says, from above and below, through a gateway and its real store (FED-103)."""

import os
from io import StringIO
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from federation.protocol.limits import INT64_MAX
from federation.protocol.messages import (
    Activity,
    Cancel,
    Decline,
    Grant,
    Message,
    Progress,
    Rebirth,
    ReceiptStatus,
    RetryAfter,
)
from federation.protocol.wire import decode_message, encode_message
from federation.runtime.log import configure_log
from federation.runtime.transport import MessageReceived
from federation.types import RoundId, UpdateId
from tests.rigs.extreme_messages import Extremes
from tests.rigs.gateway_rig import RUN, TOPICS, Rig, Site

TURNS = int(os.environ.get("FEDMQ_EXTREMES", "500")) // 50
SHARE = 0.35
"""Of all messages that have some field at an end."""

MessageT = TypeVar("MessageT", bound=Message)


class Liars(Rig):
    """A gateway of whose neighbours, above and below, some say what is at an end of what is allowed."""

    rng: Random
    extremes: Extremes | None = None
    updates: list[str]

    def lie(self, rng: Random) -> None:
        """From now on."""
        self.rng, self.updates = rng, ["0-n0"]
        self.extremes = Extremes(rng, (RUN, "00000000000000bb"), self.updates)

    def _said(self, message: MessageT) -> MessageT:
        lies = self.extremes is not None and self.rng.random() < SHARE
        return self.extremes.varied(message) if lies and self.extremes is not None else message

    def tell_above(self, message: Message) -> None:
        super().tell_above(self._said(message))

    def hear_below(self, item: object) -> None:
        if isinstance(item, MessageReceived):
            message = decode_message(item.payload)
            update = getattr(message, "update", None)
            if self.extremes is not None and update is not None and update not in self.updates:
                self.updates.append(update)
            payload = encode_message(self._said(message))
            item = MessageReceived(topic=item.topic, payload=payload, retained=item.retained)
        super().hear_below(item)

    def say_something(self) -> None:
        """Of what nobody says in the order of a round."""
        rng, number = self.rng, RoundId(self.above.round)
        update, node = UpdateId(rng.choice(self.updates)), rng.choice(list(self.nodes))
        above = (
            Cancel(run=RUN, round=number),
            RetryAfter(update=update, seconds=1.0),
            Rebirth(),
            Grant(update=update, bitmap=b"", window=4),
        )
        self.tell_above(rng.choice(above))
        decline = Decline(run=RUN, round=number, reason="no", retry_after_s=1.0)
        self.hear_below(MessageReceived(topic=TOPICS.node_event(node), payload=encode_message(decline)))
        told = Progress(round=number, activity=Activity.IDLE)
        self.hear_below(MessageReceived(topic=TOPICS.node_telemetry(node), payload=encode_message(told)))


@pytest.mark.parametrize("seed", range(2))
def test_no_value_that_the_wire_allows_ends_a_gateway(seed: int, tmp_path: Path) -> None:
    """Nor its next start; the site of a gateway below is among its nodes."""
    configure_log(json=True, stream=StringIO())
    rng = Random(f"extremes of a gateway/{seed}")
    rig = Liars(tmp_path, nodes=3, sites={"s1": Site(nodes=("a", "b"))}, members_max=8 * seed)
    rig.lie(rng)
    for _ in range(TURNS):
        rig.above.announce(asked=rng.random() < 0.9)
        rig.above.evaluation = rng.choice((None, INT64_MAX))
        for _ in range(2):
            rig.turn()
        rig.say_something()
        for update in [one for one in rig.above.offers if one not in rig.above.verdicts]:
            rig.above.judge(update, rng.choice((ReceiptStatus.APPLIED, ReceiptStatus.STALE)))
        if rng.random() < 0.1:
            rig.cut()
        elif rig.is_cut:
            rig.mend()
        if rng.random() < 0.1:
            rig.die()
            rig.start()
    rig.die()
    rig.start()
    rig.die()
