"""Studies of layers and whole networks."""
