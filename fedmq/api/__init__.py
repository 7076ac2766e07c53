"""What a script or a notebook calls: an experiment in one call, and what came of it as values."""
