"""Encoders under a rate target: choose the step, quantize, lay out, measure."""
