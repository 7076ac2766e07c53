"""What is known of a running demo, told by the log lines of its processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.units import counted
from fedmq.demo.processes import Line


@dataclass(slots=True)
class NodeStory:
    """One node as the demo sees it.

    Attributes:
        state: What it does now, for the table.
        round: The round that it is in, or None.
        applied: Updates that became part of a version.
        stale: Updates that came too late.
        refused: Updates that were refused.
        failed: Trainings that came to nothing, and updates that were refused.
        failure: Why, the last time.
        restarts: How often it was started again.
        bytes_up: Bytes of its update frames.
        bytes_down: Bytes of the model parts that it pulled.
    """

    state: str = "starting"
    round: int | None = None
    applied: int = 0
    stale: int = 0
    refused: int = 0
    failed: int = 0
    failure: str = ""
    restarts: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    _counted: set[tuple[str, str]] = field(default_factory=set)

    def is_new(self, what: str, fields: Mapping[str, object]) -> bool:
        """Whether this is heard of an update for the first time: after a restart it is offered and receipted again."""
        told = (what, str(fields.get("update", "")))
        if told in self._counted:
            return False
        self._counted.add(told)
        return True


@dataclass(slots=True)
class Story:
    """The whole demo: nodes, versions, and the last words of the coordinator.

    Attributes:
        nodes: Every node by its id.
        version: Newest committed version.
        accuracy: Accuracy by version, as far as it was evaluated.
        loss: The same of the loss.
        accepted: Updates by version.
        finished: Whether the coordinator has said that the run is over.
        failing: Nodes whose last training came to nothing, with the reason.
        unmoved: Nodes none of whose trainings has changed anything.
        why_unmoved: What may be the reason, as a node has said it.
    """

    nodes: dict[str, NodeStory]
    version: int = 0
    accuracy: dict[int, float] = field(default_factory=dict)
    loss: dict[int, float] = field(default_factory=dict)
    accepted: dict[int, int] = field(default_factory=dict)
    finished: bool = False
    failing: dict[str, str] = field(default_factory=dict)
    unmoved: set[str] = field(default_factory=set)
    why_unmoved: str = ""
    _moved: bool = False
    _failed: int = 0
    _stored: bool = False
    _unsaved: dict[str, str] = field(default_factory=dict)
    _told: set[tuple[str, str]] = field(default_factory=set)

    @property
    def hopeless(self) -> bool:
        """Whether every node fails, and, where something has ever come of one, has had a second chance."""
        enough = len(self.nodes) * (2 if self._stored else 1)
        return self.failing.keys() >= self.nodes.keys() and self._failed >= enough > 0

    @property
    def standing(self) -> str | None:
        """A sentence where all that was trained so far has changed nothing; None where anything has."""
        if self._moved or not self.unmoved:
            return None
        return f"nothing is learnt: {self.why_unmoved}"

    def hear(self, line: Line) -> str | None:
        """Take one line in; returns a sentence for people when it is worth one."""
        if line.event == "still_busy":
            return _busy_sentence(line.source, line.fields)
        if line.event == "data_without_end":
            return self._once("data", f"{line.source}: {line.fields.get('why')}")
        if line.source == "coordinator":
            return self._hear_coordinator(line.event, line.fields)
        node = self.nodes.get(line.source)
        if node is not None:
            _hear_node(node, line.event, line.fields)
            self._hear_movement(line)
        if line.event == "storage_failed":
            self._unsaved[line.source] = unsaved(line.fields)
        return None

    def _hear_movement(self, line: Line) -> None:
        """A node says whether its training has changed anything."""
        if line.event == "training_finished":
            self._moved = self._moved or bool(line.fields.get("moved", True))
        elif line.event == "nothing_moved":
            self.unmoved.add(line.source)
            self.why_unmoved = str(line.fields.get("why"))

    def _hear_coordinator(self, event: str, fields: Mapping[str, object]) -> str | None:
        if event == "version_committed":
            version = _integer(fields, "version")
            self.version, self._failed = max(self.version, version), 0
            self.accepted[version] = _integer(fields, "accepted")
            if self.standing and len(self.unmoved) >= self.accepted[version]:
                return self._once("training", self.standing)
        elif event == "evaluated":
            metrics = fields.get("metrics")
            for name, values in (("accuracy", self.accuracy), ("loss", self.loss)):
                value = metrics.get(name) if isinstance(metrics, dict) else None
                if isinstance(value, int | float):
                    values[_integer(fields, "version")] = float(value)
            return self._version_sentence(_integer(fields, "version"))
        elif event == "finished":
            self.finished = True
        elif event == "evaluation_failed":
            return self._once("evaluation", f"the evaluation fails: {_last_line(fields.get('exception'))}")
        return self._hear_of_work(event, str(fields.get("node", "?")), fields)

    def _hear_of_work(self, event: str, node: str, fields: Mapping[str, object]) -> str | None:
        """What becomes of what one node was asked for."""
        reason = str(fields.get("reason", "?"))
        match event:
            case "update_stored":
                self.failing.pop(node, None)
                self._stored = True
            case "node_declined":
                if reason == "storage" and node in self._unsaved:
                    reason = f"it cannot save: {self._unsaved[node]}"
                return self._fails(node, reason)
            case "update_refused":
                self._fails(node, f"its update was refused: {fields.get('detail') or reason}")
                return f"{node}: update refused ({reason})"
            case "update_stale":
                return f"{node}: update stale ({reason})"
            case _:
                pass
        return None

    def _fails(self, name: str, reason: str) -> str | None:
        """A node's work came to nothing: told once for each node and reason."""
        self.failing[name] = reason
        self._failed += 1
        if (node := self.nodes.get(name)) is not None:
            node.failed, node.failure, node.state = node.failed + 1, reason, "failed"
        return self._once(name, f"{name} fails: {reason}")

    def _once(self, whose: str, sentence: str) -> str | None:
        if (whose, sentence) in self._told:
            return None
        self._told.add((whose, sentence))
        return sentence

    def _version_sentence(self, version: int) -> str | None:
        if version == 0:
            return None
        reached = f", loss {self.loss[version]:.4g}" if version in self.loss else ""
        if version in self.accuracy:
            reached = f", accuracy {self.accuracy[version]:.2%}"
        return f"version {version}: {counted(self.accepted.get(version, 0), 'update')}{reached}"


