"""``python -m fedmq`` is the ``fedmq`` command."""

from federation.program import loaded

__all__ = ["main"]


def main() -> None:
    """Load the command, and run it."""
    loaded("fedmq.cli").main()


if __name__ == "__main__":
    main()
