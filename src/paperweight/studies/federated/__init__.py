"""Studies of federated and decentralised learning."""
