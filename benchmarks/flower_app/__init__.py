"""An app as `flwr new` makes it for PyTorch, and its older form; only the data is scikit-learn's digits."""
