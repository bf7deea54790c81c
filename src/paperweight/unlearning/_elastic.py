"""What holds the weights of a denoiser where they were: the Fisher information, and an elastic penalty by it.

Source:
    A. Heng, H. Soh, "Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative Models",
    NeurIPS, 2023, https://arxiv.org/abs/2305.10120.

Deviations:
    those of `paperweight.unlearning.selective_amnesia`
"""

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from paperweight.generators.cross_attention import parameter_group
from paperweight.generators.process import add_noise, normal
from paperweight.unlearning._fine_tuning import caption_list, copied, fine_tuned, prediction_of

__all__ = ["check_counts", "elastic_penalty", "fisher_diagonal", "losses_of"]


def elastic_penalty(parameters: Sequence[Tensor], anchors: Sequence[Tensor], fisher: Sequence[Tensor]) -> Tensor:
    """Compute sum_i F_i (theta_i - theta*_i)^2.

    Args:
        parameters: The weights theta, any shapes.
        anchors: Where they are held, theta*, of the same shapes.
        fisher: How strongly each of them is held, F, of the same shapes.

    Returns:
        A scalar; its gradient is 2 F (theta - theta*).

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> elastic_penalty([torch.tensor([3.0, 1.0])], [torch.tensor([1.0, 1.0])], [torch.tensor([0.5, 9.0])])
        tensor(2.)
    """
    groups = list(zip_longest(parameters, anchors, fisher, fillvalue=torch.empty(0)))
    for shapes in ([tuple(each.shape) for each in group] for group in groups):
        if len(set(shapes)) > 1:
            raise ValueError(f"parameters, anchors and fisher must have the same shapes, got {shapes}")
    return torch.stack([(f * (p - a).square()).sum() for p, a, f in groups]).sum()


def fisher_diagonal(
    model: Any,
    x: Tensor,
    captions: Sequence[str],
    *,
    generator: torch.Generator,
    times: int | None = None,
    batch_size: int = 128,
) -> dict[str, Tensor]:
    """Estimate the diagonal of the Fisher information: the mean over samples of (d/d theta_i sum_t loss_t)^2.

    Args:
        model: Meets `ConditionalDiffusion`, with the denoiser as ``network``, such as `TextToImage`.
        x: What is diffused, without noise, (N, C, H, W), such as the encoded images of the model itself.
        captions: A caption for each of them.
        generator: Draws the noise, fresh at each time.
        times: Number of evenly spaced times of the chain, whose sum is scaled up to all; None for all, as in the paper.
        batch_size: Noised copies of one sample that are in memory at once, at least 1.

    Returns:
        That of each parameter of the ``network``, by name, in its shape, in float32 at least.

    Raises:
        ValueError: If a number is out of range.
        InputError: If there is not one caption a sample, or one cannot be encoded.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle",)).build()
        >>> x, generator = torch.zeros(1, 1, 8, 8), torch.Generator().manual_seed(0)
        >>> fisher_diagonal(model, x, ["circle"], times=3, generator=generator)["out.bias"].shape
        torch.Size([1])
    """
    given, total = caption_list("captions", captions), len(model.schedule)
    check_counts({"batch_size": (batch_size, 1)})
    check_counts({"times": (times, 1)}, total)
    chosen = torch.linspace(0, total - 1, times or total, dtype=torch.float64).round().long()
    student = copied(model)
    with fine_tuned(student, "all") as weights:
        conditions = student.condition(given, len(x)).detach()
        squares = [
            torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) for weight in weights
        ]
        for pair in zip(x, conditions, strict=True):
            student.network.zero_grad()
            for part in chosen.split(batch_size):
                sample, condition = (each.expand(len(part), *each.shape) for each in pair)
                losses = losses_of(student, sample, condition, part, generator)
                (losses.sum() * (total / len(chosen))).backward()
            for square, weight in zip(squares, weights, strict=True):
                square += 0 if weight.grad is None else weight.grad.to(square).square() / len(x)
        return dict(zip(parameter_group(student.network, "all"), squares, strict=True))


def losses_of(model: Any, x: Tensor, condition: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
    """Compute for each sample at its time the squared error of what the network predicts, summed over pixels, (N,).

    As z is the same, an error d of the noise is one of sqrt((1 - abar) / abar) d in the data, and d / sqrt(abar) in v.
    """
    abar = model.schedule.abar[t]
    noise = normal(x, generator)
    error = model.eps(add_noise(x, noise, abar), model.schedule.times[t].to(x.device), condition) - noise
    weight = {"eps": torch.ones_like(abar), "x0": (1 - abar) / abar, "v": 1 / abar}[prediction_of(model)]
    return weight.to(x) * error.square().flatten(1).sum(dim=1)


def check_counts(counts: dict[str, tuple[int | None, int]], most: float = math.inf) -> None:
    for name, (count, least) in counts.items():
        if count is not None and not (isinstance(count, int) and least <= count <= most):
            limit = f" and at most the model's {most} training times" if most < math.inf else ""
            raise ValueError(f"{name} must be a whole number of at least {least}{limit}, got {count}")
