"""The reference tasks."""
