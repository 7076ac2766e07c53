"""Evaluations in the coordinator's database: what each node found, the mean of them, and the models kept for it."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from coordinator.records import Goal, NodeResult, NodesEvaluation, RoundRecord, believable, goal_of
from coordinator.storage.schema import RESULT, SURVEY
from coordinator.storage.store import CurvePoint
from federation.documents import read_mapping
from federation.errors import LocalProtocolError
from federation.storage.columns import Columns
from federation.storage.sql import Database, Readable
from federation.types import ModelVersion, NodeId

__all__ = [
    "close_survey",
    "count_evaluations",
    "insert_survey",
    "mean_of",
    "read_best",
    "read_curves",
    "read_evaluated",
    "read_results",
    "read_retained",
    "read_survey",
    "read_surveys",
    "save_result",
    "write_retained",
]

EXAMPLES_RATIO_MAX = 10
"""A node's test examples count up to this multiple of the median node's: its own word must not outweigh all others."""


def insert_survey(database: Database, record: RoundRecord) -> None:
    """Reserve the evaluation that a round announces; the same one again does nothing.

    Raises:
        LocalProtocolError: The version has been announced with another share.
    """
    if record.evaluation is None:
        return
    share = str(record.evaluation)
    known = database.execute("SELECT share FROM surveys WHERE version = ?", record.version).fetchone()
    if known is None:
        database.insert("surveys", {"version": record.version, "share": share})
    elif known["share"] != share:
        raise LocalProtocolError(f"the evaluation of version {record.version} has been reserved with another share")


def save_result(database: Database, result: NodeResult) -> None:
    """Keep a node's first word on a version.

    Raises:
        LocalProtocolError: No evaluation of this version was reserved.
    """
    read_survey(database, result.version)
    database.insert("node_results", RESULT.row(result), conflict="IGNORE")


def read_result(database: Database, version: ModelVersion, node: NodeId) -> NodeResult | None:
    """What a node found at a version."""
    row = database.execute("SELECT * FROM node_results WHERE version = ? AND node = ?", version, node).fetchone()
    return None if row is None else RESULT.record(row)


def read_results(database: Database, version: ModelVersion) -> tuple[NodeResult, ...]:
    """What all nodes found at a version, by name."""
    rows = database.execute("SELECT * FROM node_results WHERE version = ? ORDER BY node", version)
    return tuple(map(RESULT.record, rows))


def close_survey(database: Database, version: ModelVersion) -> NodesEvaluation:
    """Make the mean, once.

    Raises:
        LocalProtocolError: No evaluation of this version was reserved.
    """
    survey = read_survey(database, version)
    if survey.closed:
        return survey
    made = mean_of(survey, read_results(database, version))
    database.insert("surveys", SURVEY.row(made), conflict="REPLACE")
    return made


def mean_of(survey: NodesEvaluation, results: Iterable[NodeResult]) -> NodesEvaluation:
    """The closed evaluation, from the nodes that count, in any order.

    The mean is Σ w_i m_i / Σ w_i over the nodes that have the metric, w_i = min(n_i, `EXAMPLES_RATIO_MAX` · median n).
    In the median nobody counts for more than the node with the median n does; of two in the middle it is the worse.
    A gateway counts as the k nodes of its site that have evaluated, with an equal share each: k times in the median n,
    and up to k times as much.
    """
    counting = sorted((one for one in results if one.counted and one.num_examples > 0), key=lambda one: one.node)
    found = [replace(one, metrics=believable(one.metrics)) for one in counting]
    typical = _typical(found)
    metrics, medians = dict[str, float](), dict[str, float]()
    for name in sorted({name for one in found for name in one.metrics}):
        having = [one for one in found if name in one.metrics]
        metrics[name] = _mean(_capped(having, name, EXAMPLES_RATIO_MAX * typical))
        medians[name] = _median(_capped(having, name, typical), goal_of(name))
    return NodesEvaluation(
        version=survey.version,
        share=survey.share,
        closed=True,
        nodes=sum(one.nodes for one in counting),
        num_examples=sum(one.num_examples for one in counting),
        metrics=metrics,
        medians=medians,
    )


def _typical(found: Sequence[NodeResult]) -> int:
    """The lower median of the nodes' examples; a gateway stands there once for each of its nodes."""
    shares = sorted((max(1, one.num_examples // one.nodes), one.nodes) for one in found)
    place, passed = (sum(nodes for _, nodes in shares) - 1) // 2, 0
    for examples, nodes in shares:
        passed += nodes
        if passed > place:
            return examples
    return 0


def _capped(found: Iterable[NodeResult], name: str, most: int) -> list[tuple[float, int]]:
    """The values of a metric, each with its weight: up to ``most`` for each node."""
    return [(one.metrics[name], min(one.num_examples, one.nodes * most)) for one in found]


def _mean(values: Sequence[tuple[float, int]]) -> float:
    total = sum(weight for _, weight in values)
    # Divided first: so no product is larger than its value.
    return math.fsum(value * (weight / total) for value, weight in values)


def _median(values: Sequence[tuple[float, int]], goal: Goal) -> float:
    """The value at half of the weight, counted from the worst one."""
    half, passed = sum(weight for _, weight in values) / 2, 0
    ordered = sorted(values, reverse=goal is Goal.MIN)
    for value, weight in ordered:
        passed += weight
        if passed >= half:
            return value
    raise AssertionError


def read_surveys(database: Readable, after: int = -1) -> tuple[NodesEvaluation, ...]:
    """All evaluations of later versions on the nodes, in order."""
    rows = database.execute("SELECT * FROM surveys WHERE version > ? ORDER BY version", after)
    return tuple(map(SURVEY.record, rows))


def read_reported(database: Database, version: ModelVersion) -> dict[NodeId, int]:
    """The nodes whose results of a version are here, with their examples."""
    rows = database.execute("SELECT node, num_examples FROM node_results WHERE version = ?", version)
    return {NodeId(row["node"]): int(row["num_examples"]) for row in rows}


def read_evaluated(database: Readable, after: int = -1) -> dict[ModelVersion, Mapping[str, float]]:
    """What the coordinator's own evaluations of later versions found, by version; nothing where one failed."""
    rows = database.execute("SELECT version, metrics FROM evaluations WHERE version > ? ORDER BY version", after)
    return {ModelVersion(row["version"]): read_mapping(row["metrics"]) for row in rows}


def count_evaluations(database: Readable) -> tuple[int, int]:
    """How many there are: the coordinator's own, and those on nodes that are closed."""
    statement = "SELECT (SELECT COUNT(*) FROM evaluations), (SELECT COUNT(*) FROM surveys WHERE closed = 1)"
    own, on_nodes = database.execute(statement).fetchone()
    return own, on_nodes


def write_retained(database: Database, versions: Collection[ModelVersion], best: ModelVersion | None) -> None:
    """Replace the list of models that are kept."""
    kept = sorted({*versions, *(() if best is None else (best,))})
    database.execute("DELETE FROM retained")
    database.insert("retained", *({"version": version, "best": version == best} for version in kept))


def read_retained(database: Readable) -> frozenset[ModelVersion]:
    """Versions whose models are kept beside the head's and its predecessor's."""
    return frozenset(ModelVersion(row["version"]) for row in database.execute("SELECT version FROM retained"))


def read_best(database: Readable) -> ModelVersion | None:
    """The best version, or None."""
    row = database.execute("SELECT version FROM retained WHERE best = 1").fetchone()
    return None if row is None else ModelVersion(row["version"])


_POINTS = (
    "SELECT 'training' AS kind, version, node, num_examples, metrics, base_version, 1 AS counted FROM updates"
    " WHERE status = 'applied' UNION ALL"
    " SELECT 'training', version, node, num_examples, metrics, base_version, 1 FROM compacted_nodes"
    " WHERE version IS NOT NULL UNION ALL"
    " SELECT 'node', version, node, num_examples, metrics, NULL, counted FROM node_results WHERE num_examples > 0"
    " UNION ALL SELECT 'nodes', version, NULL, num_examples, metrics, NULL, 1 FROM surveys WHERE nodes > 0"
    " UNION ALL SELECT 'central', version, NULL, 0, metrics, NULL, 1 FROM evaluations WHERE metrics != '{}'"
    " ORDER BY version, kind, node"
)


_POINT = Columns(CurvePoint)


def read_curves(database: Readable) -> list[CurvePoint]:
    """Every number that training and evaluation have given, by version, kind and node."""
    return [_POINT.record(row) for row in database.execute(_POINTS)]


def read_survey(database: Database, version: ModelVersion) -> NodesEvaluation:
    """One evaluation on the nodes.

    Raises:
        LocalProtocolError: No evaluation of this version was reserved.
    """
    row = database.execute("SELECT * FROM surveys WHERE version = ?", version).fetchone()
    if row is None:
        raise LocalProtocolError(f"no evaluation of version {version} on the nodes has been reserved")
    return SURVEY.record(row)
