"""What one demo runs: its options checked, and the configuration that they stand for."""

import importlib.util
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from coordinator.config.sections import read_config
from coordinator.config.settings import committer_settings, engine_settings
from coordinator.strategies.selection import make_selector
from federation.errors import ConfigError
from federation.protocol.limits import HELPERS_MAX
from federation.protocol.messages import TrainSettings
from federation.storage.folder import empty_folder
from federation.tasks.arguments import FILE_SUFFIX
from federation.tasks.data.partitioners import parse_partition
from federation.tasks.registry import BUILTIN_TASKS, default_rounds, default_settings
from fedmq.demo.fork_server import ALWAYS, WITHOUT_TORCH, modules_of

NODES_MAX = 200
"""More node processes than this do not fit one machine; the simulator takes thousands."""


LEVELS_MAX = 4
"""Each level has twice as many gateways as the one above, and a Mosquitto for each."""


FAN = 2
"""So many gateways stand below each one that is not of the lowest level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The options as they were given; None takes the default of the task or of the others.

    Attributes:
        task: Task name, or ``file.py:function``.
        nodes: Node processes.
        rounds: Model versions to commit.
        per_round: Assignments in flight.
        buffer: Updates that make a version; equal to ``per_round`` it is synchronous FedAvg, below it FedBuff.
        codec: Codec profile of the updates.
        codec_down: Codec profile of the model; None is the coordinator's choice.
        seed: Seed of data partition, initial model, selection and shuffles.
        chaos: Whether one node is killed in mid-training.
        data: Data folder, or None for the task's default.
        broker: URL of a running broker, or None to start one.
        partition: How the task's data is divided; None is the task's own way.
        selector: Who is asked.
        strategy: Its name; None is what fits.
        keep: Where the coordinator's state stays, or None for nowhere.
        helpers: Helpers of masked sums; 0 masks nothing.
        epsilon: Budget of each node, for noise that these add to the sums; None adds none.
        gateways: Sites with a broker and a gateway each, among which the nodes are dealt out; 0 is one flat federation.
        levels: Of coordinators; above two, each of these gateways has two below it, and so on: nodes are at the lowest.
    """

    task: str = "digits"
    nodes: int = 5
    rounds: int | None = None
    per_round: int | None = None
    buffer: int | None = None
    codec: str = "edge"
    codec_down: str | None = None
    seed: int = 0
    chaos: bool = True
    data: Path | None = None
    broker: str | None = None
    partition: str | None = None
    selector: str = "uniform"
    strategy: str | None = None
    keep: Path | None = None
    helpers: int = 0
    epsilon: float | None = None
    gateways: int = 0
    levels: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan(DemoOptions):
    """One demo, completely decided: the options with nothing left open.

    Attributes:
        settings: How nodes train.
        evaluate_every: Evaluate each n-th version; 0 is never.
        apart: Whether the coordinator is started as on a machine of its own: from nothing, its task in another process.
        federation: Its name: another one for each demo, so that two on one broker do not hear each other.
    """

    rounds: int
    per_round: int
    buffer: int
    strategy: str
    settings: TrainSettings
    evaluate_every: int = 1
    apart: bool = False
    federation: str = field(default_factory=lambda: f"demo-{secrets.token_hex(3)}")

    @property
    def synchronous(self) -> bool:
        """Whether every version waits for its whole cohort."""
        return self.buffer == self.per_round


