"""The I/O shell and the device's gates."""
