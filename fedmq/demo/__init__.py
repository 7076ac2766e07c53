"""The main job with one command: a broker, a coordinator process and node processes on this machine."""
