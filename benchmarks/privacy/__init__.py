"""Figures of privacy: what masks, noise and sealing cost, and what they keep."""
