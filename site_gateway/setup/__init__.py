"""A gateway's folder: how it begins, and what stands in it."""
