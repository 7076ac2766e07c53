"""How often a test repeats itself with other seeds: a few times in `make test`, all of them in `make coverage`."""

import os
from collections.abc import Sequence

__all__ = ["PARTS", "of"]

PARTS = int(os.environ.get("FEDMQ_CAMPAIGN_PARTS", "0"))
"""Of 25 seeds each in the campaign of both machines; 0 is a short one, `make coverage` takes 8."""


def of(every: Sequence[int], *, few: Sequence[int]) -> Sequence[int]:
    """Every seed in `make coverage`, these few in `make test`.

    Args:
        every: All seeds.
        few: Those of them that still show all that the test asks for.
    """
    assert set(few) <= set(every), "each of the few is one of all"
    return every if PARTS else few
