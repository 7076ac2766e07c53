"""The identifiers and small values that both roles share."""

from typing import NewType

FederationId = NewType("FederationId", str)
"""Name of one federation: 1 to 64 characters of ``[A-Za-z0-9_-]``; a topic level."""

NodeId = NewType("NodeId", str)
"""Name of one edge node: 1 to 64 characters of ``[A-Za-z0-9_-]``; a topic level and the MQTT client id."""

RunId = NewType("RunId", str)
"""Identity of one coordinator store: 16 hexadecimal digits, drawn when the store is made."""

RoundId = NewType("RoundId", int)
"""Number of one announcement, reserved on disk before it is announced; never used twice in a run."""

ModelVersion = NewType("ModelVersion", int)
"""Number of one committed global model: 0 is the initial model, each commit adds exactly 1."""

UpdateId = NewType("UpdateId", str)
"""Identity of one update, ``{round}-{node}``: the node's whole contribution to a round (see `update_id`)."""

Epoch = NewType("Epoch", int)
"""Fencing number of a coordinator process: counts up at every start on the same store."""

Incarnation = NewType("Incarnation", int)
"""Boot number of an edge node: counts up at every start on the same state folder."""

Digest = NewType("Digest", bytes)
"""16 bytes of BLAKE2b."""

DIGEST_BYTES = 16


def update_id(round_id: RoundId, node: NodeId) -> UpdateId:
    """The one update that ``node`` can contribute to ``round_id``: unique by construction, safe in a topic level."""
    return UpdateId(f"{round_id}-{node}")
