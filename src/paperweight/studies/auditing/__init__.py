"""Studies of memorisation and forensics."""
