"""Studies of backdoors and their detection."""
