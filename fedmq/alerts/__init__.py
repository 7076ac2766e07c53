"""Tells people once that a run needs them, and once more when it no longer does: by log, topic, webhook or command."""
