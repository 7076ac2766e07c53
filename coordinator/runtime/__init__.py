"""The I/O shell: inbox in, effects out, broker connections."""
