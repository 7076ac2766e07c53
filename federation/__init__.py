"""The contract: what a coordinator and an edge node must agree on."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["RELEASE"]

try:
    RELEASE = version("fedmq")
except PackageNotFoundError:
    RELEASE = "0+unknown"
"""Of the whole distribution; unknown where it runs from its sources alone."""
