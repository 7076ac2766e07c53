"""The stores of a stopped federation against I1 to I9 and P1 to P3."""
