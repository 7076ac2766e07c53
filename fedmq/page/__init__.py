"""A run for people who read no logs: one page, its numbers as JSON and for Prometheus, from a process of its own."""
