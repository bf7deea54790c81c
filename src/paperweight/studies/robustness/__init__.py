"""Studies of attacks and defenses."""
