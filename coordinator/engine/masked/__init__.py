"""Sums whose parts nobody sees: seeds to the helpers, a frozen batch, what its helpers answer."""
