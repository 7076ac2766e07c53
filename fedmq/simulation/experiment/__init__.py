"""Real training in virtual time."""
