"""Faults of non-negative contrastive learning."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("GELU, not ReLU", "F.relu(x).detach() + (smooth - smooth.detach())", "smooth"),
    Fault("the gradients of both", "F.relu(x).detach() + (smooth", "F.relu(x) + (smooth"),
    Fault("the gradient of ReLU", "F.relu(x).detach() + (smooth - smooth.detach())", "F.relu(x)"),
    Fault("whole numbers accepted", "if not x.is_floating_point():", "if x.is_complex():"),
    Fault(
        "codes of any length",
        "F.normalize(_activated(torch.cat([first, second]), activation))",
        "_activated(torch.cat([first, second]), activation)",
    ),
    Fault(
        "one activation for another",
        'if activation == "relu":\n        return F.relu(x)',
        'if activation == "relu":\n        return rep_relu(x)',
    ),
    Fault(
        "an activation after normalisation",
        "F.normalize(_activated(torch.cat([first, second]), activation))",
        "_activated(F.normalize(torch.cat([first, second])), activation)",
    ),
    Fault("times the temperature", "codes.T / temperature", "codes.T * temperature"),
    Fault(
        "each view finds itself",
        'scores = (codes @ codes.T / temperature).fill_diagonal_(float("-inf"))',
        "scores = codes @ codes.T / temperature",
    ),
    Fault("a neighbour for a twin", ".roll(len(first))", ".roll(1)"),
    Fault("batches of two shapes accepted", "or first.shape != second.shape:", "or first.shape[1] != second.shape[1]:"),
    Fault("any temperature", 'if not 0 < temperature < float("inf"):', "if temperature == 0:"),
    Fault("weights of any sign", "rep_relu(self.linear.weight)", "self.linear.weight"),
    Fault("features of any sign", "F.linear(rep_relu(features), ", "F.linear(features, "),
    Fault(
        "a bias of one sign", ", self.linear.bias)", ", None if self.linear.bias is None else self.linear.bias.relu())"
    ),
    Fault("dimensions that are never active count", "[totals > 0].mean()", ".nan_to_num().mean()"),
    Fault("the rarest class", "counts.max(dim=0)", "counts.min(dim=0)"),
    Fault(
        "the share of all samples", "counts.max(dim=0).values / totals)", "counts.max(dim=0).values / len(features))"
    ),
    Fault("negative entries are not active", "features.abs() > eps", "features > eps"),
    Fault("what is as far as eps is active", "features.abs() > eps", "features.abs() >= eps"),
    Fault("the share that is active", "return 1 - _active(", "return _active("),
)
