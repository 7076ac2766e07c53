"""``python -m sum_helper`` is ``fedmq helper``."""

from federation.program import Loading

__all__ = ["main"]


def main() -> None:
    """Load the command, and run it."""
    with Loading():
        from sum_helper.cli import main as run  # noqa: PLC0415 - it is what is waited for
    run()


if __name__ == "__main__":
    main()
