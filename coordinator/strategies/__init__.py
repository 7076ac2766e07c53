"""What a user chooses or writes: selection, weights, server step, robust rules."""
