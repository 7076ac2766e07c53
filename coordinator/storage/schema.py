"""The tables of the coordinator's database, and how their rows become records."""

from collections.abc import Sequence

from coordinator.records import (
    Attended,
    NodeResult,
    NodesEvaluation,
    Restored,
    RoundRecord,
    UpdateRecord,
    Verdict,
    VersionRecord,
)
from coordinator.storage.store import Figures, UpdateRow, VersionRow
from federation.documents import read_mapping
from federation.errors import DamagedStore
from federation.protocol.messages import Cohort, ModelPart
from federation.storage.columns import UNSIGNED, Columns
from federation.storage.sql import Row
from federation.types import NodeId, UpdateId

__all__ = [
    "ATTENDED",
    "FIGURES",
    "OF_A_VERSION",
    "PART",
    "RESTORED",
    "RESULT",
    "SURVEY",
    "TABLES",
    "TABLE_NAMES",
    "UPDATE",
    "VERSION",
    "parts_keys",
    "parts_text",
    "round_record",
    "round_row",
    "update_row",
    "verdict_of",
    "version_row",
]

ATTENDED = Columns(Attended)
FIGURES = Columns(Figures)
PART = Columns(ModelPart)
RESTORED = Columns(Restored)
RESULT = Columns(NodeResult)
SURVEY = Columns(NodesEvaluation, kinds={"share": UNSIGNED})
UPDATE = Columns(UpdateRecord, names={"update": "update_id"}, without={"seeds", "members"})
"""In `updates` and in `transfers`."""
VERSION = Columns(VersionRecord, without={"parts"})
_COHORT = Columns(Cohort, kinds={"share": UNSIGNED})
_ROUND = Columns(RoundRecord, without={"nodes", "cohort", "evaluation"})
_VERDICT = Columns(Verdict, names={"update": "update_id"}, without={"update", "node"})

_KEY = "INTEGER PRIMARY KEY"
_COUNT = "INTEGER NOT NULL DEFAULT 0"
_METRICS = "TEXT NOT NULL DEFAULT '{}'"

_SPENT = (
    "node TEXT NOT NULL, sampling_rate REAL NOT NULL, noise REAL NOT NULL, steps INTEGER NOT NULL, "
    "round INTEGER NOT NULL, clip REAL NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL, "
    "PRIMARY KEY (node, sampling_rate, noise)"
)

_RELEASES = (
    "number INTEGER PRIMARY KEY, batch BLOB NOT NULL UNIQUE, version INTEGER NOT NULL, noise REAL NOT NULL, "
    "clip REAL NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL"
)
_TAKINGS = "node TEXT PRIMARY KEY, releases INTEGER NOT NULL, last INTEGER NOT NULL, spent REAL NOT NULL"

_COLUMNS = {
    "meta": "key TEXT PRIMARY KEY, value BLOB NOT NULL",
    "versions": f"{VERSION.definitions(version=_KEY)}, parts TEXT NOT NULL, blob_digest BLOB NOT NULL,"
    f" reason TEXT NOT NULL, {FIGURES.definitions()}, seal BLOB",
    "parts": f"{PART.definitions()}, cleared {_COUNT}, frame BLOB, PRIMARY KEY (kind, version)",
    "rounds": f"{_ROUND.definitions(round=_KEY)}, {_COHORT.definitions()}",
    "assignments": "round INTEGER NOT NULL, node TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (round, node)",
    "updates": f"seq INTEGER PRIMARY KEY AUTOINCREMENT, {UPDATE.definitions(update_id='TEXT NOT NULL UNIQUE')},"
    f" {_VERDICT.definitions()}, staleness {_COUNT}, judged_at INTEGER, seal BLOB",
    "payloads": "update_id TEXT PRIMARY KEY, body BLOB",
    "seeds": "update_id TEXT PRIMARY KEY, ticket BLOB NOT NULL, boxes BLOB NOT NULL",
    "batches": f"version {_KEY}, request BLOB NOT NULL, members TEXT NOT NULL, reason TEXT NOT NULL, others BLOB",
    "sums": "version INTEGER NOT NULL, part INTEGER NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL,"
    " PRIMARY KEY (version, part)",
    "transfers": f"{UPDATE.definitions(update_id='TEXT PRIMARY KEY')}, chunk_bytes INTEGER NOT NULL, members BLOB",
    "claims": "claim BLOB PRIMARY KEY, node BLOB NOT NULL, update_id TEXT",
    "evaluations": "version INTEGER PRIMARY KEY, metrics TEXT NOT NULL",
    "surveys": SURVEY.definitions(
        version=_KEY, closed=_COUNT, nodes=_COUNT, num_examples=_COUNT, metrics=_METRICS, medians=_METRICS
    ),
    "node_results": f"{RESULT.definitions(nodes='INTEGER NOT NULL DEFAULT 1')}, PRIMARY KEY (version, node)",
    "masked_reports": "version INTEGER NOT NULL, node TEXT NOT NULL, report BLOB NOT NULL, PRIMARY KEY (version, node)",
    "masked_evaluations": f"version {_KEY}, request BLOB NOT NULL",
    "retained": "version INTEGER PRIMARY KEY, best INTEGER NOT NULL",
    "spent": _SPENT,
    "releases": _RELEASES,
    "prices": "number INTEGER NOT NULL, node TEXT NOT NULL, price REAL NOT NULL, PRIMARY KEY (number, node)",
    "takings": _TAKINGS,
    "restores": RESTORED.definitions(epoch=_KEY),
    "compacted_updates": "block INTEGER PRIMARY KEY, seq_first INTEGER NOT NULL, seq_last INTEGER NOT NULL,"
    " round_min INTEGER NOT NULL, round_max INTEGER NOT NULL, updates INTEGER NOT NULL, changed INTEGER NOT NULL,"
    " fates BLOB NOT NULL, body BLOB NOT NULL, seal BLOB NOT NULL",
    "compacted_nodes": "number INTEGER PRIMARY KEY, node TEXT NOT NULL UNIQUE, version INTEGER, base_version INTEGER,"
    " num_examples INTEGER, metrics TEXT, seal BLOB NOT NULL",
    "compacted_sums": "node TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, updates INTEGER NOT NULL,"
    " up INTEGER NOT NULL, down_high INTEGER NOT NULL, down_low INTEGER NOT NULL, staleness INTEGER NOT NULL,"
    " seal BLOB NOT NULL, PRIMARY KEY (node, status, reason)",
    "compacted_versions": f"version {_KEY}, stale {_COUNT}, refused {_COUNT}, seal BLOB",
    "compacted_claims": f"claim {_KEY}, block INTEGER NOT NULL, place INTEGER NOT NULL",
    "attendance": "node TEXT PRIMARY KEY, "
    + ATTENDED.definitions(restarts=_COUNT, asked=_COUNT, absences="TEXT NOT NULL DEFAULT '{}'"),
}
TABLE_NAMES = tuple(_COLUMNS)
"""All tables of a run."""

