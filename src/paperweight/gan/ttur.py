"""Two time-scale update rule (TTUR), and the Fréchet distance of features, by which it was judged.

Generator and critic take one step each in turn, with learning rates of their own, in place of several critic steps a
step. That is two optimizers, one for each network, and needs no code; what stays of the paper is how samples are
judged: fit a Gaussian to features of the samples and one to features of data, and take their Fréchet distance.
Cost: for D features one Cholesky factor, two products and the eigenvalues of a matrix D x D in float64; singular or
nearly singular covariances need one or two eigendecompositions and singular values more.

Source:
    M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, "GANs Trained by a Two Time-Scale Update Rule
    Converge to a Local Nash Equilibrium", NeurIPS, 2017, https://arxiv.org/abs/1706.08500. Implemented: the distance,
    equation 6, of features of any extractor. That covariances are divided by N - 1 is as in the authors' code,
    https://github.com/bioinf-jku/TTUR.

Deviations:
    - There is no Inception network: the extractor is the caller's, and the distance bears its name. Values of two
      extractors do not compare, and none compares with published ones.
    - The trace of the root of C1 C2 is a sum of roots of eigenvalues, or of singular values, which are real and not
      negative. The authors' code takes the root of a matrix that is not symmetric, drops what is imaginary, and adds
      1e-6 to the diagonals where the root is not finite; here nothing is added.
    - Fewer samples than features are allowed; the distance is then biased upwards more, as it is for any finite number.
    - The rule's proof of convergence and the view of Adam as a heavy ball with friction call for no code. Both
      networks are not updated at once, as the proof has it, but the critic first, as in the authors' code.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["FrechetDistance", "frechet_distance", "gaussian_statistics"]

PAPER = Paper(
    title="GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
    authors=(
        "Martin Heusel",
        "Hubert Ramsauer",
        "Thomas Unterthiner",
        "Bernhard Nessler",
        "Sepp Hochreiter",
    ),
    year=2017,
    url="https://arxiv.org/abs/1706.08500",
    provides={"FrechetDistance": "metric", "frechet_distance": "function", "gaussian_statistics": "function"},
    claim="A generator whose critic has a learning rate of its own comes closer to the data than with one rate.",
)

_LOST = 1e-12  # eigenvalues of a product below so much of the product of the norms may be lost in rounding


class _Moments(NamedTuple):
    """Number of samples, mean (D,) of their features, and sum of the squares about it, (D, D)."""

    samples: int
    mean: Tensor
    scatter: Tensor


def _moments(features: Tensor) -> _Moments:
    """Sum up features (N, D) in float64."""
    precise = features.detach().to(torch.float64)
    mean = precise.mean(dim=0)
    centred = precise - mean
    return _Moments(len(precise), mean, centred.T @ centred)


def _merged(a: _Moments, b: _Moments) -> _Moments:
    """Give the moments of two sets together, from deviations alone (Chan, Golub and LeVeque, 1983)."""
    samples = a.samples + b.samples
    step = b.mean - a.mean
    scatter = a.scatter + b.scatter + torch.outer(step, step) * (a.samples * b.samples / samples)
    return _Moments(samples, a.mean + step * (b.samples / samples), scatter)


def gaussian_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a Gaussian to features: their mean, and their covariance, divided by N - 1.

    Args:
        features: Features, (N, D), of any dtype; N at least 2.

    Returns:
        Mean (D,) and covariance (D, D), float64, on the features' device, without gradient.

    Raises:
        ValueError: If the features are not of shape (N, D), or fewer than two.

    Example:
        >>> mean, covariance = gaussian_statistics(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        >>> mean.tolist(), covariance.tolist()
        ([1.0, 1.0], [[2.0, 0.0], [0.0, 0.0]])
    """
    _check_features("features", features)
    if len(features) < 2:
        raise ValueError(f"features must be of at least 2 samples, got {len(features)}")
    samples, mean, scatter = _moments(features)
    return mean, scatter / (samples - 1)


def _factor(covariance: Tensor) -> Tensor:
    """Return R (D, rank) with R R^T = C: of Cholesky, or where C is singular in float64, of its eigenvectors."""
    floor = len(covariance) * torch.finfo(covariance.dtype).eps
    lower, failed = torch.linalg.cholesky_ex(covariance)
    pivots = lower.diagonal().square()
    if not failed and pivots.min() > floor * pivots.max():
        return lower
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > floor * values[-1].clamp(min=0)
    return vectors[:, kept] * values[kept].sqrt()


