"""The fault campaign: real brokers, coordinators and nodes that are killed, starved and cut off (`make chaos`)."""
