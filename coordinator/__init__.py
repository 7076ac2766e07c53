"""The server role: announces rounds, judges updates, aggregates them, commits model versions."""
