"""``python -m coordinator`` is the ``coordinator`` command."""

from federation.program import loaded

__all__ = ["main"]


def main() -> None:
    """Load the command, and run it."""
    loaded("coordinator.cli").main()


if __name__ == "__main__":
    main()
