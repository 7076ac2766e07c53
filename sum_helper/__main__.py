"""``python -m sum_helper`` is ``fedmq helper``."""

from federation.program import loaded

__all__ = ["main"]


def main() -> None:
    """Load the command, and run it."""
    loaded("sum_helper.cli").main()


if __name__ == "__main__":
    main()
