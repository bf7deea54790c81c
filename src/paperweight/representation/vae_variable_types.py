"""Types of latents of a variational autoencoder, and what they do to the correlation of its mean representation.

The encoder gives a mean and a variance for each latent and input. An active latent has variances near 0: it says
something of every input. A passive one has variances near 1: it is noise that the decoder ignores; a mixed one is
either, as the input has it. Nothing keeps the tiny means of passive latents from being correlated with others, while
their samples are independent noise. So means are more correlated than samples until passive latents are left out.
Cost: one pass of the encoder over the data, and determinants of d x d matrices.

Source:
    L. Bonheme, M. Grzes, "Be More Active! Understanding the Differences between Mean and Sampled Representations of
    Variational Autoencoders", 2021 (JMLR 24, 2023), https://arxiv.org/abs/2109.12679. Implemented: the three types,
    total correlation of a Gaussian and averaged mutual information of mean and sampled representations, of all latents
    and of some. Thresholds, bins and averages are those of the authors' code, https://github.com/bonheml/tc_study.

Deviations:
    - Total correlation is computed from correlations, which is the same but for rounding, and a latent that never
      varies counts as independent of all others; the authors' formula is not defined there.
    - The paper compares autoencoders of five kinds on images of known factors. What is here takes means and variances
      from any encoder.
"""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.representation._vae import check_whole, gaussian_sample

__all__ = [
    "LatentComparison",
    "averaged_mutual_information",
    "compare_latents",
    "total_correlation",
    "variable_types",
]

PAPER = Paper(
    title="Be More Active! Understanding the Differences between Mean and Sampled Representations of Variational "
    "Autoencoders",
    authors=("Lisa Bonheme", "Marek Grzes"),
    year=2021,
    url="https://arxiv.org/abs/2109.12679",
    provides={
        "compare_latents": "experiment",
        "averaged_mutual_information": "function",
        "total_correlation": "function",
        "variable_types": "function",
    },
    claim="Passive latents are why means are more correlated than samples: active ones are about as much in both.",
)

VariableType = Literal["active", "mixed", "passive"]


def variable_types(variances: Tensor, error: float = 0.1, spread: float = 0.1) -> tuple[VariableType, ...]:
    """Tell by its variances over a data set of which type each latent is.

    Active where their mean is at most ``error``, passive where it is at most that far from 1, each only where they vary
    by less than ``spread``; else mixed.

    Args:
        variances: Variances that the encoder gives, at least 0, (N, d), N and d at least 1.
        error: How far the mean may be from 0 or 1, in (0, 0.5); 0.1 in the authors' code.
        spread: Bound of the variance of the variances, above 0; 0.1 in the authors' code.

    Returns:
        The type of each latent.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> variable_types(torch.tensor([[0.01, 1.0, 0.02], [0.03, 0.98, 1.0]]))
        ('active', 'passive', 'mixed')
    """
    _check_codes("variances", variances)
    if not bool((variances >= 0).all()):
        raise ValueError(f"variances must be at least 0, got {variances.min().item()}")
    if not 0 < error < 0.5:
        raise ValueError(f"error must be in (0, 0.5), got {error!r}")
    if not 0 < spread < math.inf:
        raise ValueError(f"spread must be finite and above 0, got {spread!r}")
    given = variances.detach().double()
    steady = (given.var(dim=0, correction=0) < spread).tolist()

    def type_of(mean: float, steady: bool) -> VariableType:
        if steady and mean <= error:
            return "active"
        return "passive" if steady and abs(mean - 1) <= error else "mixed"

    return tuple([type_of(mean, each) for mean, each in zip(given.mean(dim=0).tolist(), steady, strict=True)])


def total_correlation(codes: Tensor) -> float:
    """Compute the total correlation that Gaussian codes of these covariances have: -log det(correlations) / 2.

    It is 0 where all are uncorrelated, whatever the scale of each, and large where one nearly follows from others.

    Args:
        codes: Codes of samples, (N, d), N at least 2, d at least 1.

    Returns:
        Nats, at least 0.

    Raises:
        ValueError: If ``codes`` is not as above, or not finite.

    Example:
        >>> total_correlation(torch.tensor([[1.0, 5.0], [1.0, -5.0], [-1.0, 5.0], [-1.0, -5.0]]))
        0.0
    """
    _check_codes("codes", codes, least=2)
    logs = torch.linalg.slogdet(_correlations(codes)).logabsdet.item()
    return max(0.0, -0.5 * logs)


