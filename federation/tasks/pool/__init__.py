"""Many nodes' training in one process."""
