"""Studies of generative adversarial networks, their training and their evaluation."""
