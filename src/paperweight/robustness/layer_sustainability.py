"""Layer sustainability analysis (LSA), and adversarial training that holds the least sustainable layers still (AT-LR).

An attack that hardly changes an image changes what layers make of it, some layers more than others. The analysis
measures by how much, relative to what they make of the image, and names the most vulnerable ones. Adversarial training
then lowers this error in them besides the cross-entropy of the attacked images.
Cost: of the analysis two forward passes; of training a forward and backward pass of the images as they are.

`LayerRegularizedLoss` is called with a model, images, attacked images and labels, as the losses of
`paperweight.loops.fit_robust` are, and goes into any loop of adversarial training.

Source:
    M. Khalooei, M. M. Homayounpour, M. Amirmazlaghani, "Layer-wise Regularized Adversarial Training using Layers
    Sustainability Analysis (LSA) framework", 2022, https://arxiv.org/abs/2202.02626, and the authors' code and its
    description, https://github.com/khalooei/LSA: the comparison measure CM, relative error, the layers that it looks
    at, and the loss. Of the paper's own text only the abstract was at hand.

Deviations:
    - The authors' code has the measure and no training. That no gradient is cut off, so that images and attacked
      images both move, is a reading of the loss; so is the size of gamma, which the caller chooses.
    - Which layers count as most vulnerable is not told exactly: here those whose error is at least the mean of all, or
      as many as are asked for.
    - A layer that is called several times in a pass is one representation, of all its outputs; in the authors' code
      each call is a layer. Their code leaves its hooks in the model.
    - A layer whose outputs are all 0 has error 0; the authors' code divides by 0.
"""

import math
from collections.abc import Mapping
from statistics import mean
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["LayerRegularizedLoss", "layer_errors", "most_vulnerable_layers", "relative_error"]

PAPER = Paper(
    title="Layer-wise Regularized Adversarial Training using Layers Sustainability Analysis (LSA) framework",
    authors=("Mohammad Khalooei", "Mohammad Mehdi Homayounpour", "Maryam Amirmazlaghani"),
    year=2022,
    url="https://arxiv.org/abs/2202.02626",
    provides={
        "LayerRegularizedLoss": "loss",
        "layer_errors": "function",
        "most_vulnerable_layers": "function",
        "relative_error": "function",
    },
    null={"gammas": {}},
    claim="Adversarial training that also holds the most vulnerable layers still withstands larger attacks.",
)


def relative_error(clean: Tensor, attacked: Tensor) -> Tensor:
    """Compute the comparison measure CM = ||clean - attacked|| / ||clean||, in norm 2 over all entries of a batch.

    Args:
        clean: What a layer makes of the inputs, any shape.
        attacked: What it makes of the attacked inputs, same shape.

    Returns:
        A scalar of at least 0; 0 where ``clean`` is 0.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> relative_error(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]))
        tensor(0.2000)
    """
    if clean.shape != attacked.shape:
        raise ValueError(f"attacked must have the shape of clean, {tuple(clean.shape)}, got {tuple(attacked.shape)}")
    precise = torch.promote_types(clean.dtype, torch.float32)
    size = torch.linalg.vector_norm(clean.to(precise))
    alive = size > 0
    change = torch.linalg.vector_norm(clean.to(precise) - attacked.to(precise))
    return (alive * change / torch.where(alive, size, 1.0)).to(clean.dtype)


def layer_errors(
    model: nn.Module,
    inputs: Tensor,
    attacked: Tensor,
    kinds: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ELU, nn.LeakyReLU),
) -> dict[str, float]:
    """Measure how much an attack changes what each layer of a model gives, in eval mode.

    Args:
        model: The network; left as it was.
        inputs: Inputs, (N, ...).
        attacked: What an attack made of them, same shape; or inputs with noise, to compare.
        kinds: The kinds of layers that are looked at; the authors' are the default.

    Returns:
        Name of each layer that the model calls to its `relative_error`, in the order of registration.

    Raises:
        ValueError: If the model calls no such layer, or shapes differ.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        >>> layer_errors(model, torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 1.0]]))
        {'1': 0.5}
    """
    names = [name for name, part in model.named_modules() if isinstance(part, kinds)]
    with evaluating(model), torch.no_grad():
        clean, changed = (_representations(model, given, names)[1] for given in (inputs, attacked))
    if not clean:
        wanted = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"kinds must hold one of a layer that the model calls, got {wanted}")
    return {name: relative_error(clean[name], changed[name]).item() for name in clean}


