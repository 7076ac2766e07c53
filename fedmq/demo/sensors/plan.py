"""What one sensor demo runs: its options, and the settings of its coordinator and nodes."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from federation.errors import ConfigError
from fedmq.demo.sensors.pumps import COLUMNS, NORMAL_ROWS

__all__ = ["SensorPlan", "coordinator_toml", "node_toml"]

WINDOW = 60
PUMPS_MAX = 34
TASK = f"sensors/autoencoder?columns={','.join(COLUMNS)}&window={WINDOW}&model=conv&rows={NORMAL_ROWS}"
TASK += "&quantile=0.999&factor=1.3333"
"""With the threshold of the benchmark's own convolutional autoencoder: 4/3 of the 0.999 quantile of normal running."""

EPOCH_S = 1_583_749_000.0
"""The time of each pump's first row, in seconds since 1970: the benchmark's first day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorPlan:
    """What is run.

    Attributes:
        pumps: How many devices.
        versions: Model versions after which the run is over.
        learnt: Versions before the rest of the readings is replayed.
        history_rate: Rows a second of each pump while the normal rows are replayed.
        rate: The same afterwards.
        rows: Rows of each pump, at most; 0 is all.
        chaos: Whether one device is killed, and back.
        data: Folder of the benchmark; None looks where it is expected.
        federation: Its name.
    """

    pumps: int = 12
    versions: int = 20
    learnt: int = 8
    history_rate: float = 60.0
    rate: float = 30.0
    rows: int = 0
    chaos: bool = True
    data: Path | None = None
    federation: str = field(default_factory=lambda: f"pumps-{secrets.token_hex(3)}")

    def __post_init__(self) -> None:
        """Raises: ConfigError: An option is out of range."""
        for flag, value, low, high in (
            ("--pumps", self.pumps, 1, PUMPS_MAX),
            ("--versions", self.versions, 1, 500),
            ("--rate", self.rate, 1, 200),
        ):
            if not low <= value <= high:
                raise ConfigError(flag, f"{value} is not between {low} and {high}", source="command line")

    def topic(self, pump: str) -> str:
        """Where a pump's sensors speak."""
        return f"plant/{self.federation}/{pump}/sensors"

    def score_topic(self, pump: str) -> str:
        """Where its score is said."""
        return f"plant/{self.federation}/{pump}/score"


def coordinator_toml(plan: SensorPlan, url: str, state: Path) -> str:
    """The coordinator's settings."""
    return f"""
[federation]
id = "{plan.federation}"
[broker]
url = "{url}"
[store]
folder = "{state}"
[task]
name = "{TASK}"
[train]
local_epochs = 1
batch_size = 32
learning_rate = 0.001
optimizer = "adam"
[codec]
up = "balanced"
[round]
concurrency = {plan.pumps}
nodes_min = {plan.pumps}
quorum = {max(1, plan.pumps - 1)}
versions = {plan.versions}
lease_s = 20.0
max_wait_s = 3.0
[evaluation]
every = 0
"""


def node_toml(plan: SensorPlan, url: str, folder: Path, pump: str, program: Path) -> str:
    """A node's settings; its score service reads the same."""
    columns: Mapping[str, str] = {name: name for name in COLUMNS}
    listed = ", ".join(f'{name} = "{path}"' for name, path in columns.items())
    return f"""
[federation]
id = "{plan.federation}"
[node]
id = "{pump}"
[broker]
url = "{url}"
[task]
name = "{TASK}"
[store]
folder = "{folder / "state" / pump}"
[training]
nice = 19
[data]
flush_s = 0.5
report = false
[data.mqtt]
url = "{url}"
[[data.mqtt.topics]]
topic = "{plan.topic(pump)}"
columns = {{ {listed} }}
time = "time"
[model]
folder = "{folder / "model" / pump}"
program = "{program}"
worse_max = 1.0
keep = 2
[score]
topic = "{plan.score_topic(pump)}"
"""
