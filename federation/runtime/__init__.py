"""The thin I/O shell: the broker connection, the one loop, the clock and the log."""
