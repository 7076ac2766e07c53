"""A run in one file: made while its coordinator runs, and begun again from it."""
