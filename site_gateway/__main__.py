"""``python -m site_gateway`` is ``fedmq gateway``."""

from federation.program import loaded

__all__ = ["main"]


def main() -> None:
    """Load the command, and run it."""
    loaded("site_gateway.cli").main()


if __name__ == "__main__":
    main()