def make_plan(options: DemoOptions) -> DemoPlan:
    """Check the options and fill in what was left open.

    Raises:
        ConfigError: An option is out of range or two do not fit together.
    """
    nodes = _between("--nodes", options.nodes, 1, NODES_MAX)
    # Above, a gateway is one node; each asks all nodes of its site.
    asked = _between("--gateways", options.gateways, 1, nodes) if options.gateways else nodes
    per_round = _between("--per-round", options.per_round or asked, 1, asked)
    together = options.per_round or options.gateways
    default_buffer = per_round if together else max(1, (2 * per_round + 2) // 3)
    buffer = _between("--buffer", options.buffer or default_buffer, 1, per_round)
    rounds = _between("--rounds", options.rounds or default_rounds(options.task), 1, 100_000)
    if options.helpers:
        _check_masked(options, buffer)
    elif options.epsilon is not None:
        raise ConfigError("--epsilon", "the helpers add the noise: say --helpers, too", source="command line")
    if options.gateways:
        _check_gateways(options)
    elif options.levels != DemoOptions().levels:
        raise ConfigError("--levels", "goes with --gateways: say how many", source="command line")
    if options.partition is not None:
        parse_partition(options.partition)
    if options.data is not None and not options.data.is_dir():
        raise ConfigError("--data", f"{options.data} is not a folder", source="command line")
    decided = {
        "task": _absolute_task(options.task),
        "rounds": rounds,
        "per_round": per_round,
        "buffer": buffer,
        "chaos": options.chaos and nodes > 1,
        "strategy": options.strategy or ("fedavg" if buffer == per_round else "fedbuff"),
    }
    if options.keep is not None:
        decided["keep"] = empty_folder(options.keep, "--keep")
    return DemoPlan(**asdict(options) | decided, settings=default_settings(options.task))


def gateway_names(count: int, levels: int = 2) -> tuple[tuple[str, ...], ...]:
    """The gateways of a demo, level by level, the highest first; whoever is below another one begins with its name."""
    names = [tuple(f"gateway-{number}" for number in range(count))]
    while len(names) < levels - 1:
        names.append(tuple(f"{name}-{number}" for name in names[-1] for number in range(FAN)))
    return tuple(names)


def _check_gateways(options: DemoOptions) -> None:
    for flag, given in (("--helpers", options.helpers), ("--broker", options.broker)):
        if given:
            raise ConfigError(flag, "does not go with --gateways: leave it out", source="command line")
    sites = len(gateway_names(options.gateways, _between("--levels", options.levels, 2, LEVELS_MAX))[-1])
    if options.nodes < sites:
        problem = (
            f"{sites} sites of the lowest level need a node each: --nodes {sites}, or fewer --gateways or --levels"
        )
        raise ConfigError("--levels", problem, source="command line")


def _check_masked(options: DemoOptions, buffer: int) -> None:
    """The coordinator would refuse these, too, but only once everybody has been started."""
    _between("--helpers", options.helpers, 1, HELPERS_MAX)
    if buffer < MEMBERS_MIN:
        problem = f"a masked sum has {MEMBERS_MIN} updates or more: --per-round {MEMBERS_MIN}, and as many --nodes"
        raise ConfigError("--helpers", problem, source="command line")
    if options.epsilon is not None and not 0 < options.epsilon <= EPSILON_MAX:
        raise ConfigError(
            "--epsilon", f"{options.epsilon:g} is not between 0 and {EPSILON_MAX:g}", source="command line"
        )
    if options.codec != DemoOptions().codec:
        raise ConfigError("--codec", "masked updates have a codec of their own: leave it out", source="command line")


EPSILON_MAX = 1e3
"""Largest budget that the coordinator takes."""

MEMBERS_MIN = 8
"""Fewest updates of a sum that helpers reveal, unless their administrators say otherwise."""

NODES_EVERY = 5
"""Versions from one evaluation on the nodes to the next, where they mask."""


def check_plan(plan: DemoPlan) -> None:
    """See, before a process starts, that the coordinator will take its settings and that the task can be imported.

    Raises:
        ConfigError: A value is unknown or two do not fit together, or a library is missing.
    """
    if plan.task in BUILTIN_TASKS or plan.task.partition("-")[0] in WITHOUT_TORCH:
        needed = {module.partition(".")[0] for module in modules_of(plan.task) if module not in ALWAYS}
        # Of scikit-learn only a file is read, so nobody imports it.
        needed |= {"sklearn"} if plan.task == "digits" else set()
        missing = sorted(name for name in needed if importlib.util.find_spec(name) is None)
        if missing:
            problem = f"{plan.task} needs {' and '.join(missing)}: pip install 'fedmq[torch,demo]'"
            raise ConfigError("--task", problem, source="command line")
    sections = coordinator_settings(plan, broker_url="mqtt://127.0.0.1", state=plan.keep or Path("coordinator"))
    flags = {f"{name}.{key}": value for name, values in sections.items() for key, value in values.items()}
    config = read_config(None, flags, environ={})
    engine_settings(config)
    committer_settings(config)
    make_selector(config.round.selector)


def is_told(plan: DemoPlan) -> bool:
    """Whether nodes evaluate, too: under masks, so that the coordinator sees only sums of what they measure."""
    return bool(plan.helpers) and plan.epsilon is None


def coordinator_settings(plan: DemoPlan, *, broker_url: str, state: Path) -> Mapping[str, Mapping[str, object]]:
    """The coordinator's configuration file of this demo, section by section."""
    # A zero is what the coordinator takes by itself where the strategy has no value of its own, as fedprox has.
    train = {k: v for k, v in asdict(plan.settings).items() if k not in {"extra", "seed"} and v}
    task: dict[str, object] = {"name": plan.task, "seed": plan.seed}
    if plan.data is not None:
        task["data"] = str(plan.data.resolve())
    return {
        "federation": {"id": plan.federation},
        "broker": {"url": broker_url},
        "store": {"folder": str(state)},
        "task": task,
        "train": train | {"seed": plan.seed},
        "codec": ({} if plan.helpers else {"up": plan.codec})
        | ({} if plan.codec_down is None else {"down": plan.codec_down}),
        "strategy": {"name": plan.strategy} | ({"nodes": plan.nodes} if plan.strategy == "scaffold" else {}),
        "round": {
            "concurrency": plan.per_round,
            "buffer": plan.buffer,
            "refill": plan.per_round if plan.synchronous else 1,
            "quorum": max(MEMBERS_MIN if plan.helpers else 1, plan.buffer // 2),
            "max_staleness": 0 if plan.synchronous else 10,
            "versions": plan.rounds,
            "nodes_min": plan.gateways or plan.nodes,
            "lease_s": 120.0,
            "max_wait_s": 60.0,
            "selector": plan.selector,
            "exit_when_finished": True,
        },
        # Its processes share the pages of what the task imports, and a further one would import it again.
        "evaluation": {"every": plan.evaluate_every, "apart": plan.apart}
        | ({"nodes_every": NODES_EVERY} if is_told(plan) else {}),
    }


def to_toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    """Write sections of plain values (strings, numbers, booleans, lists of these) as TOML."""
    lines: list[str] = []
    for name, values in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml_value(one)}' for key, one in value.items())} }}"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _between(flag: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ConfigError(flag, f"{value} is not between {low} and {high}", source="command line")
    return value


def _absolute_task(task: str) -> str:
    """A task file is found from every working directory."""
    name, question, arguments = task.partition("?")
    file, colon, function = (name, "", "") if name.endswith(FILE_SUFFIX) else name.rpartition(":")
    is_file = file.endswith((".py", FILE_SUFFIX))
    return f"{Path(file).resolve()}{colon}{function}{question}{arguments}" if is_file else task
