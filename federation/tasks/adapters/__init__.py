"""Models of other libraries as tasks: each module knows one library, and leaves the training to it."""
