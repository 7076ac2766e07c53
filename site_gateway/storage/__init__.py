"""What a gateway must not forget beside what both roles keep."""
