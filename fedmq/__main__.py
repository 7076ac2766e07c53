"""``python -m fedmq`` is the ``fedmq`` command."""

from federation.program import Loading

__all__ = ["main"]


def main() -> None:
    """Load the command, and run it."""
    with Loading():
        from fedmq.cli import main as run  # noqa: PLC0415 - it is what is waited for
    run()


if __name__ == "__main__":
    main()
