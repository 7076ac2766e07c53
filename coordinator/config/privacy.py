"""``[privacy]``: what those who carry contributions, or add them up, learn of them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from federation.config import Section
from federation.privacy.boxes import Kem

__all__ = ["PrivacySection", "SealingSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingSettings:
    """How a run is sealed.

    Attributes:
        on: Whether it is; what still comes sealed is opened all the same.
        kem: Of which kind keys are, the nodes' included.
        rotate_s: Age at which the coordinator takes another key, in seconds.
    """

    on: bool = False
    kem: Kem = Kem.X25519
    rotate_s: float = 86_400.0


class PrivacySection(Section):
    """``[privacy]``: who learns what, beside those whose data it is.

    Attributes:
        sealed: Updates, metrics and the model are closed to the broker; needs ``security.require_signatures``.
        kem: ``x25519``, or ``mlkem768_x25519``: what is recorded today stays closed to a quantum computer, too.
        rotate_s: Age at which the coordinator takes another key that nodes seal to, in seconds.
    """

    sealed: bool = False
    kem: Literal["x25519", "mlkem768_x25519"] = "x25519"
    rotate_s: Annotated[float, Field(ge=60.0, le=31_622_400.0)] = 86_400.0

    @property
    def sealing(self) -> SealingSettings:
        """How a run is sealed."""
        return SealingSettings(on=self.sealed, kem=Kem[self.kem.upper()], rotate_s=self.rotate_s)
