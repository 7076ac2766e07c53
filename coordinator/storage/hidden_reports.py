"""Masked evaluation reports in the coordinator's database, until what helpers have answered makes their means."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from coordinator.records import HiddenEvaluation, NodesEvaluation, believable
from coordinator.storage.schema import SURVEY
from federation.errors import DamagedStore, LocalProtocolError, RemoteProtocolError
from federation.protocol.messages import EvaluationReport, Message
from federation.protocol.sum_messages import MaskedReport, SumRequest
from federation.protocol.wire import decode_message, encode_message
from federation.storage.columns import blob
from federation.storage.sql import Database, Readable
from federation.types import ModelVersion, NodeId

if TYPE_CHECKING:  # it computes with arrays
    from federation.privacy.metrics import Measured

__all__ = ["close_hidden", "insert_report", "insert_request", "read_hidden", "read_reports", "read_request"]


def insert_report(database: Database, node: NodeId, report: EvaluationReport) -> None:
    """Keep a node's masked report; its newest word stands until there is a receipt."""
    row = {"version": report.version, "node": node, "report": encode_message(report)}
    database.insert("masked_reports", row, conflict="REPLACE")


def read_reports(database: Readable, version: ModelVersion) -> dict[NodeId, MaskedReport]:
    """The masked reports on a version, by node.

    Raises:
        DamagedStore: One of them is not what was written.
    """
    found = dict[NodeId, MaskedReport]()
    for row in database.execute("SELECT node, report FROM masked_reports WHERE version = ? ORDER BY node", version):
        report = _read(blob(row["report"]), version)
        if not isinstance(report, EvaluationReport) or report.masked is None:
            raise DamagedStore(f"the evaluation of version {version} is damaged")
        found[NodeId(row["node"])] = report.masked
    return found


def insert_request(database: Database, request: SumRequest) -> None:
    """Freeze which reports are summed; the same request again does nothing.

    Raises:
        LocalProtocolError: Others are frozen.
    """
    known = read_request(database, request.version)
    if known not in (None, request):
        raise LocalProtocolError(f"other reports on version {request.version} are frozen")
    row = {"version": request.version, "request": encode_message(request)}
    database.insert("masked_evaluations", row, conflict="IGNORE")


def read_request(database: Readable, version: ModelVersion) -> SumRequest | None:
    """What helpers are asked for; None before it is frozen."""
    row = database.execute("SELECT request FROM masked_evaluations WHERE version = ?", version).fetchone()
    if row is None:
        return None
    request = _read(blob(row["request"]), version)
    if not isinstance(request, SumRequest):
        raise DamagedStore(f"the evaluation of version {version} is damaged")
    return request


def read_hidden(database: Readable) -> tuple[HiddenEvaluation, ...]:
    """All that wait for their sum: what is frozen, or the reports that count.

    A report is kept before it counts. Where the disk has failed in between, its node says it again.
    """
    found = []
    for row in database.execute("SELECT DISTINCT version FROM masked_reports ORDER BY version").fetchall():
        version = ModelVersion(row["version"])
        request, reports = read_request(database, version), read_reports(database, version)
        if request is None:
            counting = database.execute("SELECT node FROM node_results WHERE version = ? AND counted = 1", version)
            nodes = {each["node"] for each in counting}
            reports = {node: report for node, report in reports.items() if node in nodes}
        found.append(HiddenEvaluation(version=version, reports=reports, request=request))
    return tuple(found)


def close_hidden(database: Database, survey: NodesEvaluation, measured: "Measured | None") -> NodesEvaluation:
    """Write the means down, and let the reports go."""
    nothing: Mapping[str, float] = {}
    made = NodesEvaluation(
        version=survey.version,
        share=survey.share,
        closed=True,
        nodes=0 if measured is None else measured.nodes,
        num_examples=0 if measured is None else measured.num_examples,
        metrics=nothing if measured is None else believable(measured.metrics),
    )
    database.insert("surveys", SURVEY.row(made), conflict="REPLACE")
    for table in ("masked_reports", "masked_evaluations"):
        database.execute(f"DELETE FROM {table} WHERE version = ?", survey.version)  # noqa: S608 - our own names
    return made


def _read(body: bytes, version: ModelVersion) -> Message:
    try:
        return decode_message(body)
    except RemoteProtocolError as error:
        raise DamagedStore(f"the evaluation of version {version} is damaged: {error}") from error
