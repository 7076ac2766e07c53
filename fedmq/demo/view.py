"""What a person sees of the demo: a live table on a terminal, plain lines otherwise."""

from typing import Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from federation.units import human_bytes
from fedmq.demo.plan import DemoPlan
from fedmq.demo.story import Story

NEWS_LINES = 6
"""Sentences that stay visible under the live table."""


class View(Protocol):
    """Shows the story as it unfolds."""

    def say(self, sentence: str) -> None:
        """Show one sentence."""

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

    def refresh(self) -> None:
        """Lines do not change."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""


class LiveView:
    """A table of the nodes that is drawn in place, and the last sentences below it."""

    def __init__(self, console: Console, plan: DemoPlan, story: Story) -> None:
        self._plan, self._story = plan, story
        self._news: list[str] = []
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render, transient=False)

    def say(self, sentence: str) -> None:
        """Keep the sentence under the table."""
        self._news = [*self._news, sentence][-NEWS_LINES:]

    def refresh(self) -> None:
        """The table is drawn again by its own timer."""

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.refresh()
        self._live.stop()

    def _render(self) -> Group:
        story, plan = self._story, self._plan
        accuracy = f"   accuracy {story.accuracy[max(story.accuracy)]:.2%}" if story.accuracy else ""
        head = Text(f"{plan.task}: version {story.version} of {plan.rounds}{accuracy}", style="bold")
        return Group(head, node_table(story), *[Text(sentence, style="dim") for sentence in self._news])


def node_table(story: Story) -> Table:
    """The nodes and what they did, one row each."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("node", no_wrap=True)
    table.add_column("state", min_width=9, no_wrap=True)
    # Eighty columns have no room for what did not happen.
    failed = ["failed"] if any(node.failed for node in story.nodes.values()) else []
    for title in ("round", "applied", "stale", "refused", *failed, "back", "up", "down"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, node in story.nodes.items():
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
    return table


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
