"""Tasks that travel: how a release is packed, in which pieces it lies at the broker, and for whom it is."""
