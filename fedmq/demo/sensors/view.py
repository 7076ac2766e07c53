"""What a person sees of the pumps: on a terminal of 80 columns a row for each, and its score as it moves; or lines."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedmq.demo.sensors.figures import PumpStory, percentile
from fedmq.demo.sensors.replay import delays

__all__ = ["Board", "LiveView", "PlainView", "View"]

SPARK = 30
"""Blocks in a row: one for each `ROWS_PER_BLOCK` rows, as high as the mean of their scores."""

ROWS_PER_BLOCK = 25
BLOCKS = "▁▂▃▄▅▆▇█"
NEWS = 4


@dataclass(slots=True)
class Board:
    """What is known of the whole.

    Attributes:
        stories: By pump.
        phase: What happens now, for people.
        version: The newest model version.
        real: Whether the readings are the benchmark's.
        began: Monotonic seconds.
        news: The last sentences.
    """

    stories: Mapping[str, PumpStory]
    phase: str = "starts"
    version: int = 0
    real: bool = True
    began: float = field(default_factory=time.monotonic)
    news: list[str] = field(default_factory=list)


class View(Protocol):
    """Shows the board."""

    def say(self, sentence: str) -> None:
        """Show one sentence."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class PlainView:
    """One line per sentence, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self._console, self._began = console, time.monotonic()

    def say(self, sentence: str) -> None:
        """Print it, with the seconds since the begin."""
        sentence = f"{time.monotonic() - self._began:5.1f} s  {sentence}"
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""


class LiveView:
    """The board, drawn in place."""

    def __init__(self, console: Console, board: Board) -> None:
        self._board = board
        self._live = Live(console=console, refresh_per_second=6, get_renderable=lambda: drawn(board), transient=False)

    def say(self, sentence: str) -> None:
        """Keep it among the last sentences."""
        self._board.news.append(sentence)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def drawn(board: Board) -> Group:
    """The board as it is now, at most 24 lines of 80 columns for twelve pumps."""
    stories = board.stories.values()
    head = Text(f"{board.phase}", style="bold")
    head.append(f"  version {board.version}  {time.monotonic() - board.began:.0f} s", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
    for name, width in (("pump", 8), ("source", 10), ("rows", 5), ("score over time", SPARK), ("/bar", 5)):
        table.add_column(name, width=width, no_wrap=True, justify="right" if name in {"rows", "/bar"} else "left")
    table.add_column("", width=13, no_wrap=True)
    for story in stories:
        table.add_row(
            story.pump.name,
            Text(story.pump.source, style="dim"),
            str(story.sent),
            spark(story),
            "" if story.ratio is None else f"{story.ratio:.2f}",
            state(story),
        )
    late = percentile(delays(list(stories)), 99)
    foot = "above 1.00 of its bar a score is an alarm; row in, score out: "
    foot += "not yet" if late is None else f"p99 {late:.0f} ms"
    news = [Text(line[:79], style="cyan", no_wrap=True) for line in board.news[-NEWS:]]
    return Group(head, table, Text(foot, style="dim"), *news)


def spark(story: PumpStory) -> Text:
    """The newest scores as blocks, half as high at the threshold: red where all are above it, yellow where some are."""
    found: dict[int, list[float]] = {}
    for row, ratio in list(story.ratios.items()):
        found.setdefault(row // ROWS_PER_BLOCK, []).append(ratio)
    text = Text()
    for block in sorted(found)[-SPARK:]:
        ratios = found[block]
        height = min(len(BLOCKS) - 1, int(sum(ratios) / len(ratios) * len(BLOCKS) / 2))
        text.append(BLOCKS[height], style="red" if min(ratios) > 1 else "yellow" if max(ratios) > 1 else "green")
    return text


def state(story: PumpStory) -> Text:
    """What a person would want to know first."""
    if story.state in {"killed", "starts"}:
        return Text(story.state, style="magenta")
    alarm = story.ratio is not None and story.ratio > 1
    if story.is_faulty:
        return Text("FAULT, alarm" if alarm else "FAULT begins" if story.ratios else "FAULT", style="bold red")
    return Text("alarm" if alarm else story.state, style="yellow" if alarm else "")