_WITHOUT_ROWID = {"meta", "assignments", "node_results", "attendance", "spent", "prices", "takings", "claims"}
_WITHOUT_ROWID |= {"compacted_sums"}

TABLES = (
    *(
        f"CREATE TABLE IF NOT EXISTS {name} ({columns}){' WITHOUT ROWID' if name in _WITHOUT_ROWID else ''}"
        for name, columns in _COLUMNS.items()
    ),
    "CREATE INDEX IF NOT EXISTS updates_by_status ON updates (status) WHERE status = 'stored'",
    "CREATE INDEX IF NOT EXISTS updates_by_round ON updates (round)",
    "CREATE INDEX IF NOT EXISTS claims_by_update ON claims (update_id)",
    "CREATE INDEX IF NOT EXISTS claims_by_node ON claims (node)",
    "CREATE INDEX IF NOT EXISTS compacted_by_round ON compacted_updates (round_max, round_min)",
    "CREATE INDEX IF NOT EXISTS updates_by_version ON updates (version) WHERE version IS NOT NULL",
)
"""The statements that make a new database; an earlier one gets there by the steps of `coordinator.storage.database`."""

OF_A_VERSION = (
    *("versions", "parts", "evaluations", "surveys", "node_results", "retained"),
    *("masked_reports", "masked_evaluations"),
)
"""Tables whose rows of a version go with it when its commit is undone."""


def verdict_of(row: Row) -> Verdict:
    """Read the verdict from a row of `updates`."""
    return _VERDICT.record(row, update=UpdateId(row["update_id"]), node=NodeId(row["node"]))


def update_row(row: Row) -> UpdateRow:
    """Read a whole row of `updates`."""
    return UpdateRow(record=UPDATE.record(row), verdict=verdict_of(row), staleness=row["staleness"])


def round_row(record: RoundRecord) -> dict[str, object]:
    """The row of `rounds`."""
    return _ROUND.row(record) | _COHORT.row(record.cohort)


def round_record(row: Row, nodes: Sequence[NodeId]) -> RoundRecord:
    """Read a row of `rounds`, with its open assignments and the evaluation that it announces."""
    evaluation = row["evaluation"]
    return _ROUND.record(
        row,
        nodes=tuple(nodes),
        cohort=_COHORT.record(row),
        evaluation=None if evaluation is None else int(evaluation),
    )


def parts_text(parts: Sequence[ModelPart]) -> str:
    """Name the parts of a version in their order."""
    return " ".join(f"{part.kind.value}:{part.version}" for part in parts)


def parts_keys(text: str) -> list[tuple[str, int]]:
    """Read what `parts_text` wrote: kind and version of each part.

    Raises:
        DamagedStore: It is something else.
    """
    try:
        return [(kind, int(version)) for kind, _, version in (name.partition(":") for name in _text(text).split())]
    except (TypeError, ValueError) as error:
        raise DamagedStore(f"a row is damaged: its parts are {text!r:.40}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def version_row(row: Row) -> VersionRow:
    """Read a row of the history query: a version, its verdicts and its evaluation; its parts are left out."""
    return VersionRow(
        record=VERSION.record(row),
        reason=_text(row["reason"]),
        figures=FIGURES.record(row),
        stale=row["stale"] or 0,
        refused=row["refused"] or 0,
        metrics=read_mapping(row["metrics"] or "{}"),
    )
