"""RiFT, robust critical fine-tuning: fine-tunes the one layer of a robust network that its robustness needs least.

Adversarial training costs accuracy on natural images, and not all of a network is needed for the robustness that it
buys. Each layer's weights are changed within a small ball so that the loss on attacked images rises most; the layer
whose loss rises least is trained on natural images, and the weights are mixed with the old ones as far as accuracy
under attack allows. It goes with any adversarial training, which it begins after.
Cost: for each layer ten passes, forward and backward, over the attacked images; some epochs of plain training; and an
evaluation with attack for each mixture.

Source:
    K. Zhu, X. Hu, J. Wang, X. Xie, G. Yang, "Improving Generalization of Adversarial Training via Robust Critical
    Fine-Tuning", ICCV, 2023, https://arxiv.org/abs/2308.02533, and its code,
    https://github.com/microsoft/robustlearn/tree/main/RiFT: the module robust criticality, the fine-tuning of the
    module where it is lowest, and the interpolation.

Deviations:
    - The loss is raised by steps of one length, each the steepest, on all images at once, and projected after each; the
      authors take SGD of rate 1 on batches, and project after each of ten epochs. Unchanged weights count as a step, so
      that no criticality is below 0.
    - Epoch and mixture are chosen on validation images; the authors' code takes the test images for both, and for the
      criticality.
    - The whole network is in eval mode while a layer is fine-tuned, so that nothing but this layer changes; in the
      authors' code statistics of batch normalization move, too.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["FineTuned", "critical_fine_tuning", "interpolated", "module_criticality"]

PAPER = Paper(
    title="Improving Generalization of Adversarial Training via Robust Critical Fine-Tuning",
    authors=("Kaijie Zhu", "Xixu Hu", "Jindong Wang", "Xing Xie", "Ge Yang"),
    year=2023,
    url="https://arxiv.org/abs/2308.02533",
    provides={
        "critical_fine_tuning": "experiment",
        "module_criticality": "experiment",
        "interpolated": "function",
    },
    claim="Training its least critical layer makes a robust network more accurate without attack, and no less robust.",
)

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH = 512


@final
@dataclass(frozen=True, eq=False)
class FineTuned:
    """What fine-tuning one layer of a network gave.

    Attributes:
        module: Name of the layer.
        share: Share of the fine-tuned weights in the mixture that was chosen; 0 where none was better.
        state: The weights and buffers of the mixture, for the network's ``load_state_dict``.
        shares: All shares that were tried, ascending.
        accuracy: Accuracy on validation images of the mixture with each share.
        under_attack: Accuracy on validation images that are attacked, each mixture by its own gradients.
    """

    module: str
    share: float
    state: Mapping[str, Tensor]
    shares: Sequence[float]
    accuracy: Sequence[float]
    under_attack: Sequence[float]


def projected(change: Tensor, radius: float) -> Tensor:
    """Give the nearest change of norm at most the radius."""
    return change * (radius / change.norm().clamp(min=torch.finfo(change.dtype).tiny)).clamp(max=1)


def module_criticality(
    model: nn.Module, attacked: Tensor, labels: Tensor, *, lam: float = 0.1, steps: int = 10
) -> dict[str, float]:
    """Measure by how much the loss on attacked images can rise if one layer's weights change a little.

    Of each linear and convolutional layer the weights, without the bias, are changed by steepest ascent within the ball
    of relative radius ``lam``; the attacked images stay. The model is in eval mode meanwhile, and keeps its weights.

    Args:
        model: Maps images to logits (N, classes).
        attacked: Images that an attack on the model has changed, (N, ...), N at least 1.
        labels: Class numbers, int64, (N,).
        lam: Radius of a layer's ball in units of the norm of its weights, at least 0; the paper has 0.1.
        steps: Steps of ascent, at least 1; each of 2.5 radii divided by their number.

    Returns:
        Name of a layer to the rise of the mean cross-entropy, at least 0 nats, in the order of the layers.

    Raises:
        ValueError: If an argument is not as above, or the model has no such layer.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = module_criticality(nn.Sequential(model), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        >>> {name: round(rise, 4) for name, rise in found.items()}
        {'0': 0.0578}
    """
    _check_images("attacked", attacked, labels)
    if isinstance(lam, bool) or not 0 <= lam < math.inf:
        raise ValueError(f"lam must be at least 0 and finite, got {lam}")
    _check_whole("steps", steps)
    return {name: _rise(model, name, weight, attacked, labels, lam, steps) for name, weight in _weights(model).items()}


def _rise(model: nn.Module, name: str, weight: Tensor, images: Tensor, labels: Tensor, lam: float, steps: int) -> float:
    """Raise the mean loss by the weights of one layer, and give by how much it rose at most."""
    radius = lam * weight.norm().item()
    change, losses = torch.zeros_like(weight), list[float]()
    with evaluating(model), torch.enable_grad():
        for _ in range(steps + 1):
            change = change.detach().requires_grad_()
            total, gradient = 0.0, torch.zeros_like(weight)
            for batch, of in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
                logits = functional_call(model, {f"{name}.weight": weight + change}, (batch,))
                loss = F.cross_entropy(logits, of, reduction="sum") / len(labels)
                gradient += torch.autograd.grad(loss, change)[0]
                total += loss.item()
            losses.append(total)
            size = gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny)
            change = projected(change.detach() + 2.5 * radius / steps * gradient / size, radius)
    return max(losses) - losses[0]


def interpolated(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Mix two states of a network: (1 - share) times the first plus ``share`` times the second.

    Args:
        first: Tensors by name, such as a ``state_dict``.
        second: Tensors of the same names and shapes.
        share: Share of the second, within 0 and 1; at 0 and 1 the states themselves, bit for bit.

    Returns:
        New tensors by name; those that are not floating are those of the first, at a share of 1 of the second.

    Raises:
        ValueError: If the share is outside its range, or names or shapes differ.

    Example:
        >>> interpolated({"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}, 0.25)
        {'w': tensor([0.5000])}
    """
    if isinstance(share, bool) or not 0 <= share <= 1:
        raise ValueError(f"share must be within 0 and 1, got {share}")
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError("second must have the names and shapes of first; give states of the same network")
    if share in (0, 1):
        return {name: tensor.detach().clone() for name, tensor in (second if share else first).items()}
    return {
        name: torch.lerp(tensor.detach(), second[name].to(tensor), share)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in first.items()
    }


def critical_fine_tuning(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    validation_images: Tensor,
    validation_labels: Tensor,
    *,
    module: str,
    attack: Callable[..., Tensor],
    lr: float = 1e-3,
    epochs: int = 10,
    batch_size: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    tolerance: float = 0.001,
    generator: torch.Generator,
) -> FineTuned:
    """Fine-tune one layer of a robust network on natural images, and mix as far as its robustness allows.

    The layer is trained by SGD on cross-entropy, at a tenth of the rate in the second half of the epochs; kept is the
    epoch that is most accurate on validation images. Of eleven mixtures, a tenth apart, that one is chosen which is
    most accurate without attack among those that lose no more than ``tolerance`` under attack; of equal ones that with
    the least change. The model stays as it is.

    Args:
        model: Maps images to logits (N, classes).
        images: Natural images, (N, ...), N at least 1.
        labels: Class numbers, int64, (N,).
        validation_images: Images on which epoch and mixture are chosen, (M, ...), M at least 1.
        validation_labels: Their class numbers, int64, (M,).
        module: Name of the layer whose parameters are trained, of lowest `module_criticality`; empty for the network.
        attack: Called with a mixture, images, labels and ``generator``: a `paperweight.attacks.ProjectedGradient`, say.
        lr: Learning rate, at least 0; the paper has 0.001.
        epochs: Number of epochs, at least 1; the paper has 10.
        batch_size: Images a batch, at least 1; the last of an epoch may be smaller.
        momentum: Momentum of SGD, at least 0.
        weight_decay: Weight decay of SGD, at least 0.
        tolerance: Accuracy under attack that a mixture may lose, at least 0; the paper has 0.001.
        generator: Source of the shuffles; each attack starts from a copy of it.

    Returns:
        The mixture, and what every mixture achieved.

    Raises:
        ValueError: If an argument is not as above, or the model has no such layer with parameters.

    Example:
        >>> from paperweight.attacks import ProjectedGradient
        >>> images, labels = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
        >>> found = critical_fine_tuning(nn.Sequential(nn.Linear(4, 2)), images, labels, images, labels, module="0",
        ...     attack=ProjectedGradient(radius=0.1, steps=2), generator=torch.Generator().manual_seed(0))
        >>> found.module, len(found.shares), sorted(found.state)
        ('0', 11, ['0.bias', '0.weight'])
    """
    _check_images("images", images, labels)
    _check_images("validation_images", validation_images, validation_labels)
    for name, number in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay), ("tolerance", tolerance)):
        if isinstance(number, bool) or not 0 <= number < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {number}")
    _check_whole("epochs", epochs)
    _check_whole("batch_size", batch_size)
    trained = copy.deepcopy(model).eval().requires_grad_(False)
    layers = dict(trained.named_modules())
    if module not in layers or not any(True for _ in layers[module].parameters()):
        raise ValueError(f"module must name a part of the model that has parameters, got {module!r}")
    parameters = list(layers[module].requires_grad_().parameters())
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    first = copy.deepcopy(trained.state_dict())
    best, highest = first, -1.0
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr if 2 * epoch < epochs else lr / 10
        order = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
        for index in order.split(batch_size):
            optimizer.zero_grad()
            with torch.enable_grad():
                F.cross_entropy(trained(images[index]), labels[index]).backward()
            optimizer.step()
        reached = _accuracy(trained, validation_images, validation_labels)
        if reached > highest:
            best, highest = copy.deepcopy(trained.state_dict()), reached
    shares = [number / 10 for number in range(11)]
    accuracy, under_attack = list[float](), list[float]()
    for share in shares:
        trained.load_state_dict(interpolated(first, best, share))
        same = torch.Generator(generator.device)
        same.set_state(generator.get_state())
        changed = attack(trained, validation_images, validation_labels, generator=same)
        accuracy.append(_accuracy(trained, validation_images, validation_labels))
        under_attack.append(_accuracy(trained, changed, validation_labels))
    allowed = [number for number in range(11) if under_attack[number] >= under_attack[0] - tolerance]
    chosen = max(allowed, key=lambda number: accuracy[number])
    state = interpolated(first, best, shares[chosen])
    return FineTuned(module, shares[chosen], state, shares, accuracy, under_attack)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Give the weights of linear and convolutional layers by the layers' names; one at two places counts once."""
    found = {
        name: part.weight.detach()
        for name, part in model.named_modules()
        if isinstance(part, _LAYERS) and "weight" in part._parameters
    }
    if not found:
        raise ValueError("model must have a linear or convolutional layer with a weight of its own, it has none")
    return found


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        right = [
            (model(x).argmax(1) == y).sum() for x, y in zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
        ]
    return torch.stack(right).sum().item() / len(labels)


def _check_images(name: str, images: Tensor, labels: Tensor) -> None:
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"{name} must be as many as their labels, at least 1, got {len(images)} and {len(labels)}")
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels of {name} must be class numbers, int64, got {labels.dtype} {tuple(labels.shape)}")


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
