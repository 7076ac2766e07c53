"""Before a node runs: it joins its federation, and its device is examined."""
