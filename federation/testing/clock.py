"""A clock that only a test moves."""


class FakeClock:
    """Monotonic seconds that stand still until `advance`."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Let ``seconds`` pass, and return the new time.

        Raises:
            ValueError: Time does not go back.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        self._now += seconds
        return self._now
