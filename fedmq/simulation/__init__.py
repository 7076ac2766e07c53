"""Both machines in virtual time: the driver replaced by a heap of (time, destination, event)."""
