"""Faults of global magnitude pruning."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("signed in place of magnitude", "weight.detach().abs().flatten()", "weight.detach().flatten()"),
    Fault("prunes the model itself", "pruned = copy.deepcopy(model)", "pruned = model"),
    Fault("keeps what it should prune", "(1 - self.sparsity) * sum(weight", "self.sparsity * sum(weight"),
    Fault("keeps the smallest", "mask | (values > least)", "mask | (values < least)"),
    Fault("hook left behind", "            handle.remove()", "            pass"),
    Fault("minimum counted twice", "kept - least)", "kept)"),
    Fault("ramp squared", "(1 - stage / stages) ** 3)", "(1 - stage / stages) ** 2)"),
    Fault("bias counted as weight", "_prunable(pruned)\n", "list(pruned.parameters())\n"),
)