def averaged_mutual_information(codes: Tensor, bins: int = 20) -> float:
    """Compute the mutual information of two latents, each in bins of equal width, averaged over all pairs.

    Args:
        codes: Codes of samples, (N, d), N at least 2, d at least 1.
        bins: Bins between the lowest and the highest value of each latent, at least 2; 20 in the authors' code.

    Returns:
        Nats, at least 0; 0 where there is one latent only.

    Raises:
        ValueError: If an argument is outside its range, or ``codes`` not finite.

    Example:
        >>> codes = torch.tensor([[0.0, 1.0], [1.0, 2.0]])
        >>> round(averaged_mutual_information(codes, bins=2) / math.log(2), 4)
        1.0
    """
    _check_codes("codes", codes, least=2)
    check_whole("bins", bins, 2)
    given = codes.detach().double()
    dim = given.shape[1]
    if dim == 1:
        return 0.0
    lowest = given.amin(dim=0)
    width = given.amax(dim=0) - lowest
    share = (given - lowest) / torch.where(width > 0, width, 1.0)
    places = (share * bins).long().clamp(max=bins - 1)
    hot = F.one_hot(places, bins).double().flatten(1)
    joint = (hot.T @ hot / len(hot)).reshape(dim, bins, dim, bins)
    alone = hot.mean(dim=0).reshape(dim, bins)
    apart = alone[:, :, None, None] * alone[None, None]
    known = (torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, apart)).sum(dim=(1, 3))
    return max(0.0, (known.sum() - known.trace()).item() / (dim * (dim - 1)))


@final
@dataclass(frozen=True)
class LatentComparison:
    """How far latents depend on each other in the mean and in the sampled representation.

    Attributes:
        types: The type of each latent.
        total_correlation: In nats, by what is measured: ``"mean"`` and ``"sampled"`` of all latents, ``"mean active"``
            and ``"sampled active"`` of active ones alone, ``"mean kept"`` and ``"sampled kept"`` of all but passive
            ones; 0 where fewer than two are left.
        mutual_information: The averaged mutual information, in nats, likewise.
    """

    types: tuple[VariableType, ...]
    total_correlation: dict[str, float]
    mutual_information: dict[str, float]


def compare_latents(
    mean: Tensor,
    log_variance: Tensor,
    bins: int = 20,
    error: float = 0.1,
    spread: float = 0.1,
    *,
    generator: torch.Generator,
) -> LatentComparison:
    """Tell the types of latents, and measure how far means and samples of them depend on each other.

    Args:
        mean: Means that an encoder gives for a data set, finite, (N, d), N at least 2, d at least 1.
        log_variance: Logarithms of the variances, of that shape; minus infinity for no variance.
        bins: Bins of the mutual information, at least 2.
        error: As in `variable_types`.
        spread: As in `variable_types`.
        generator: Source of the samples, of which one is drawn for each input.

    Returns:
        What was found.

    Raises:
        ValueError: If an argument is outside its range, or the variances are not finite.

    Example:
        >>> normal = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
        >>> mean = normal * torch.tensor([1.0, 1.0, 0.01])
        >>> mean[:, 2] += 0.01 * mean[:, 0]  # a passive latent of tiny means, which follow an active one
        >>> found = compare_latents(mean, torch.tensor([-5.0, -5.0, 0.0]).expand(2000, 3), generator=torch.Generator())
        >>> found.types, [round(found.total_correlation[of], 1) for of in ("mean", "sampled", "mean active")]
        (('active', 'active', 'passive'), [0.3, 0.0, 0.0])
    """
    _check_codes("mean", mean, least=2)
    if log_variance.shape != mean.shape or not log_variance.is_floating_point():
        raise ValueError(
            f"log_variance must be floating, of shape {tuple(mean.shape)}, got {log_variance.dtype} of "
            f"{tuple(log_variance.shape)}"
        )
    variances = log_variance.detach().double().exp()
    if not bool(variances.isfinite().all()):
        raise ValueError(f"log_variance must give finite variances, got up to {log_variance.max().item()}")
    types = variable_types(variances, error, spread)
    codes = {"mean": mean.detach(), "sampled": gaussian_sample(mean.detach(), log_variance.detach(), generator)}
    kept = {
        "": list(range(len(types))),
        " active": [place for place, each in enumerate(types) if each == "active"],
        " kept": [place for place, each in enumerate(types) if each != "passive"],
    }
    parts = {f"{of}{which}": given[:, places] for which, places in kept.items() for of, given in codes.items()}
    return LatentComparison(
        types,
        {name: total_correlation(part) if part.shape[1] > 1 else 0.0 for name, part in parts.items()},
        {name: averaged_mutual_information(part, bins) if part.shape[1] > 1 else 0.0 for name, part in parts.items()},
    )


def _correlations(codes: Tensor) -> Tensor:
    """Compute the correlations of codes, (d, d), in float64; one that never varies has none with others."""
    given = codes.detach().double()
    largest = given.abs().amax(dim=0)
    centred = given / torch.where(largest > 0, largest, 1.0)
    centred = centred - centred.mean(dim=0)
    length = centred.norm(dim=0)
    still = length <= 1e-12 * len(given) ** 0.5
    unit = centred / torch.where(still, 1.0, length)
    found = torch.where(still[:, None] | still[None], 0.0, unit.T @ unit)
    return found.fill_diagonal_(1.0)


def _check_codes(name: str, given: Tensor, least: int = 1) -> None:
    if given.ndim != 2 or len(given) < least or not given.numel() or not given.is_floating_point():
        raise ValueError(
            f"{name} must be floating, (N, d) with N at least {least} and d at least 1, got {given.dtype} of "
            f"{tuple(given.shape)}"
        )
    if not bool(given.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {given[~given.isfinite()][0].item()}")
