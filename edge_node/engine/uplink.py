"""How fast this node's updates get through, and so how many bytes come in time."""

from dataclasses import dataclass

__all__ = ["Uplink"]

UPLOAD_SHARE = 0.25
"""Of the lease that the upload may take: the model is pulled and trained in the rest."""

LEFT_SHARE = 0.5
"""Of what is left of the lease after the training: a rate that was measured once is not a promise."""

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
