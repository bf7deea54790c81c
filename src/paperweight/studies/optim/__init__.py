"""Studies of optimizers and schedules."""
