"""Merging of trained networks: units matched, permuted and averaged, statistics repaired.

The order of a network's units has no meaning: two networks that were trained apart have learnt similar units in
different places, and the average of their weights is worthless. Here the units of a network are put into the places of
those of another first. It works for any two networks of one architecture that `PermutationGraph.trace` can follow:
perceptrons, convolutional and residual networks, transformers.

Example:
    Two perceptrons learn, from different initial weights, which of three inputs is largest.

    >>> import torch
    >>> from torch import nn
    >>> from torch.nn.functional import cross_entropy
    >>> inputs = torch.randn(512, 3, generator=torch.Generator().manual_seed(0))
    >>> labels = inputs.argmax(dim=1)
    >>> def trained(seed):
    ...     _ = torch.manual_seed(seed)
    ...     model = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 3))
    ...     optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    ...     for _ in range(60):
    ...         optimizer.zero_grad()
    ...         cross_entropy(model(inputs), labels).backward()
    ...         optimizer.step()
    ...     return model
    >>> def accuracy(model):
    ...     return (model(inputs).argmax(dim=1) == labels).float().mean().item()
    >>> models = [trained(1), trained(2)]
    >>> merged, info = merge(models, data=inputs.split(128))
    >>> info.after["0"] > info.before["0"]
    True
    >>> averaged, _ = merge(models, matching="none")
    >>> cross_entropy(merged(inputs), labels).item() < cross_entropy(averaged(inputs), labels).item()
    True
"""

from paperweight.merging.activations import activation_correlation
from paperweight.merging.graph import Permutation, PermutationGraph
from paperweight.merging.groups import Group, Place, Point
from paperweight.merging.matching import match_activations, match_correlations, match_weights
from paperweight.merging.merge import MergeInfo, merge
from paperweight.merging.repair import repair_batchnorm, rescale
from paperweight.merging.state import mean_state, permute_, permute_optimizer_state, permuted
from paperweight.merging.zipit import match_zipit, zip_states

__all__ = [
    "Group",
    "MergeInfo",
    "Permutation",
    "PermutationGraph",
    "Place",
    "Point",
    "activation_correlation",
    "match_activations",
    "match_correlations",
    "match_weights",
    "match_zipit",
    "mean_state",
    "merge",
    "permute_",
    "permute_optimizer_state",
    "permuted",
    "repair_batchnorm",
    "rescale",
    "zip_states",
]
