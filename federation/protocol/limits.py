"""The named limits of the protocol: each is checked before anything is allocated (PROTOCOL.md, FED-54)."""

import math
from collections.abc import Mapping
from typing import Final

MESSAGE_BYTES_MAX: Final = 65_000
"""Bytes of any message: with topic and MQTT header the packet stays below 64 KiB."""
HEADER_BYTES_MAX: Final = 4_096
"""Bytes of a message that carries neither an inline update nor a bitmap."""
ANNOUNCEMENT_BYTES_MAX: Final = HEADER_BYTES_MAX
"""Bytes of a round announcement, whatever the size of the fleet."""
GRANT_BYTES_MAX: Final = 8_192 + 256
"""Bytes of a grant: a bitmap of `CHUNKS_MAX` bits and its header."""
PROVEN_RECEIPT_BYTES_MAX: Final = 512
"""Bytes of a receipt in a proof, with its signature: ids and numbers only."""
PROOF_BYTES_MAX: Final = 2 * HEADER_BYTES_MAX + PROVEN_RECEIPT_BYTES_MAX + 256
"""Bytes of a proof: three messages of the coordinator, and its own header."""

SIGNATURE_BYTES: Final = 64
"""Bytes of a signature; with its key and length it adds 68 bytes to a message, within the message's own limit."""

CHUNK_BYTES: Final = 61_440
"""Bytes of a chunk's body: the default and the most; the whole packet stays below 64 KiB."""
CHUNK_BYTES_MIN: Final = 1_024
"""Bytes of the smallest chunk of an update that has more than `SMALL_CHUNKS_MAX` of them: each grant lists them all."""
SMALL_CHUNKS_MAX: Final = 256
"""Chunks that may be smaller."""
CHUNKS_MAX: Final = 65_536
"""Chunks of one payload."""
SEGMENT_CHUNKS: Final = 256
"""Chunks of one segment: what one wildcard subscription pulls without loss from the broker."""
PAYLOAD_BYTES_MAX: Final = CHUNKS_MAX * CHUNK_BYTES
"""Bytes of one payload (3.75 GiB); roles set much lower limits of their own."""

FINGERPRINT_BYTES: Final = 4
"""Bytes that name one node in a cohort."""
COHORT_NODES_MAX: Final = 600
"""Nodes that a cohort can list: an announcement that is at every other limit too stays within 4 KiB."""
COHORT_NODES_DESCRIBED_MAX: Final = 595
"""Nodes that a cohort lists beside the digest of the inputs' description, for the same reason."""
COHORT_NODES_MASKED_MAX: Final = 560
"""Nodes that a cohort lists beside the terms of masked sums, with or without that digest."""
PARTS_MAX: Final = 16
"""Model parts of one announcement."""
DELTA_INLINE_BYTES_MAX: Final = 1_024
"""Bytes of a delta that rides in the announcement."""

INPUTS_BYTES_MAX: Final = 3_072
"""UTF-8 bytes of the description of a task's inputs."""

HELPERS_MAX: Final = 7
"""Helpers of one federation that mask together."""
CLASSES_MAX: Final = 35
"""Seeds of one update: the subsets of 7 helpers with 3 of them."""
MASK_BITS_MAX: Final = 32
"""Bits of the modulus of a masked sum."""
LEVELS_MAX: Final = 2**23 - 1
"""Largest magnitude of a masked update's integers."""
DIMENSION_MAX: Final = 2**31
"""Parameters of a masked update."""
TAIL_MAX: Final = 65_535
"""Numbers of 32 bits at the end of a masked update."""
MEMBERS_LEAST: Final = 5
"""Fewest updates of which a sum is ever revealed; a helper asks for 8 unless it is told otherwise."""
MEMBERS_MAX: Final = 2_048
"""Most updates of one masked sum."""
RELEASES_MAX: Final = 10_000
"""Most sums of one run under correlated noise."""
BANDWIDTH_MAX: Final = 64
"""Most draws that the noise of one sum is made of."""
REFUSED_MEMBERS_MAX: Final = 128
"""Updates that a helper names when it refuses a sum."""
TICKET_BYTES_MAX: Final = 512
"""Bytes of a ticket, with its signature."""
BOX_BYTES_MAX: Final = 2_048
"""Bytes of the sealed seeds of one update for one helper."""
KEY_BYTES_MAX: Final = 1_280
"""Bytes of a public key to seal to; a hybrid one has 1,216."""
MASKED_INLINE_BYTES_MAX: Final = 46_080
"""Bytes of a masked update that rides in its offer, beside ticket and boxes."""
EVALUATION_METRICS_MAX: Final = 8
"""Metrics of which nodes tell only sums."""
EVALUATION_NODES: Final = 80
"""Nodes that a cohort lists less where the announcement names such metrics."""
MASKED_REPORT_BYTES_MAX: Final = 1_024
"""Bytes of a node's masked metrics."""
REPORT_BYTES_MAX: Final = 20_480
"""Bytes of a report: one with masks carries a ticket and a box for each helper."""
SUM_REQUEST_BYTES_MAX: Final = 36_864
"""Bytes of a request for a sum: a digest of each member, and its header."""

