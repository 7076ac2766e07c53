"""What the nodes' columns look like: each node counts, only sums travel, and all of them together say it exactly."""
