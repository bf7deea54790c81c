"""Randomized feature defense: noise on hidden features, fresh for each query, misleads attacks that see scores only.

An attack by queries compares the losses of two inputs. Noise on features in between turns such comparisons round the
more often, the larger the loss's gradient for the features is beside that for the input, and the noise may be as large
as a small loss of accuracy allows. No weight is trained, and white-box gradients are as good as before.
Cost: a random number an entry of the features at each call.

Source:
    Q. H. Nguyen, Y. Lao, T. Pham, K.-S. Wong, K. D. Doan, "Understanding the Robustness of Randomized Feature Defense
    Against Query-Based Adversarial Attacks", ICLR 2024, https://arxiv.org/abs/2310.00567; the authors' code,
    https://github.com/mail-research/randomized_defenses, for where the noise is added: to the outputs of blocks.

Deviations:
    - A layer's noise may have a unit of its own, such as the spread of its features, which the authors' code has for
      vision transformers; with the unit 1 for each layer it is the paper's.
    - The largest noise that a drop of accuracy allows is found by bisection; how the authors looked for it is not said.
    - The ratio of gradients is the mean of each input's ratio. Of the paper's attacks by queries `SquareAttack`,
      `NESAttack` and `RaySAttack` of `paperweight.attacks` are there, SignHunter and HopSkipJump are not.
"""

import math
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from paperweight.attacks import AttackLoss, margin_loss
from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["RandomizedFeatureDefense", "feature_spreads", "gradient_ratios", "largest_noise"]

PAPER = Paper(
    title="Understanding the Robustness of Randomized Feature Defense Against Query-Based Adversarial Attacks",
    authors=("Quang H. Nguyen", "Yingjie Lao", "Tung Pham", "Kok-Seng Wong", "Khoa D. Doan"),
    year=2024,
    url="https://arxiv.org/abs/2310.00567",
    provides={
        "RandomizedFeatureDefense": "defense",
        "feature_spreads": "function",
        "gradient_ratios": "function",
        "largest_noise": "function",
    },
    null={"nu": 0.0},
    claim="Noise on hidden features withstands attacks by queries, at hardly any loss of accuracy, without training.",
)

_CHUNK = 1024


