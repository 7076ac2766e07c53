"""Thousands of seeds under faults, checked."""