def _trace_of_root(first: Tensor, second: Tensor) -> float:
    """Compute Tr (C1 C2)^(1/2): with C1 = R1 R1^T the sum of the roots of the eigenvalues of R1^T C2 R1.

    The root of an eigenvalue that is lost in rounding would be wrong in its eighth digit. Where one might be, it is
    the sum of the singular values of R1^T R2 with C2 = R2 R2^T, the same numbers without a root.
    """
    factor = _factor(first)
    if factor.shape[1] == 0:
        return 0.0
    squares = torch.linalg.eigvalsh(factor.T @ (second @ factor))
    if squares[0] > _LOST * (first.norm() * second.norm()):
        return squares.sqrt().sum().item()
    return torch.linalg.svdvals(factor.T @ _factor(second)).sum().item()


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Compute the squared Fréchet distance of two Gaussians (equation 6): |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    It is also their squared 2-Wasserstein distance. Covariances may be singular. The error is below about 1e-11
    times Tr(C1 + C2).

    Args:
        mean1: Mean of one Gaussian, (D,).
        cov1: Its covariance, symmetric without negative eigenvalues, (D, D).
        mean2: Mean of the other, (D,).
        cov2: Its covariance, (D, D).

    Returns:
        The distance, at least 0, computed in float64 without gradient; not a number where an argument is not finite.

    Raises:
        ValueError: If the shapes do not agree.

    Example:
        >>> mean, cov = torch.zeros(2), torch.eye(2)
        >>> frechet_distance(mean, cov, mean + 3, 4 * cov)
        20.0
    """
    shape = mean1.shape
    if mean1.ndim != 1 or not len(mean1):
        raise ValueError(f"mean1 must have shape (D,) with D at least 1, got {tuple(shape)}")
    for name, given, wanted in (("cov1", cov1, shape * 2), ("mean2", mean2, shape), ("cov2", cov2, shape * 2)):
        if given.shape != wanted:
            raise ValueError(f"{name} must have shape {tuple(wanted)}, as mean1 asks, got {tuple(given.shape)}")
    mean1, cov1, mean2, cov2 = (part.detach().to(torch.float64) for part in (mean1, cov1, mean2, cov2))
    step = (mean1 - mean2).square().sum().item()
    total = (cov1.trace() + cov2.trace()).item()
    if not all(bool(part.isfinite().all()) for part in (mean1, cov1, mean2, cov2)):
        return math.nan
    return step + max(0.0, total - 2 * _trace_of_root(cov1, cov2))


@final
class FrechetDistance:
    """Squared Fréchet distance of two sets, of samples and of data say, by Gaussians fitted to their features.

    It takes both sets in parts of any sizes, on any device, and keeps mean and covariance of their features in
    float64, never the features. It is symmetric, and 0 up to rounding for the same set twice. It is no unbiased
    estimate: with few samples it is too large, so compare what was measured with the same numbers of samples and, what
    `name` tells, the same extractor.

    Args:
        extractor: Maps a batch of inputs to features (N, D); the paper has the last pooling layer of an Inception
            network, of 2048 features. A module must be in eval mode. None where the inputs are features already.
        extractor_name: Says which extractor it is, what it was trained on included; must be given for one.

    Raises:
        ValueError: If an extractor has no name.

    Attributes:
        name: What is measured, the extractor named.

    Example:
        >>> points = torch.tensor([[0.0], [2.0], [4.0]])
        >>> distance = FrechetDistance(lambda inputs: inputs / 2, extractor_name="half of a number")
        >>> distance.update(points[:1], points[:2] + 6)
        >>> distance.update(points[1:], points[2:] + 6)
        >>> distance.name, distance.compute()
        ('Fréchet distance (half of a number)', 9.0)
    """

    def __init__(self, extractor: Callable[[Tensor], Tensor] | None = None, extractor_name: str | None = None) -> None:
        if not (extractor_name or "").strip() and (extractor is not None or extractor_name is not None):
            raise ValueError(
                f"extractor_name must say which extractor it is, got {extractor_name!r}; "
                "distances of different extractors do not compare"
            )
        self.extractor = extractor
        self.extractor_name = extractor_name
        self.name = f"Fréchet distance ({extractor_name or 'inputs as features'})"
        self._sets: list[_Moments | None] = [None, None]

    def reset(self) -> None:
        """Forget both sets."""
        self._sets = [None, None]

    @torch.no_grad()
    def update(self, first: Tensor | None, second: Tensor | None) -> None:
        """Add inputs to each set.

        Args:
            first: Inputs of one set, (N, ...), or None to add none.
            second: Inputs of the other, (M, ...), or None to add none; M may differ from N.

        Raises:
            ValueError: If the extractor is a module in train mode, or its features have not the shape (N, D), D being
                the same at all times.
        """
        if isinstance(self.extractor, nn.Module) and any(part.training for part in self.extractor.modules()):
            raise ValueError("extractor must be in eval mode, got a module in train mode; call its eval() first")
        parts = [None if inputs is None else self._features(inputs) for inputs in (first, second)]
        widths = {len(known.mean) for known in self._sets if known} | {
            part.shape[1] for part in parts if part is not None
        }
        if len(widths) > 1:
            raise ValueError(
                f"features must be of the same number in every call, got {' and '.join(map(str, sorted(widths)))}"
            )
        for index, part in enumerate(parts):
            if part is not None and len(part):
                known, new = self._sets[index], _moments(part)
                self._sets[index] = new if known is None else _merged(known, new)

    def compute(self) -> float:
        """Return the distance of all that was added since the last reset.

        Returns:
            The distance, at least 0; not a number where a feature was not finite.

        Raises:
            ValueError: If a set has fewer than two samples.
        """
        statistics: list[Tensor] = []
        for name, known in zip(("first", "second"), self._sets, strict=True):
            if known is None or known.samples < 2:
                raise ValueError(
                    f"{name} must have at least 2 samples, got {known.samples if known else 0}; update first"
                )
            statistics += [known.mean, known.scatter / (known.samples - 1)]
        return frechet_distance(*statistics)

    def _features(self, inputs: Tensor) -> Tensor:
        features = inputs if self.extractor is None else self.extractor(inputs)
        _check_features("features", features)
        if len(features) != len(inputs):
            raise ValueError(f"features must be of as many samples as inputs, {len(inputs)}, got {len(features)}")
        return features


def _check_features(name: str, features: Tensor) -> None:
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{name} must have shape (N, D) with D at least 1, got {tuple(features.shape)}")
