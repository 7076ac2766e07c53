"""The gateway role: a coordinator for one site, and one node of the federation above it."""
