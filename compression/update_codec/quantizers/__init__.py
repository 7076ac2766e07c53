"""From values to symbols and back: one module for each quantizer."""
