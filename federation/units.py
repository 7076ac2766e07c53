"""Numbers with units, for people."""

from collections.abc import Mapping

__all__ = ["beside_fp32", "counted", "human_bytes", "human_metric", "human_share", "human_traffic", "tally"]


def counted(count: int, noun: str) -> str:
    """``1 node``, ``2 nodes``, ``1,024 nodes``: of a noun whose plural has an s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def tally(counts: Mapping[str, int]) -> str:
    """``finished 1, restarts 2``; what ends with a number itself has its count in front: ``2 x from 0 to 1``."""
    return ", ".join(
        f"{count:,} x {what}" if what[-1:].isdigit() else f"{what.replace('_', ' ')} {count:,}"
        for what, count in counts.items()
    )


def human_bytes(count: float) -> str:
    """``1536`` is ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def beside_fp32(sent: float, plain: float) -> str:
    """``1/40.1 of fp32``, or ``3.5 times fp32`` where more was sent; both are bytes above 0.

    Of a tiny model the messages around it are more than it is.
    """
    return f"1/{plain / sent:.1f} of fp32" if sent <= plain else f"{sent / plain:.1f} times fp32"


def human_traffic(count: float) -> str:
    """Bytes that were sent, ``-`` where none were counted: the models of a simulation do not travel."""
    return human_bytes(count) if count else "-"


def human_metric(name: str, value: float) -> str:
    """An accuracy of ``0.975`` is ``97.50%``; any other number, and what can be no share, is itself: ``0.1234``."""
    return f"{value:.2%}" if name.endswith("accuracy") and abs(value) <= 1 else f"{value:.4g}"


def human_share(share: float) -> str:
    """``0.25`` is ``25%``, and a thousandth is not ``0%``: ``0.1%``."""
    return f"{100 * share:.4g}%"
