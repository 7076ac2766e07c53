"""Where an update counts: what sums of gateways claim, and what becomes of an update whose node has moved."""
