"""Studies of pruning, quantisation and distillation."""
