"""Stochastic backward Euler (SBE): k-means by large implicit gradient steps, which skip poor local minima.

Each step solves c <- c - gamma * gradient(c), with the gradient at the new centroids, by a fixed-point iteration on
small batches whose iterates are averaged; gamma is so large that the iteration hardly contracts, and falls slowly.
Cost: one distance of each sample of a batch to each centroid in each of ``outer * inner`` iterations.

`BackwardEuler` takes the same steps on any loss in a plain loop; `EntropySGD`, to which the paper relates them, adds
noise and a scope of its own.

Source:
    P. Yin, M. Pham, A. Oberman, S. Osher, "Stochastic Backward Euler: An Implicit Gradient Descent Algorithm for
    k-Means Clustering", Journal of Scientific Computing, 2018, https://arxiv.org/abs/1710.07746. Implemented: the
    iteration, its averaging and the decay of gamma, for k-means and, as an optimizer, for any loss.

Deviations:
    - No code of the authors was found, and defaults are ours: gamma is the number of clusters, alpha 0.75, beta 1.01.
    - gamma times the share of samples in the largest cluster is held to at most 1.5: it is the slope of the iteration,
      and clusters that differ much in size would make it diverge. Shares are those of the batches of the outer step
      before.
    - A few steps of Lloyd's algorithm follow, since the last average lags behind; ``polish=0`` leaves them out.
    - Seeds are distinct samples by default, as in the paper's comparison; k-means++ can be asked for.
    - `EntropySGD` is of another paper: P. Chaudhari et al., "Entropy-SGD: Biasing Gradient Descent Into Wide Valleys",
      ICLR, 2017; without its momentum, and with a constant scope.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.cluster import kmeans_plusplus
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.representation._implicit_steps import BackwardEuler, EntropySGD, check_averaging
from paperweight.representation._kmeans import kmeans_gradient, kmeans_objective, lloyd, nearest, sums

__all__ = [
    "BackwardEuler",
    "EntropySGD",
    "StochasticBackwardEulerKMeans",
    "backward_euler_step",
    "kmeans_gradient",
    "kmeans_objective",
    "lloyd",
]

PAPER = Paper(
    title="Stochastic Backward Euler: An Implicit Gradient Descent Algorithm for k-Means Clustering",
    authors=("Penghang Yin", "Minh Pham", "Adam Oberman", "Stanley Osher"),
    year=2017,
    url="https://arxiv.org/abs/1710.07746",
    provides={
        "StochasticBackwardEulerKMeans": "estimator",
        "BackwardEuler": "optimizer",
        "EntropySGD": "optimizer",
        "backward_euler_step": "function",
        "kmeans_objective": "function",
        "kmeans_gradient": "function",
        "lloyd": "function",
    },
    null={"inner": 1, "alpha": 0.0, "beta": 1.0},
    claim="It finds lower minima than Lloyd's algorithm and other k-means, whatever the start.",
)

_SLOPE = 1.5
Array = NDArray[Any]


def backward_euler_step(
    start: Tensor, gradient: Callable[[Tensor], Tensor], gamma: float, inner: int, alpha: float
) -> Tensor:
    """Take one implicit step by fixed-point iteration: y <- start - gamma * gradient(y), averaged as it goes.

    Args:
        start: Where to begin, any shape.
        gradient: Maps a tensor of this shape to a gradient there; a stochastic one may differ at each call.
        gamma: The step size, at least 0.
        inner: Number of iterations, at least 1.
        alpha: Weight of the past in the average, at least 0 and below 1.

    Returns:
        The average, of the shape of ``start``.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> backward_euler_step(torch.tensor([1.0]), lambda y: y, gamma=0.5, inner=2, alpha=0.0)
        tensor([0.7500])
    """
    check_averaging(inner, alpha)
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and at least 0, got {gamma!r}")
    y, average = start, start.clone()
    for _ in range(inner):
        y = start - gamma * gradient(y)
        average.lerp_(y, 1 - alpha)
    return average


@final
class StochasticBackwardEulerKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """k-means by stochastic backward Euler steps, an estimator of scikit-learn.

    With ``inner=1``, ``alpha=0`` and ``beta=1`` it takes gradient steps on small batches. Which centroid is nearest is
    found from products, so that in float32 clusters should not be 1,000 times as far from each other as they are wide.

    Args:
        n_clusters: Number of clusters K, at least 1 and at most the number of samples.
        gamma: The step size, above 0; "auto" is the number of clusters.
        outer: Number of implicit steps, at least 0.
        inner: Iterations for each, at least 1.
        batch_size: Samples of a batch, at least 1; by default the largest of 50, 5 K and a twentieth of all, and at
            most all.
        alpha: Weight of the past in the average of the iterations, at least 0 and below 1.
        beta: By what the step size is divided after each step, at least 1.
        init: Where to begin: "random", distinct samples; "k-means++"; or centroids, (n_clusters, n_features).
        polish: The most steps of Lloyd's algorithm at the end, at least 0.
        n_init: How often it begins, at least 1; the lowest objective is kept.
        random_state: Seed, or numpy's random state, of starts and batches.
        device: Where to compute, such as ``"cuda"``; the CPU by default.

    Attributes:
        cluster_centers_: The centroids, (n_clusters, n_features).
        labels_: Number of the nearest centroid of each sample, (n_samples,).
        inertia_: Sum of squared distances to these.
        n_iter_: Number of implicit steps.
        history_: Objective on the batches of each implicit step, one number a step, as `kmeans_objective` counts.

    Raises:
        ValueError: From ``fit``, if an argument is outside its range, or the data are not finite numbers, (n, d).

    Example:
        >>> x = np.array([[0.0], [0.2], [0.1], [8.0], [8.2], [8.1]])
        >>> model = StochasticBackwardEulerKMeans(2, random_state=0).fit(x)
        >>> sorted(round(float(centre), 3) for centre in model.cluster_centers_[:, 0])
        [0.1, 8.1]
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        gamma: float | Literal["auto"] = "auto",
        outer: int = 100,
        inner: int = 10,
        batch_size: int | None = None,
        alpha: float = 0.75,
        beta: float = 1.01,
        init: Literal["random", "k-means++"] | ArrayLike = "random",
        polish: int = 10,
        n_init: int = 1,
        random_state: int | np.random.RandomState | None = None,
        device: str | None = None,
    ) -> None:
        self.n_clusters, self.gamma, self.outer, self.inner = n_clusters, gamma, outer, inner
        self.batch_size, self.alpha, self.beta, self.init = batch_size, alpha, beta, init
        self.polish, self.n_init, self.random_state, self.device = polish, n_init, random_state, device

    def fit(self, X: ArrayLike, y: object = None) -> "StochasticBackwardEulerKMeans":
        """Find centroids.

        Args:
            X: Samples, (n_samples, n_features), an array or a tensor.
            y: Not used.

        Returns:
            Itself.
        """
        samples = self._validated(X, [np.float64, np.float32], reset=True)
        with np.errstate(over="ignore"):
            if not np.isfinite(np.square(np.ptp(samples, axis=0)).sum()):
                raise ValueError(f"X must have distances whose squares {samples.dtype} holds; scale it")
        self._check(len(samples))
        draws = check_random_state(self.random_state)
        x = self._tensor(samples)

        def attempt() -> tuple[float, Tensor, list[float]]:
            centroids, history = self._descend(x, self._tensor(self._seeds(samples, draws)), draws)
            centroids = lloyd(x, centroids, int(self.polish))
            return kmeans_objective(x, centroids).item(), centroids, history

        attempts = [attempt() for _ in range(self.n_init)]
        objective, centroids, history = min(attempts, key=lambda attempted: attempted[0])
        self.cluster_centers_ = centroids.cpu().numpy()
        self.labels_ = nearest(x, centroids)[1].cpu().numpy().astype(np.int32)
        self.inertia_ = 2 * len(samples) * objective
        self.n_iter_, self.history_ = self.outer, np.array(history)
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Give the number of the nearest centroid of each sample, (n_samples,)."""
        return nearest(*self._fitted(X))[1].cpu().numpy().astype(np.int32)

    def transform(self, X: ArrayLike) -> Array:
        """Give the distance of each sample to each centroid, (n_samples, n_clusters)."""
        return torch.cdist(*self._fitted(X), compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Give the negative sum of squared distances to the nearest centroids."""
        return -nearest(*self._fitted(X))[0].sum().item()

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def _tensor(self, values: Array) -> Tensor:
        return torch.tensor(np.ascontiguousarray(values), device=self.device)

    def _validated(self, X: ArrayLike, dtypes: list[Any], reset: bool) -> Array:
        return np.asarray(validate_data(self, _array(X), dtype=dtypes, reset=reset))

    def _fitted(self, X: ArrayLike) -> tuple[Tensor, Tensor]:
        check_is_fitted(self)
        samples = self._validated(X, [self.cluster_centers_.dtype], reset=False)
        return self._tensor(samples), self._tensor(self.cluster_centers_)

    def _check(self, samples: int) -> None:
        least = {"n_clusters": 1, "outer": 0, "inner": 1, "polish": 0, "n_init": 1}
        if self.batch_size is not None:
            least["batch_size"] = 1
        for name, minimum in least.items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
                raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
        if samples < self.n_clusters:
            raise ValueError(f"n_clusters must be at most n_samples={samples}, got {self.n_clusters}")
        check_averaging(int(self.inner), self.alpha)
        if not 1 <= self.beta < math.inf:
            raise ValueError(f"beta must be finite and at least 1, got {self.beta!r}; 1 keeps the step size")
        if self.gamma != "auto" and (isinstance(self.gamma, str) or not 0 < self.gamma < math.inf):
            raise ValueError(f"gamma must be 'auto', or finite and above 0, got {self.gamma!r}")
        if isinstance(self.init, str) and self.init not in ("random", "k-means++"):
            raise ValueError(f"init must be 'random', 'k-means++' or an array of centroids, got {self.init!r}")

    def _seeds(self, X: Array, draws: np.random.RandomState) -> Array:
        if isinstance(self.init, str):
            if self.init == "k-means++":
                return kmeans_plusplus(X, self.n_clusters, random_state=draws)[0]
            return X[draws.permutation(len(X))[: self.n_clusters]]
        given = np.asarray(_array(self.init))
        shape = (self.n_clusters, X.shape[1])
        if given.shape != shape:
            raise ValueError(f"init must have shape (n_clusters, n_features), here {shape}, got {given.shape}")
        with np.errstate(over="ignore"):
            given = given.astype(X.dtype)
        if not np.isfinite(given).all():
            raise ValueError(f"init must be finite in {X.dtype}, got numbers that are not")
        return given

    def _descend(self, x: Tensor, centroids: Tensor, draws: np.random.RandomState) -> tuple[Tensor, list[float]]:
        """Take the implicit steps; return the centroids, and the objective on the batches of each step."""
        clusters = len(centroids)
        size = min(len(x), self.batch_size or max(50, 5 * clusters, len(x) // 20))
        gamma = float(clusters if self.gamma == "auto" else self.gamma)
        counts = sums(x, centroids)[2]
        history: list[float] = []
        for outer in range(self.outer):
            steepest = (counts.max() / counts.sum()).item()
            batches = x[torch.from_numpy(draws.randint(len(x), size=(int(self.inner), size))).to(x.device)]
            step = min(gamma * (1 / self.beta) ** outer, _SLOPE / steepest)
            centroids, counts, objective = self._implicit_step(batches, centroids, step)
            history.append(objective)
        return centroids, history

    def _implicit_step(self, batches: Tensor, centroids: Tensor, gamma: float) -> tuple[Tensor, Tensor, float]:
        """Return the centroids, and of the batches, (inner, size, d), the samples in each cluster and the objective."""
        counts, values, following = torch.zeros_like(centroids[:, 0]), list[Tensor](), iter(batches)

        def gradient(at: Tensor) -> Tensor:
            batch = next(following)
            value, totals, found = sums(batch, at)
            values.append(value)
            counts.add_(found)
            return (found[:, None] * at - totals) / len(batch)

        moved = backward_euler_step(centroids, gradient, gamma, len(batches), self.alpha)
        return moved, counts, torch.stack(values).mean().item()


def _array(values: ArrayLike) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
