"""The contract: what a coordinator and an edge node must agree on."""