def most_vulnerable_layers(errors: Mapping[str, float], count: int | None = None) -> tuple[str, ...]:
    """Name the layers that an attack changes most.

    Args:
        errors: Name of each layer to its error, as `layer_errors` gives them; at least one.
        count: How many to name, at least 1; left out, those whose error is at least the mean of all.

    Returns:
        The names, those of the largest error first.

    Raises:
        ValueError: If there is no error, one is not a number, or ``count`` is outside its range.

    Example:
        >>> errors = {"first": 0.125, "second": 0.5, "third": 0.25}
        >>> most_vulnerable_layers(errors), most_vulnerable_layers(errors, count=2)
        (('second',), ('second', 'third'))
    """
    if not errors or any(math.isnan(error) for error in errors.values()):
        raise ValueError(f"errors must be numbers, at least one, got {dict(errors)}")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(errors)):
        raise ValueError(f"count must be a whole number from 1 to the {len(errors)} layers, got {count!r}")
    ordered = sorted(errors, key=lambda name: -errors[name])
    if count is not None:
        return tuple(ordered[:count])
    least = mean(errors.values())
    return tuple(name for name in ordered if errors[name] >= least)


@final
class LayerRegularizedLoss:
    """The loss of AT-LR: the cross-entropy of attacked images, and the weighted errors of chosen layers.

    It is J(f(a), y) + sum over layers l of gamma_l CM(phi_l(x), phi_l(a)) for images x, attacked a. With no layer, or
    weights of 0, it is the loss of adversarial training bit for bit, and images as they are do not pass the model.

    Args:
        gammas: Name of each layer, as `layer_errors` gives it, to its weight, finite and at least 0.

    Raises:
        ValueError: If a weight is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> images, attacked, labels = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]), torch.tensor([0])
        >>> [round(LayerRegularizedLoss({"1": gamma})(model, images, attacked, labels).item(), 4) for gamma in (0, 2)]
        [0.6931, 1.0931]
    """

    def __init__(self, gammas: Mapping[str, float]) -> None:
        for name, gamma in gammas.items():
            if isinstance(gamma, bool) or not 0 <= gamma < math.inf:
                raise ValueError(f"gammas must be finite and at least 0, got {gamma} for {name!r} in {dict(gammas)}")
        self.gammas = gammas

    def __call__(self, model: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch; the model is called as it is, on the attacked images first.

        Args:
            model: Maps images to logits (N, classes).
            images: Images, (N, ...).
            attacked: What an attack made of them, same shape.
            labels: Class numbers, int64, (N,), or shares of classes, (N, classes).

        Returns:
            A scalar.

        Raises:
            ValueError: If the model has no layer of a name, or does not call it.
        """
        weighed = {name: gamma for name, gamma in self.gammas.items() if gamma > 0}
        known = dict(model.named_modules())
        if missing := [name for name in weighed if name not in known]:
            raise ValueError(f"gammas must name layers of the model, got {missing[0]!r}; it has {', '.join(known)}")
        logits, changed = _representations(model, attacked, list(weighed))
        loss = F.cross_entropy(logits, labels)
        if not weighed:
            return loss
        _, clean = _representations(model, images, list(weighed))
        if idle := [name for name in weighed if name not in clean or name not in changed]:
            raise ValueError(f"gammas must name layers that the model calls, it does not call {idle[0]!r}")
        return loss + sum(gamma * relative_error(clean[name], changed[name]) for name, gamma in weighed.items())


def _representations(model: nn.Module, inputs: Tensor, names: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Give the logits, and all that each layer gives in the pass, flat; without the layers that are not called."""
    seen: dict[str, list[Tensor]] = {}

    def noting(name: str) -> RemovableHandle:
        def note(_layer: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise ValueError(f"a layer must give a tensor, {name!r} gives {type(output).__name__}")
            seen.setdefault(name, []).append(output.reshape(-1).clone())  # what follows may change it in place

        return model.get_submodule(name).register_forward_hook(note)

    hooks = [noting(name) for name in names]
    try:
        logits = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, {name: torch.cat(seen[name]) for name in names if name in seen}
