"""How fast this node's updates get through, and how small the next one must be to come in time.

A node on 16 kbit/s and one on a LAN get the same announcement. The slow one sends less: with error feedback the rest is
not lost, it comes with its next updates.
"""

from dataclasses import dataclass, replace

from update_codec import CodecSpec

__all__ = ["Uplink", "within"]

UPLOAD_SHARE = 0.25
"""Of the lease that the upload may take: the model is pulled and trained in the rest."""

BPP_MIN = 0.02
"""Less is not sent: the frame's header would be most of it."""

_ELAPSED_S_MIN = 1e-3
_NEWEST = 0.5
"""Share of the newest measurement in the rate."""


@dataclass(slots=True)
class Uplink:
    """The rate of this node's uplink, from payloads that got through in one go.

    Attributes:
        bytes_per_s: From the first byte sent to the receipt; None until something was measured.
    """

    bytes_per_s: float | None = None

    def measured(self, payload_bytes: int, elapsed_s: float) -> None:
        """A payload and how long it took."""
        rate = payload_bytes / max(elapsed_s, _ELAPSED_S_MIN)
        known = rate if self.bytes_per_s is None else self.bytes_per_s
        self.bytes_per_s = known + _NEWEST * (rate - known)

    def budget_bytes(self, lease_s: float) -> int | None:
        """What gets through in time within a lease, in bytes; None when nothing is known."""
        return None if self.bytes_per_s is None else int(self.bytes_per_s * lease_s * UPLOAD_SHARE)


def within(spec: CodecSpec, budget_bytes: int | None, parameters: int) -> CodecSpec:
    """The codec at a rate that fits the budget: never above the one that was asked for.

    Args:
        spec: What was asked for; only a codec with a rate and with error feedback may be lowered.
        budget_bytes: What may be sent, or None.
        parameters: Of the model.
    """
    if budget_bytes is None or not spec.feedback or spec.bpp is None or not parameters:
        return spec
    bpp = max(BPP_MIN, 8 * budget_bytes / parameters)
    return spec if bpp >= spec.bpp else replace(spec, bpp=bpp)
