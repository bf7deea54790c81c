"""Studies of training procedures."""
