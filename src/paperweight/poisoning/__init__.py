"""Backdoors for experiments: triggers, training sets that plant them, and triggers recovered from a classifier.

A backdoored classifier is right on clean images and gives the attacker's class to images that carry a trigger. `Patch`,
`Blend` and `Additive` are triggers, `poison` plants one in a training set, `attack_success` asks how often it works.
`reverse_triggers` looks for the smallest patch that turns images to a class, as Neural Cleanse does,
`reverse_patterns` for the shortest pattern that is added, and `anomaly_index` tells how much smaller one is than the
rest.

Example:
    A training set of which one image in ten has a white corner and is labelled 0.

    >>> import torch
    >>> source = torch.Generator().manual_seed(0)
    >>> images, labels = torch.rand(50, 1, 8, 8, generator=source), torch.arange(50) % 5
    >>> trigger = Patch(torch.ones(1, 2, 2), top=6, left=6)
    >>> planted = poison(images, labels, trigger=trigger, targets=all_to_one(0, 5), rate=0.1, generator=source)
    >>> len(planted.indices), bool((planted.labels[planted.indices] == 0).all())
    (5, True)
    >>> bool((planted.images[planted.indices][..., 6:, 6:] == 1).all())
    True
"""

from paperweight.poisoning.neural_cleanse import (
    ReversedPatterns,
    ReversedTriggers,
    anomaly_index,
    reverse_patterns,
    reverse_triggers,
)
from paperweight.poisoning.poison import Poisoned, all_to_one, attack_success, poison
from paperweight.poisoning.triggers import Additive, Blend, Patch, Trigger

__all__ = [
    "Additive",
    "Blend",
    "Patch",
    "Poisoned",
    "ReversedPatterns",
    "ReversedTriggers",
    "Trigger",
    "all_to_one",
    "anomaly_index",
    "attack_success",
    "poison",
    "reverse_patterns",
    "reverse_triggers",
]
