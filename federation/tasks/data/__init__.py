"""Data sets and their partition."""
