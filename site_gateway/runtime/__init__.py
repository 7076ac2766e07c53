"""The I/O shell: two brokers, two stores, one loop."""
