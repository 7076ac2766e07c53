"""What becomes of an update: its final verdict, what gateways' sums claim, and where it counts when its node moves."""
