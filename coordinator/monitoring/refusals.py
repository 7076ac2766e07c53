"""What it means that something was refused, and what to do, in a person's words: below the counts of who sent it."""

from collections.abc import Iterator, Mapping
from typing import Final

__all__ = ["refusal_lines"]

MEANINGS: Final[Mapping[str, str]] = {
    "bad_signature": (
        "not signed with the key that is enrolled here. If a node is not heard: coordinator renew DIR NODE, join its"
        " device again with the new file, and where the coordinator runs elsewhere, copy coordinator/nodes.json to it"
    ),
    "certificate_refused": (
        "somebody without a valid certificate of this federation: a stranger, or a device that was revoked or whose"
        " certificate has ended (coordinator enroll or renew)"
    ),
    "incompatible": "a message that this release does not know: coordinator and node are more than one release apart",
    "no_tls": "somebody without TLS: the address begins with mqtts://",
    "taken_over": (
        "a second connection with the same certificate; where it goes on, two devices have one enrolment file: enroll"
        " one of them under a name of its own"
    ),
}
"""Of those kinds that more often are a mistake than an attack; the others are in docs/how-to/enrol-a-fleet.md."""


def refusal_lines(incidents: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """A line for each kind that was counted and can be mended.

    Args:
        incidents: Counts by kind, by sender.
    """
    counted = {kind for kinds in incidents.values() for kind in kinds}
    for kind, meaning in MEANINGS.items():
        if kind in counted:
            yield f"{kind}: {meaning}"
