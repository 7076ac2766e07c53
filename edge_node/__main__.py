"""``python -m edge_node`` is ``edge-node``."""

from federation.program import loaded

__all__ = ["main"]


def main() -> None:
    """Load the command, and run it."""
    loaded("edge_node.cli").main()


if __name__ == "__main__":
    main()
