"""Pumps on one machine: their readings in, a model that learns of all, and scores out."""
