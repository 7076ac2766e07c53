"""Readings arrive, are kept within bounds, and survive a kill."""
