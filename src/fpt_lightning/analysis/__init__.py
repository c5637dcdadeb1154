"""Inside a run: what its answers look at, and what its layers hold."""
