"""How small the next update must be to come in time.

A node on 16 kbit/s and one on a LAN get the same announcement. The slow one sends less: with error feedback the rest is
not lost, it comes with its next updates.
"""

from dataclasses import replace

from update_codec import CodecSpec

__all__ = ["BPP_MIN", "LINK_BYTES_MIN", "PROBE_BYTES", "within"]

BPP_MIN = 0.02
"""Less is not sent: the frame's header would be most of it."""

PROBE_BYTES = 8_192
"""What the `link` codec sends before anything was measured: 4 s at 16 kbit/s."""

LINK_BYTES_MIN = 256
"""The least that the `link` codec sends, in bytes: a header and a few of the largest entries."""


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
