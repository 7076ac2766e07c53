"""Federations through gateways in virtual time, with kills, each held against a flat one at its end."""
