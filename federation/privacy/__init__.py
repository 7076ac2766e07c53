"""What keeps a node's contribution from those who carry it or add it up: sealed boxes, noise and what it is worth."""
