"""Studies of the protection of data and of models."""
