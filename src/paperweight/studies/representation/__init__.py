"""Studies of representation learning and clustering."""
