"""How fast this node's updates get through, and how small the next one must be to come in time.

A node on 16 kbit/s and one on a LAN get the same announcement. The slow one sends less: with error feedback the rest is
not lost, it comes with its next updates.
"""

from dataclasses import dataclass, replace

from update_codec import CodecSpec

__all__ = ["Uplink", "within"]

UPLOAD_SHARE = 0.25
"""Of the lease that the upload may take: the model is pulled and trained in the rest."""

LEFT_SHARE = 0.5
"""Of what is left of the lease after the training: a rate that was measured once is not a promise."""

BPP_MIN = 0.02
"""Less is not sent: the frame's header would be most of it."""

PROBE_BYTES = 8_192
"""What the `link` codec sends before anything was measured: 4 s at 16 kbit/s."""

LINK_BYTES_MIN = 256
"""The least that the `link` codec sends, in bytes: a header and a few of the largest entries."""

_ELAPSED_S_MIN = 1e-3
_NEWEST = 0.5
"""Share of the newest measurement in the rate."""


@dataclass(slots=True)
class Uplink:
    """The rate of this node's uplink, from payloads, or parts of them, that got through without an interruption.

    Attributes:
        bytes_per_s: From the first byte sent to the receipt, or to the last grant before an interruption; None until
            something was measured.
    """

    bytes_per_s: float | None = None

    def measured(self, payload_bytes: int, elapsed_s: float) -> None:
        """So many bytes got through, and how long it took."""
        rate = payload_bytes / max(elapsed_s, _ELAPSED_S_MIN)
        known = rate if self.bytes_per_s is None else self.bytes_per_s
        self.bytes_per_s = known + _NEWEST * (rate - known)

    def budget_bytes(self, lease_s: float, left_s: float | None = None) -> int | None:
        """What gets through in time, in bytes; None when nothing is known.

        Args:
            lease_s: The whole lease, in seconds.
            left_s: What will be left of it when the training ends, in seconds; None is not known.
        """
        if self.bytes_per_s is None:
            return None
        seconds = lease_s * UPLOAD_SHARE
        if left_s is not None:
            seconds = max(0.0, min(seconds, left_s * LEFT_SHARE))
        return int(self.bytes_per_s * seconds)


def within(spec: CodecSpec, budget_bytes: int | None, parameters: int) -> CodecSpec:
    """The codec at a size that fits the budget: never above the rate that was asked for.

    Args:
        spec: What was asked for; only a codec with a rate and with error feedback may be lowered.
        budget_bytes: What may be sent, or None: `link` then sends a probe, another codec what was asked for.
        parameters: Of the model.
    """
    if spec.link:
        budget = PROBE_BYTES if budget_bytes is None else max(budget_bytes, LINK_BYTES_MIN)
        return spec.within_bytes(budget, parameters)
    if budget_bytes is None or not spec.feedback or spec.bpp is None or not parameters:
        return spec
    bpp = max(BPP_MIN, 8 * budget_bytes / parameters)
    return spec if bpp >= spec.bpp else replace(spec.plain(), bpp=bpp)