def added_noise(features: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Give h + deviation v with v standard normal, drawn where the generator is."""
    noise = torch.randn(features.shape, generator=generator, device=generator.device).to(features)
    return features + deviation * noise


@final
class RandomizedFeatureDefense(nn.Module):
    """Calls a classifier with fresh Gaussian noise on the outputs of some of its modules, in train mode, too.

    The classifier is used as it is, and holds nothing of the defense between calls.

    Args:
        model: The classifier.
        layers: By the name of a module in it the unit of its noise, at least 0: 1 for each in the paper, or what
            `feature_spreads` gives. A module that is called several times has noise each time.
        nu: Standard deviation of the noise, in units, at least 0; at 0 nothing is drawn. See `largest_noise`.
        generator: Source of the noise.

    Raises:
        ValueError: If ``nu`` or a unit is outside its range, ``layers`` is empty, or a name is not in the model or
            another one's module; at a call if a module was not called, or gives no floating tensor.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
        >>> defended = RandomizedFeatureDefense(model, {"0": 1.0}, nu=0.1, generator=torch.Generator().manual_seed(0))
        >>> inputs = torch.ones(1, 1, 1, 2)
        >>> bool((defended(inputs) == defended(inputs)).any())
        False
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, float], nu: float = 0.05, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        if isinstance(nu, bool) or not 0 <= nu < math.inf:
            raise ValueError(f"nu must be at least 0 and finite, got {nu!r}")
        _modules(model, layers)
        if any(isinstance(unit, bool) or not 0 <= unit < math.inf for unit in layers.values()):
            raise ValueError(f"layers must have units of at least 0, and finite, got {dict(layers)}")
        self.model, self.layers, self.nu, self.generator = model, dict(layers), nu, generator

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the logits of inputs (N, ...), with a gradient to them."""
        if self.nu == 0:
            return self.model(inputs)
        called: set[str] = set()

        def disturb(name: str, _: nn.Module, __: object, features: Tensor) -> Tensor:
            _check_features(name, features)
            called.add(name)
            return added_noise(features, self.nu * self.layers[name], self.generator)

        with ExitStack() as hooks:
            for name in self.layers:
                hooks.enter_context(self.model.get_submodule(name).register_forward_hook(partial(disturb, name)))
            logits = self.model(inputs)
        if missing := self.layers.keys() - called:
            raise ValueError(
                f"layers must be modules that the model calls, it did not call {', '.join(sorted(missing))}"
            )
        return logits


def feature_spreads(model: nn.Module, layers: Collection[str], inputs: Tensor) -> dict[str, float]:
    """Measure the standard deviation of what modules give, over all entries and inputs, as units of noise.

    Args:
        model: The network, looked at in eval mode.
        layers: Names of modules in it.
        inputs: Inputs, (N, ...), at least one.

    Returns:
        By the name of each module its standard deviation.

    Raises:
        ValueError: If there are no inputs, or a name is not in the model.

    Example:
        >>> feature_spreads(nn.Sequential(nn.Flatten()), ["0"], torch.tensor([[1.0], [3.0]]))
        {'0': 1.0}
    """
    modules = _modules(model, layers)
    if not len(inputs):
        raise ValueError("inputs must be one at least, got none")
    sums: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, __: object, features: Tensor) -> None:
        _check_features(name, features)
        values = features.double()
        moments = torch.stack([torch.ones_like(values).sum(), values.sum(), values.square().sum()])
        sums[name] = sums[name] + moments if name in sums else moments

    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        for chunk in inputs.split(_CHUNK):
            model(chunk)
    return {
        name: math.sqrt(max(0.0, (square / count - (total / count) ** 2).item()))
        for name, (count, total, square) in sums.items()
    }


def gradient_ratios(
    model: nn.Module, layers: Collection[str], inputs: Tensor, labels: Tensor, loss: AttackLoss = margin_loss
) -> dict[str, float]:
    """Measure |grad_h L| / |grad_x L| at what modules give: the larger, the more a noise of one size there protects.

    Args:
        model: The classifier, looked at in eval mode; each module is called once.
        layers: Names of modules in it.
        inputs: Inputs, (N, ...), at least one.
        labels: Class numbers, int64, (N,).
        loss: What an attack raises: maps logits and labels to a number for each input.

    Returns:
        By the name of each module the mean over inputs; those whose loss has no gradient for the input are left out,
        and it is not a number where that leaves none.

    Raises:
        ValueError: If there are no inputs, or not a label for each, or a name is not in the model.

    Example:
        >>> double = nn.Linear(2, 2, bias=False)
        >>> _ = double.weight.data.copy_(2 * torch.eye(2))
        >>> gradient_ratios(nn.Sequential(nn.Flatten(), double), ["0", "1"], torch.eye(2), torch.arange(2))
        {'0': 1.0, '1': 0.5}
    """
    modules = _modules(model, layers)
    _check_pairs(inputs, labels)
    given, seen = inputs.detach().requires_grad_(), dict[str, Tensor]()

    def note(name: str, _: nn.Module, __: object, features: Tensor) -> Tensor:
        _check_features(name, features)
        seen[name] = features
        return features.clone()  # what follows may change it in place

    with ExitStack() as hooks, evaluating(model), torch.enable_grad():
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        losses = loss(model(given), labels).sum()
        gradients = torch.autograd.grad(losses, [given, *seen.values()], materialize_grads=True)
    first, *others = (gradient.flatten(1).norm(dim=1) for gradient in gradients)
    counted = first > 0
    return {name: (norms[counted] / first[counted]).mean().item() for name, norms in zip(seen, others, strict=True)}


def largest_noise(
    model: nn.Module,
    layers: Mapping[str, float],
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    max_drop: float = 0.01,
    draws: int = 4,
    tries: int = 16,
) -> float:
    """Find the largest noise at which the accuracy falls by no more than ``max_drop``, by bisection.

    It doubles from 1 while the fall is small enough, and then halves the interval. All sizes are tried with the same
    noise.

    Args:
        model: The classifier, looked at in eval mode.
        layers: As in `RandomizedFeatureDefense`.
        inputs: Inputs to judge by, (N, ...), at least one.
        labels: Class numbers, int64, (N,).
        generator: Source of the noise.
        max_drop: Largest fall of accuracy, a share from 0 to 1; the paper has about 0.01 and 0.02.
        draws: Draws of the noise for each input, at least 1.
        tries: Sizes that are tried, at least 1.

    Returns:
        The largest one tried that is small enough, 0 if there is none.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0], [-1.0]])), model[1].bias.data.zero_()
        >>> nu = largest_noise(model, {"0": 1.0}, torch.ones(2000, 1), torch.zeros(2000, dtype=torch.int64),
        ...                    generator=torch.Generator().manual_seed(0), max_drop=0.0228)
        >>> round(nu, 1)
        0.5
    """
    if isinstance(max_drop, bool) or not 0 <= max_drop <= 1:
        raise ValueError(f"max_drop must be from 0 to 1, got {max_drop!r}")
    for name, count in (("draws", draws), ("tries", tries)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
    _check_pairs(inputs, labels)
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))

    def accuracy(nu: float, times: int) -> float:
        source = torch.Generator(generator.device).manual_seed(seed)
        defended = RandomizedFeatureDefense(model, layers, nu, generator=source)
        with evaluating(model), torch.no_grad():
            found = [
                defended(chunk).argmax(dim=1) == of
                for _ in range(times)
                for chunk, of in zip(inputs.split(_CHUNK), labels.split(_CHUNK), strict=True)
            ]
        return torch.cat(found).double().mean().item()

    least = accuracy(0.0, 1) - max_drop
    low, high, nu = 0.0, math.inf, 1.0
    for _ in range(tries):
        low, high = (nu, high) if accuracy(nu, draws) >= least else (low, nu)
        nu = 2 * low if high == math.inf else (low + high) / 2
    return low


def _modules(model: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    """Give modules by name."""
    if isinstance(names, str) or not names:
        raise ValueError(f"layers must be names of modules, one at least, got {names!r}")
    known = dict(model.named_modules(remove_duplicate=False))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"layers must be modules of the model, it has no {unknown[0]!r}; it has {', '.join(known)}")
    found = {name: known[name] for name in names}
    if len({id(module) for module in found.values()}) < len(found):
        raise ValueError(f"layers must be different modules, got one by two names among {', '.join(names)}")
    return found


def _check_features(name: str, features: object) -> None:
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"layers must be modules that give a floating tensor, {name!r} gives {kind}")


def _check_pairs(inputs: Tensor, labels: Tensor) -> None:
    if not len(inputs) or len(inputs) != len(labels) or not inputs.is_floating_point():
        found = f"{len(inputs)} of {inputs.dtype} and {len(labels)} labels"
        raise ValueError(f"inputs must be floating, one at least, with a label each, got {found}")
