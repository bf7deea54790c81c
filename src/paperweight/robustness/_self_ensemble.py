"""Heads on the layers of a frozen classifier, each of which predicts.

Source:
    S. Fort, B. Lakshminarayanan, "Ensemble everything everywhere: Multi-scale aggregation for adversarial robustness",
    2024, https://arxiv.org/abs/2408.05446; the authors' notebook (MIT),
    https://github.com/stanislavfort/ensemble-everything-everywhere, for what a head is.

Deviations:
    Layers that heads read are in eval mode while heads are trained; the notebook has them in train mode, where the
    statistics of batch normalization go on moving.
"""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Self, final

import torch
from torch import Tensor, nn

__all__ = ["SelfEnsemble"]


@final
class SelfEnsemble(nn.Module):
    """Linear heads on layers of a frozen copy of a classifier: each predicts, and so does the classifier itself.

    A head is batch normalization and a linear layer on the flattened features. Train heads by the sum of their
    cross-entropies: as they share no weight, each learns as it would alone. The copy is in eval mode throughout.

    Args:
        model: The trained classifier.
        layers: Names of modules in it whose outputs heads read, each called once.
        shape: Shape of one input, such as (1, 28, 28), from which the sizes of the features are found.

    Raises:
        ValueError: If ``layers`` is empty, or a name is not in the model or was not called.

    Example:
        >>> ensemble = SelfEnsemble(nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3)), ["0"], shape=(2,))
        >>> ensemble.eval()(torch.zeros(4, 2)).shape
        torch.Size([4, 2, 3])
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], shape: Sequence[int]) -> None:
        super().__init__()
        known = dict(model.named_modules())
        if isinstance(layers, str) or not layers or any(name not in known for name in layers):
            raise ValueError(f"layers must be names of modules of the model, {', '.join(known)}; got {layers!r}")
        if any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in shape):
            raise ValueError(f"shape must be whole numbers of at least 1, got {shape!r}")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.layers, self.shape = tuple(layers), tuple(shape)
        weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(()))
        with torch.no_grad():
            features, logits = self._features(weight.new_zeros(1, *shape))
        self.heads = nn.ModuleList(_head(each, logits) for each in features)

    def train(self, mode: bool = True) -> Self:
        """Switch the heads alone."""
        super().train(mode)
        self.model.eval()
        return self

    def _features(self, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        seen: dict[str, Tensor] = {}

        def note(name: str, _: nn.Module, __: object, features: Tensor) -> None:
            seen[name] = features.flatten(1).clone()  # what follows may change it in place

        with ExitStack() as hooks:
            for name in self.layers:
                hooks.enter_context(self.model.get_submodule(name).register_forward_hook(partial(note, name)))
            logits = self.model(inputs)
        if missing := [name for name in self.layers if name not in seen]:
            raise ValueError(f"layers must be modules that the model calls, it did not call {', '.join(missing)}")
        return [seen[name] for name in self.layers], logits

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the logits of each head and at last of the classifier, (N, heads + 1, classes)."""
        features, logits = self._features(inputs)
        return torch.stack([*(head(each) for head, each in zip(self.heads, features, strict=True)), logits], dim=1)


def _head(features: Tensor, logits: Tensor) -> nn.Module:
    width = features.shape[1]
    return nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, logits.shape[1])).to(features)
