"""The I/O shell of a helper: inbox in, effects out, and the thread that adds masks."""
