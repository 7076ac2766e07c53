"""The tables of evaluations in the coordinator's SQLite database."""

__all__ = ["EVALUATION_SCHEMA", "EVALUATION_TABLES"]

EVALUATION_SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (version INTEGER PRIMARY KEY, metrics TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS surveys (
    version INTEGER PRIMARY KEY, share TEXT NOT NULL, closed INTEGER NOT NULL DEFAULT 0,
    nodes INTEGER NOT NULL DEFAULT 0, num_examples INTEGER NOT NULL DEFAULT 0, metrics TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS node_results (
    version INTEGER NOT NULL, node TEXT NOT NULL, num_examples INTEGER NOT NULL, metrics TEXT NOT NULL,
    evaluate_s REAL NOT NULL, reason TEXT NOT NULL, counted INTEGER NOT NULL,
    PRIMARY KEY (version, node)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retained (version INTEGER PRIMARY KEY, best INTEGER NOT NULL);
"""
"""Part of the coordinator's schema; a share has 64 bits without sign, which SQLite has not: it is text."""

EVALUATION_TABLES = ("evaluations", "surveys", "node_results", "retained")
"""Whose rows of a version go with it when its commit is undone."""
