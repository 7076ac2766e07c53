"""Readings become examples: joined by time, resampled, cut into windows."""