def _busy_sentence(name: str, fields: Mapping[str, object]) -> str:
    place = f" ({fields['at']})" if fields.get("at") else ""
    return f"{name}: {fields.get('doing')} takes {fields.get('seconds')} seconds already{place}"


def unsaved(fields: Mapping[str, object]) -> str:
    """Why a process cannot save, as it says it itself."""
    return str(fields.get("detail") or fields.get("reason") or "see its log")


def _last_line(traceback: object) -> str:
    lines = str(traceback or "").strip().splitlines()
    return lines[-1] if lines else "see its log"


def _hear_node(node: NodeStory, event: str, fields: Mapping[str, object]) -> None:
    match event:
        case "node_started" | "connected":
            node.state = "idle"
        case "round_joined":
            node.state, node.round = "fetching", _integer(fields, "round")
        case "model_fetched":  # what the announcement carried was not pulled
            node.bytes_down += _integer(fields, "pulled" if "pulled" in fields else "bytes")
        case "training_started":
            node.state, node.round = "training", _integer(fields, "round")
        case "training_finished":
            node.state = "uploading"
        case "update_offered" if node.is_new(event, fields):
            node.bytes_up += _integer(fields, "bytes")
        case "receipt":
            status = str(fields.get("status", ""))
            _hear_receipt(node, status, is_new=node.is_new(status, fields))
        case _:
            pass


def _hear_receipt(node: NodeStory, status: str, *, is_new: bool) -> None:
    match status:
        case "stored":
            node.state = "delivered"
        case "applied":
            node.applied += is_new
        case "stale":
            node.stale += is_new
        case "refused":
            node.refused += is_new
        case _:
            return
    if node.state in {"uploading", "delivered"}:
        node.state = "idle" if status != "stored" else "delivered"


def _integer(fields: Mapping[str, object], key: str) -> int:
    value = fields.get(key, 0)
    return value if isinstance(value, int) else 0
