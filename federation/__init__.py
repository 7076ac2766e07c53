"""The contract: what a coordinator and an edge node must agree on."""

__all__ = ["RELEASE"]

RELEASE: str
"""Of the whole distribution; unknown where it runs from its sources alone."""


def __getattr__(name: str) -> str:
    """Look the release up when it is first asked for (PEP 562): it takes longer than many a command.

    Raises:
        AttributeError: There is no such name.
    """
    if name != "RELEASE":
        raise AttributeError(f"module 'federation' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - as it says above

    try:
        found = version("fedmq")
    except PackageNotFoundError:
        found = "0+unknown"
    globals()["RELEASE"] = found
    return found
