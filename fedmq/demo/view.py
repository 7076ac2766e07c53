"""What a person sees of the demo: a live table on a terminal, plain lines otherwise."""

from typing import Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from federation.task import task_label
from federation.units import human_bytes
from fedmq.demo.plan import DemoPlan
from fedmq.demo.story import NodeStory, Story

NEWS_LINES = 6
"""Sentences that stay visible under the live table, where the screen has room."""

PINNED_LINES = 3
"""Sentences of the kill and the return that stay above it."""

TABLE_LINES = 4
"""Lines of the table beside its rows."""

NODES_MIN = 2
"""Nodes in the table however small the screen is."""

BLOCKS = "▁▂▃▄▅▆▇█"


class View(Protocol):
    """Shows the story as it unfolds."""

    def say(self, sentence: str) -> None:
        """Show one sentence."""

    def pin(self, sentence: str) -> None:
        """Show one sentence that must not scroll away."""

    def refresh(self) -> None:
        """The story has changed."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class PlainView:
    """One line per sentence, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, sentence: str) -> None:
        """Print the sentence."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def pin(self, sentence: str) -> None:
        """Print the sentence: lines stay."""
        self.say(sentence)

    def refresh(self) -> None:
        """Lines do not change."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""


class LiveView:
    """What is drawn in place: how far it is, the kill and the return, the nodes, and the last sentences."""

    def __init__(self, console: Console, plan: DemoPlan, story: Story) -> None:
        self._console, self._plan, self._story = console, plan, story
        self._news: list[str] = []
        self._pinned: list[str] = []
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render, transient=False)

    def say(self, sentence: str) -> None:
        """Keep the sentence under the table."""
        self._news = [*self._news, sentence][-NEWS_LINES:]

    def pin(self, sentence: str) -> None:
        """Keep the sentence above the table."""
        self._pinned = [*self._pinned, sentence][-PINNED_LINES:]

    def refresh(self) -> None:
        """The table is drawn again by its own timer."""

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.refresh()
        self._live.stop()

    def _render(self) -> Group:
        """All of it, within the console's height: news give way first, then nodes."""
        width, height = self._console.size
        head = [_line(progress_line(self._plan, self._story, width), "bold")]
        if (curve := sparkline(self._story, width)) is not None and not self._console.options.ascii_only:
            head.append(_line(curve, "cyan"))
        head += [_line(sentence, "magenta") for sentence in self._pinned]
        rest = height - 1 - len(head) - TABLE_LINES
        nodes = max(NODES_MIN, min(len(self._story.nodes), rest))
        news = self._news[-max(0, rest - nodes) :] if rest > nodes else []
        return Group(*head, node_table(self._story, nodes), *[_line(sentence, "dim") for sentence in news])


def _line(text: str, style: str) -> Text:
    """One line of the screen, whatever its width."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def progress_line(plan: DemoPlan, story: Story, width: int) -> str:
    """How many versions of all there are, as a bar and as a number, and what was reached last."""
    reached = f", accuracy {story.accuracy[max(story.accuracy)]:.2%}" if story.accuracy else ""
    told = f"{task_label(plan.task)}: version {story.version} of {plan.rounds}{reached}"
    cells = min(40, width - len(told) - 3)
    done = min(cells, cells * story.version // plan.rounds)
    return f"{told}  {'=' * done}{'-' * (cells - done)}" if cells >= 10 else told


def sparkline(story: Story, width: int) -> str | None:
    """The accuracy, or the loss where there is none, over all versions so far; None before there are two."""
    name, values = ("accuracy", story.accuracy) if story.accuracy else ("loss", story.loss)
    if len(values) < 2:
        return None
    ordered = [value for _, value in sorted(values.items())]
    cells = min(len(ordered), max(1, width - len(name) - 24))
    picked = [ordered[(at + 1) * len(ordered) // cells - 1] for at in range(cells)]
    low, high = min(ordered), max(ordered)
    step = (high - low) / (len(BLOCKS) - 1) or 1.0
    drawn = "".join(BLOCKS[round((value - low) / step)] for value in picked)
    low_text, high_text = (f"{low:.1%}", f"{high:.1%}") if name == "accuracy" else (f"{low:.3g}", f"{high:.3g}")
    return f"{name} {low_text} {drawn} {high_text}"


def node_table(story: Story, rows: int | None = None) -> Table:
    """The nodes and what they did, one row each; of more than ``rows`` the last line tells how many are left out.

    The payload is that of its updates, and what it pulled are parts of models: headers and announcements are in the
    bytes up and down of the run alone.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("node", no_wrap=True)
    table.add_column("state", min_width=9, no_wrap=True)
    # Eighty columns have no room for what did not happen.
    failed = ["failed"] if any(node.failed for node in story.nodes.values()) else []
    for title in ("round", "applied", "stale", "refused", *failed, "back", "payload", "pulled"):
        table.add_column(title, justify="right", no_wrap=True)
    left_out = 0 if rows is None or rows >= len(story.nodes) else len(story.nodes) - rows + 1
    for name, node in _most_told(story)[: len(story.nodes) - left_out] if left_out else story.nodes.items():
        table.add_row(
            name,
            _coloured(node.state),
            "" if node.round is None else str(node.round),
            str(node.applied),
            str(node.stale),
            str(node.refused),
            *(str(node.failed) for _ in failed),
            str(node.restarts),
            human_bytes(node.bytes_up),
            human_bytes(node.bytes_down),
        )
    if left_out:
        table.add_row(f"+ {left_out} more")
    return table


def _most_told(story: Story) -> list[tuple[str, NodeStory]]:
    """Those first to which something happened."""
    return sorted(
        story.nodes.items(), key=lambda one: not (one[1].restarts or one[1].failed or one[1].state == "killed")
    )


def failure_lines(story: Story) -> list[str]:
    """Whose work came to nothing, how often, and why the last time."""
    return [
        f"{name} failed {'once' if node.failed == 1 else f'{node.failed} times'}: {node.failure}"
        for name, node in story.nodes.items()
        if node.failed
    ]


def _coloured(state: str) -> str:
    colours = {"training": "yellow", "killed": "bold red", "failed": "red", "starting": "dim", "delivered": "green"}
    return f"[{colours[state]}]{state}[/]" if state in colours else state
