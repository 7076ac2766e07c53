"""Every decision of the coordinator, pure: events in, effects out."""
