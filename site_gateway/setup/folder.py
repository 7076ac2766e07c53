"""A gateway's folder: its own settings, and those of both its roles."""

from dataclasses import dataclass
from pathlib import Path

from federation.errors import ConfigError
from site_gateway.config import ABOVE, BELOW, CONFIG_FILE

__all__ = ["Wanted", "make_folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a new gateway is told.

    Attributes:
        name: Its name as a node of the federation above.
        federation: The federation's name, above and below.
        above: URL of the broker above.
        below: URL of the site's own broker.
        task: What is trained.
        form: ``exact`` or ``mean``.
        nodes: How many nodes of the site train at once, at most.
        seed: ``task.seed`` of the federation above.
    """

    name: str
    federation: str
    above: str
    below: str
    task: str
    form: str = "exact"
    nodes: int = 100
    seed: int = 0


def make_folder(folder: Path, wanted: Wanted) -> tuple[Path, ...]:
    """Write the three files of a gateway.

    Returns:
        The files.

    Raises:
        ConfigError: There is one already.
    """
    files = {
        CONFIG_FILE: f'[gateway]\nform = "{wanted.form}"\nmembers_max = {wanted.nodes}\n',
        ABOVE: _above(wanted),
        BELOW: _below(wanted),
    }
    for name in files:
        if (folder / name).exists():
            raise ConfigError(str(folder), f"has a {name} already: take another folder, or edit that file")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return tuple(folder / name for name in files)


def _above(wanted: Wanted) -> str:
    return f"""# As a node of the federation above; every key of an edge node's settings may stand here.
[federation]
id = "{wanted.federation}"

[node]
id = "{wanted.name}"

[broker]
url = "{wanted.above}"

[task]
name = "{wanted.task}"

[bounds]
train_s_max = 86400.0

[store]
folder = "{{here}}/state/above"
"""


def _below(wanted: Wanted) -> str:
    return f"""# As the coordinator of the site; every key of a coordinator's settings may stand here.
# What is trained, and how, comes from above. lease_s and max_wait_s must leave time for the way up.
[federation]
id = "{wanted.federation}"

[broker]
url = "{wanted.below}"

[task]
name = "{wanted.task}"
seed = {wanted.seed}

[round]
concurrency = {wanted.nodes}
fraction = 1.0
quorum = 1
lease_s = 60.0
max_wait_s = 30.0
exit_when_finished = false

[store]
folder = "{{here}}/state/below"
"""
