"""Texts that ``coordinator init`` fills in; ``${name}`` stands for a value."""
