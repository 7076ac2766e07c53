"""One torch model on one device."""
