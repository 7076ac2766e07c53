"""Every decision of the node, pure: events in, effects out."""
