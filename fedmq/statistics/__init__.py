"""What the nodes' columns look like, before anything is trained: a run that only counts, and what it has found."""