KEY_ID_BYTES: Final = 8
"""Bytes that tell one key to seal to from another."""
SEALING_KEY_BYTES_MAX: Final = 1_216
"""Bytes of a public key to seal to: that of the hybrid."""
CONTENT_KEY_BYTES: Final = 32
"""Bytes of the secret of an update that is sent in sealed chunks, and of the group key of a model's parts."""
TAG_BYTES: Final = 16
"""Bytes that a sealed chunk is longer than its body."""
WRAP_BYTES_MAX: Final = 1_168
"""Bytes of the box with a group key: that of the hybrid."""
SEAL_NODES: Final = 3
"""Nodes that a cohort lists less where the announcement says that its model is sealed, and how."""

AWAY_GRACE_S: Final = 60
"""A node that has left by the pace is missed so long after it was due, in seconds: it may find the broker busy."""

AWAY_S_MAX: Final = 11 * 86_400
"""The longest time that a node may say, in seconds: half as long again as the longest pace."""

CLAIM_BYTES: Final = 16
"""Bytes that name one update of a site to the coordinator above: 8 for its node, and 8 for itself."""
CLAIMS_MAX: Final = 2_048
"""Updates that the offer of a sum names; one of more names none."""
CLAIMED_INLINE_BYTES_MAX: Final = 30_720
"""Bytes of a sum that rides in its offer, beside what it names."""
COUNTED_MAX: Final = 128
"""Updates that a receipt names, which count elsewhere."""

ID_CHARS_MAX: Final = 64
"""Characters of a federation's or a node's name."""
NAME_BYTES_MAX: Final = 64
"""UTF-8 bytes of the name of a task or a device."""
SPEC_BYTES_MAX: Final = 40
"""UTF-8 bytes of a codec spec."""
RELEASE_BYTES_MAX: Final = 40
"""UTF-8 bytes of the name of a release of this software."""
CODECS_MAX: Final = 16
"""Codec specs that a node lists."""
REASON_BYTES_MAX: Final = 200
"""UTF-8 bytes of a reason in free text."""
SITE_NODES_NAMED_MAX: Final = 8
"""Nodes of a site that its gateway names in one report."""
SITE_REASON_BYTES_MAX: Final = 100
"""UTF-8 bytes of the reason that a gateway gives for one of them."""
WAIT_REASON_BYTES_MAX: Final = 32
"""UTF-8 bytes of the word for what a coordinator waits for."""
METRICS_MAX: Final = 16
"""Numbers in one map of metrics or of extra settings."""
METRIC_NAME_BYTES_MAX: Final = 32
"""UTF-8 bytes of the name of such a number."""

SECONDS_MAX: Final = 366 * 86_400.0
"""Seconds of any duration on the wire: a year."""
COHORT_NODES_PRIVATE_MAX: Final = 550
"""Nodes that a cohort lists in an announcement whose settings have ``privacy``."""
SPENT_KINDS_MAX: Final = 16
"""Kinds of steps in one ledger: of one sampling rate and one noise."""
INT32_MAX: Final = 2**32 - 1
"""Largest round id, model version, epoch, incarnation and step count."""
INT64_MAX: Final = 2**64 - 1
"""Largest seed and share."""
EXAMPLES_MAX: Final = 2**53 - 1
"""Largest number of examples: exact in a float64."""


def fit_text(text: str, bytes_max: int = REASON_BYTES_MAX) -> str:
    """The beginning of ``text`` that a text field can carry, with everything that is not printable as a space."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable.encode()[:bytes_max].decode(errors="ignore")


def fit_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The first `METRICS_MAX` finite numbers of a task's metrics, under names that a message can carry.

    A user's task may return anything; this keeps what can be said, so that a NaN loss never costs the update.
    """
    fitted = {fit_text(str(name), METRIC_NAME_BYTES_MAX): _number(value) for name, value in metrics.items()}
    usable = [(name, value) for name, value in fitted.items() if name and math.isfinite(value)]
    return dict(usable[:METRICS_MAX])


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
