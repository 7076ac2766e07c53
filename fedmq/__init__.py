"""The front door above both roles: audit, demo and simulation."""
