"""Attacks that methods, training loops and audits share: how wrong can a classifier be made within a ball?

`ProjectedGradient` follows the model's own gradients, `MomentumTransfer` those of surrogates; `SquareAttack` and
`NESAttack` ask for scores only, `RaySAttack` for decisions; `standard_suite` tries several in turn. All are of the kind
``attack``: called with a model, inputs and labels, they give changed inputs, and leave model, inputs and random state
as they were. `AttackAdapter` makes such ones of the attacks of torchattacks, Foolbox, ART and others.

Example:
    A linear model of 64 inputs, each of which may change by 0.1: the attack finds the exact worst case.

    >>> import math
    >>> import torch
    >>> from torch import nn
    >>> source = torch.Generator().manual_seed(0)
    >>> inputs = 0.3 + 0.4 * torch.rand(5, 64, generator=source)
    >>> model = nn.Linear(64, 3, bias=False)
    >>> _ = model.weight.data.copy_(torch.randn(3, 64, generator=source))
    >>> labels = model(inputs).argmax(dim=1)
    >>> attack = ProjectedGradient(radius=0.1, loss=margin_loss, keep_going=True)
    >>> changed = attack(model, inputs, labels, generator=source)
    >>> margins = -margin_loss(model(changed), labels)
    >>> exact = [
    ...     min((model.weight[y] - model.weight[j]) @ x - 0.1 * (model.weight[y] - model.weight[j]).abs().sum()
    ...         for j in range(3) if j != y).item()
    ...     for x, y in zip(inputs, labels)]
    >>> max(abs(margin - best) for margin, best in zip(margins.tolist(), exact)) < 1e-4
    True
"""

from paperweight.attacks.adapter import AttackAdapter
from paperweight.attacks.balls import project, random_point, steepest_step
from paperweight.attacks.losses import AttackLoss, cross_entropy_loss, dlr_loss, margin_loss, targeted_dlr_loss
from paperweight.attacks.nes import NESAttack, estimated_gradient
from paperweight.attacks.projected_gradient import ProjectedGradient, step_lengths
from paperweight.attacks.rays import RaySAttack, turned
from paperweight.attacks.square import Queried, SquareAttack, bump, window_share
from paperweight.attacks.suite import AttackSuite, TowardsOthers, standard_suite
from paperweight.attacks.transfer import MeanLogits, MomentumTransfer, diverse, transferred

__all__ = [
    "AttackAdapter",
    "AttackLoss",
    "AttackSuite",
    "MeanLogits",
    "MomentumTransfer",
    "NESAttack",
    "ProjectedGradient",
    "Queried",
    "RaySAttack",
    "SquareAttack",
    "TowardsOthers",
    "bump",
    "cross_entropy_loss",
    "diverse",
    "dlr_loss",
    "estimated_gradient",
    "margin_loss",
    "project",
    "random_point",
    "standard_suite",
    "steepest_step",
    "step_lengths",
    "targeted_dlr_loss",
    "transferred",
    "turned",
    "window_share",
]
