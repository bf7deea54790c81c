"""Faults of R3GAN."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("critic prefers samples", "F.softplus(fake_scores - real_scores)", "F.softplus(real_scores - fake_scores)"),
    Fault(
        "roles not exchanged",
        "return relativistic_critic_loss(fake_scores, real_scores)",
        "return relativistic_critic_loss(real_scores, fake_scores)",
    ),
    Fault(
        "means compared, not pairs",
        "F.softplus(fake_scores - real_scores)",
        "F.softplus(fake_scores.mean() - real_scores.mean())",
    ),
    Fault("no half", "return gamma / 2 *", "return gamma *"),
    Fault(
        "norm in place of its square",
        "slopes.square().flatten(1).sum(dim=1).mean()",
        "slopes.square().flatten(1).sum(dim=1).sqrt().mean()",
    ),
    Fault("mean over entries", "slopes.square().flatten(1).sum(dim=1).mean()", "slopes.square().mean()"),
    Fault("no graph of the gradient", "create_graph=True", "create_graph=False"),
    Fault(
        "gradient into the inputs",
        "given = inputs.detach().requires_grad_()",
        "given = inputs if inputs.requires_grad else inputs.detach().requires_grad_()",
    ),
    Fault("no residual", "return x + self.reduce(", "return self.reduce("),
    Fault("last convolution not zero", "        nn.init.zeros_(self.reduce.weight)\n", ""),
    Fault("scale by the number of stages", "blocks ** (-1 / (2 * _LAYERS - 2))", "blocks ** (-1 / (2 * _LAYERS))"),
    Fault("groups of another width", "groups=inner // group_width", "groups=group_width"),
)
