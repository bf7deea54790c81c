"""Expose before you defend (EBYD): unlearn what is clean, so that a backdoor stands alone, and then look for it.

Ascent on the loss of some clean images (clean unlearning) makes a classifier forget what it knows of them. A shortcut
by a trigger is forgotten last, and what has lost its class goes to the backdoor's target: the exposed classifier sees
clean images as that class. Units that hinder the exposed classifier from relearning belong to the backdoor.
Cost: some passes forward and backward over some hundred images, and as many for the masks.

Source:
    Y. Li, H. Huang, J. Zhang, X. Ma, Y.-G. Jiang, "Expose Before You Defend: Unifying and Enhancing Backdoor Defenses
    via Exposed Models", 2024, https://arxiv.org/abs/2410.19427, and the authors' code. Implemented: clean unlearning,
    the exposure by random labels, the label and the sign of a backdoor, and removal by masks as in Y. Li et al.,
    "Reconstructive Neuron Pruning for Backdoor Defense", 2023, https://arxiv.org/abs/2305.14876.

Deviations:
    - Unlearning is in eval mode, as it is in the authors' code, which never goes back from its first test; they clip
      gradients to norm 20 before these are computed, so that nothing is clipped, and here nothing is.
    - It ends after the first epoch whose accuracy is low enough, as the paper says; the authors' code goes on.
    - Exposure by pruning or by perturbed weights, and triggers of texts, are not here. A trigger is recovered from the
      exposed model by `paperweight.poisoning.reverse_triggers`.
    - Masks learn from all images at once, on the outputs of layers of batch normalisation, or of all convolutions and
      linear layers but the last where there are none of these; a masked unit is set to 0 with its bias.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["CleanUnlearning", "Exposure", "exposure", "pruned", "recovery_masks"]

PAPER = Paper(
    title="Expose Before You Defend: Unifying and Enhancing Backdoor Defenses via Exposed Models",
    authors=("Yige Li", "Hanxun Huang", "Jiaming Zhang", "Xingjun Ma", "Yu-Gang Jiang"),
    year=2024,
    url="https://arxiv.org/abs/2410.19427",
    provides={"CleanUnlearning": "unlearner", "exposure": "experiment", "recovery_masks": "function"},
    null={"lr": 0.0},
    claim="A model from which clean features were unlearned gives away the target of its backdoor better than the "
    "model itself.",
)

Model = TypeVar("Model", bound=nn.Module)


@final
class CleanUnlearning:
    """Makes a copy of a classifier forget clean images, by ascent on their loss or by training on random labels.

    Called as ``(model, forget, retain, generator=...)``, with pairs of a clean image and its label to forget; what is
    to be retained is not looked at.

    Args:
        lr: Adam's, at least 0; the paper has 1e-5 for networks of the size of ResNet-18, and for random labels 1e-4.
            Small networks need more. At 0 nothing changes.
        epochs: Largest number of passes over the images, at least 1; 20 in the paper.
        stop_accuracy: The accuracy on the images at which it ends, at least 0 and below 1; about chance, 0.1 in the
            paper for ten classes.
        random_labels: Whether to descend on labels drawn anew in each epoch, in place of ascent on the true ones.
        batch_size: Images a step, at least 1.
        weight_decay: Adam's, at least 0.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> _ = model[0].weight.data.copy_(torch.eye(2))
        >>> images = [(torch.tensor([1.0, 0.0]), 0), (torch.tensor([0.0, 1.0]), 1)]
        >>> unlearn = CleanUnlearning(lr=0.1)
        >>> exposed = unlearn(model, images, [], generator=torch.Generator().manual_seed(0))
        >>> exposed(torch.eye(2)).argmax(dim=1)
        tensor([1, 0])
    """

    def __init__(
        self,
        lr: float = 1e-5,
        epochs: int = 20,
        stop_accuracy: float = 0.1,
        random_labels: bool = False,
        batch_size: int = 128,
        weight_decay: float = 5e-4,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            _require(0 <= value < math.inf, name, "finite and at least 0", value)
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            _require_whole(name, value, 1)
        _require(0 <= stop_accuracy < 1, "stop_accuracy", "at least 0 and below 1", stop_accuracy)
        self.lr, self.epochs, self.stop_accuracy = lr, epochs, stop_accuracy
        self.random_labels, self.batch_size, self.weight_decay = random_labels, batch_size, weight_decay

    def __call__(self, model: Model, forget: Any, retain: Any, *, generator: torch.Generator) -> Model:
        """Return a copy of a classifier that has forgotten images, and leave the classifier as it is.

        Args:
            model: Maps images (N, ...) to logits (N, classes).
            forget: Pairs of a clean image and its label; some hundred suffice.
            retain: Not looked at.
            generator: Source of the order of the images, and of random labels.

        Returns:
            The copy, in the modes that the modules of ``model`` are in.
        """
        result = copy.deepcopy(model)
        weights = [weight for weight in result.parameters() if weight.requires_grad]
        if len(forget) == 0 or not weights:
            return result
        images, labels = default_collate([forget[place] for place in range(len(forget))])
        images, labels = images.to(weights[0].device), labels.to(weights[0].device)
        adam = torch.optim.Adam(weights, lr=self.lr, weight_decay=self.weight_decay)
        with evaluating(result), torch.enable_grad():
            for _ in range(self.epochs):
                order = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
                for part in order.split(self.batch_size):
                    adam.zero_grad()
                    self._loss(result(images[part]), labels[part], generator).backward()
                    adam.step()
                if _accuracy(result, images, labels) <= self.stop_accuracy:
                    break
        adam.zero_grad()
        return result

    def _loss(self, logits: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        if not self.random_labels:
            return -F.cross_entropy(logits, labels)
        drawn = torch.randint(logits.shape[1], labels.shape, generator=generator, device=generator.device)
        return F.cross_entropy(logits, drawn.to(labels.device))


@final
@dataclass(frozen=True, eq=False)
class Exposure:
    """What an exposed classifier gives away.

    Attributes:
        target: The class that it sees most of the clean images as: a backdoor's target, if there is a backdoor.
        dominance: Share of the clean images that it sees as this class; high where there is a backdoor.
        entropy: Entropy of the classes that it sees, in nats; low where there is a backdoor.
        shares: Share of the clean images that it sees as each class, float64, (classes,).
    """

    target: int
    dominance: float
    entropy: float
    shares: Tensor


@torch.no_grad()
def exposure(exposed: nn.Module, images: Tensor) -> Exposure:
    """Count what an exposed classifier sees in clean images.

    Args:
        exposed: What `CleanUnlearning` gave; maps images to logits.
        images: Clean images, of all classes alike, (N, ...), at least one.

    Returns:
        The most frequent class, of equally frequent ones the first, and how frequent it is.

    Raises:
        ValueError: If there are no images.

    Example:
        >>> found = exposure(nn.Identity(), torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 3.0], [1.0, 0.0]]))
        >>> found.target, found.dominance, round(found.entropy, 4)
        (1, 0.75, 0.5623)
    """
    _require(len(images) > 0, "images", "at least one", len(images))
    with evaluating(exposed):
        logits = torch.cat([exposed(part) for part in images.split(512)])
    counts = torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1])
    shares = counts.double() / len(images)
    entropy = torch.special.entr(shares).sum().abs().item()
    return Exposure(int(counts.argmax()), shares.max().item(), entropy, shares)


def recovery_masks(
    exposed: nn.Module, images: Tensor, labels: Tensor, *, lr: float = 0.04, momentum: float = 0.9, steps: int = 100
) -> dict[str, Tensor]:
    """Learn for each unit of an exposed classifier how much of it clean images need, its weights as they are.

    Each mask begins at 1, goes down the cross-entropy of the clean images, and is kept within 0 and 1.

    Args:
        exposed: What `CleanUnlearning` gave; maps images to logits.
        images: Clean images, (N, ...), at least one.
        labels: Their labels, int64, (N,).
        lr: Of the descent, above 0; the source of the masks has 0.2, of a fifth of the loss.
        momentum: Of the descent, at least 0 and below 1.
        steps: Number of steps, at least 1.

    Returns:
        Name of a layer to the masks of its units, (units,): low for units that are in the way.

    Raises:
        ValueError: If an argument is outside its range, or there is no layer to mask.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> _ = model[0].weight.data.fill_(1.0)
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> recovery_masks(model, torch.ones(1, 1), torch.tensor([0]))
        {'0': tensor([1., 0.])}
    """
    _require(0 < lr < math.inf, "lr", "finite and above 0", lr)
    _require(0 <= momentum < 1, "momentum", "at least 0 and below 1", momentum)
    _require_whole("steps", steps, 1)
    _require(len(images) > 0, "images", "at least one", len(images))
    _require(labels.shape == images.shape[:1], "labels", f"one of each of {len(images)} images", tuple(labels.shape))
    layers = _masked_layers(exposed)
    masks = {name: images.new_ones(_units(layer)).requires_grad_() for name, layer in layers.items()}

    def masking(mask: Tensor) -> Any:
        def hook(layer: nn.Module, given: Any, output: Tensor) -> Tensor:
            last = isinstance(layer, nn.Linear)
            return output * (mask if last else mask.view(-1, *[1] * (output.ndim - 2)))

        return hook

    hooks = [layer.register_forward_hook(masking(masks[name])) for name, layer in layers.items()]
    sgd = torch.optim.SGD(masks.values(), lr=lr, momentum=momentum)
    try:
        with evaluating(exposed), torch.enable_grad():
            for _ in range(steps):
                gradients = torch.autograd.grad(F.cross_entropy(exposed(images), labels), list(masks.values()))
                for mask, gradient in zip(masks.values(), gradients, strict=True):
                    mask.grad = gradient
                sgd.step()
                for mask in masks.values():
                    mask.data.clamp_(0, 1)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: mask.detach() for name, mask in masks.items()}


@torch.no_grad()
def pruned(model: Model, masks: Mapping[str, Tensor], threshold: float) -> Model:
    """Give a copy of a classifier without the units whose mask is at most a threshold, each set to 0.

    Args:
        model: The classifier that was exposed, itself not exposed.
        masks: What `recovery_masks` gave for the exposed one.
        threshold: The threshold, at least 0 and below 1.

    Raises:
        ValueError: If the threshold is outside its range, or the model has no such layer.

    Example:
        >>> pruned(nn.Sequential(nn.Linear(1, 1)), {"0": torch.zeros(1)}, threshold=0.5)[0].bias.item()
        0.0
    """
    _require(0 <= threshold < 1, "threshold", "at least 0 and below 1", threshold)
    result = copy.deepcopy(model)
    layers = dict(result.named_modules())
    for name, mask in masks.items():
        if name not in layers:
            raise ValueError(f"masks must name layers of model, which has no {name!r}")
        for weight in layers[name].parameters(recurse=False):
            weight[mask <= threshold] = 0
    return result


def _masked_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find the layers whose units are masked, by name."""
    kinds: tuple[Any, ...] = (nn.BatchNorm1d, nn.BatchNorm2d)
    found = {name: part for name, part in model.named_modules() if isinstance(part, kinds) and part.affine}
    if not found:
        weighted = [(n, part) for n, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        found = dict(weighted[:-1])
    _require(bool(found), "exposed", "a network with a hidden layer", type(model).__name__)
    return found


def _units(layer: nn.Module) -> int:
    return len(layer.get_parameter("weight"))


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        seen = torch.cat([model(part).argmax(dim=1) for part in images.split(512)])
    return (seen == labels).double().mean().item()


def _require_whole(name: str, value: int, least: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    _require(whole, name, f"a whole number of at least {least}", value)


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")
