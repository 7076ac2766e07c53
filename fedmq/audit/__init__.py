"""The stores of a stopped federation against I1 to I9, P1 to P5 and M1 to M5."""
