"""What survives a crash of the node."""
