"""The two clocks of a machine: one that people set, and the time that passes whatever they do."""

from dataclasses import dataclass

import pytest

__all__ = ["Clocks", "in_our_hands"]


@dataclass
class Clocks:
    """Seconds since 1970, as somebody has set them; and since the machine's start."""

    wall: float = 1e9
    passed: float = 100.0

    def pass_by(self, seconds: float, moved_s: float = 0.0) -> None:
        """Time passes, and meanwhile the wall clock is moved by so much."""
        self.wall, self.passed = self.wall + seconds + moved_s, self.passed + seconds


def in_our_hands(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """What this process reads from now on."""
    made = Clocks()
    monkeypatch.setattr("time.time", lambda: made.wall)
    monkeypatch.setattr("federation.runtime.clock.passed_s", lambda: made.passed)
    return made
