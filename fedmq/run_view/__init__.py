"""A run as programs and people see it, read from its state folder while its coordinator writes."""

from fedmq.run_view.rows import Rows, encoded
from fedmq.run_view.view import NODE_COLUMNS, PAUSE_S, FoundCertificates, RunView, Snapshot

__all__ = ["NODE_COLUMNS", "PAUSE_S", "FoundCertificates", "Rows", "RunView", "Snapshot", "encoded"]
