"""Before a helper runs: its folder, its keys, its register of nodes, and what is looked at."""
