"""Studies of losses and penalties that regularise."""
