"""One round of local work, and its bytes."""
