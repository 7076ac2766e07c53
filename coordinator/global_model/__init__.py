"""From stored updates to the next version and its parts."""
