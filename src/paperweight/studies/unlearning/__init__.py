"""Studies of forgetting data and concepts."""
