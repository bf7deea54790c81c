"""Large implicit steps find lower minima of k-means than Lloyd's algorithm, whatever the start (Yin et al. 2018).

Digits, 64 pixels each, are clustered into ten, and points of a mixture of 25 Gaussians in the plane into 25, several
times a seed from distinct samples, which are the same in every arm but those of k-means++. The headline is the mean
over these starts of what is left of the variance of the digits: the sum of squared distances to the nearest centroid,
as a share of that to the common mean.

What it can show: whether the steps end lower than Lloyd's algorithm does from the same starts. A share that is not
lower would refute the claim. One such run looks at all digits about 60 times and at all points about 95 times, where
Lloyd's algorithm needs about 20; so one control starts that anew until it has looked as often, and keeps the best. The
others are what a person would take instead, k-means++ and mini-batch k-means of scikit-learn, and gradient steps of the
same size on the same batches, neither averaged nor held at the start of each step, of which as low a share would show
that steps need not be implicit. What it cannot: anything about many clusters or samples, or about networks, for which
the optimizers in that file are.
"""

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score

from paperweight.data import gaussian_grid
from paperweight.representation.backward_euler_kmeans import BackwardEuler, StochasticBackwardEulerKMeans
from paperweight.studies import Arm, Metric, Outcome, Recipe, Setting, Study

Array = NDArray[Any]


class _Found(NamedTuple):
    """The sum of squared distances, and the number of each sample's cluster."""

    inertia: float
    labels: Array


Cluster = Callable[[Array, Array, int, int], _Found]
"""Clusters samples from starting centroids, with a seed, the method taking so many steps."""


def _fitted(estimator: Any, x: Array) -> _Found:
    found = estimator.fit(x)
    return _Found(float(found.inertia_), found.labels_)


def _kmeans(start: Any, clusters: int, seed: int = 0) -> Any:
    make: Any = KMeans
    return make(clusters, init=start, n_init=1, tol=0, random_state=seed)


def _batch(x: Array, clusters: int) -> int:
    """Give the samples of a batch, as the method has it where it is not told."""
    return min(len(x), max(50, 5 * clusters, len(x) // 20))


def _lloyd(x: Array, start: Array, seed: int, steps: int) -> _Found:
    return _fitted(_kmeans(start, len(start)), x)


def _restarts(x: Array, start: Array, seed: int, steps: int) -> _Found:
    """Start anew until as many samples have been looked at as by the method, and keep the best."""
    draws, found, passes = np.random.RandomState(seed), list[_Found](), 0
    most = 10 * steps * _batch(x, len(start)) / len(x) + 10
    while passes < most:
        estimator = _kmeans(start, len(start))
        found.append(_fitted(estimator, x))
        passes += estimator.n_iter_
        start = x[draws.permutation(len(x))[: len(start)]]
    return min(found, key=lambda each: each.inertia)


def _plus_plus(x: Array, start: Array, seed: int, steps: int) -> _Found:
    return _fitted(_kmeans("k-means++", len(start), seed), x)


def _minibatch(x: Array, start: Array, seed: int, steps: int) -> _Found:
    """Take as many batches of the same size, ten for each implicit step."""
    make: Any = MiniBatchKMeans
    settings = {"max_no_improvement": None, "reassignment_ratio": 0.0, "n_init": 1, "random_state": seed}
    size = _batch(x, len(start))
    passes = max(1, 10 * steps * size // len(x))
    return _fitted(make(len(start), init=start, batch_size=size, max_iter=passes, **settings), x)


def _implicit(
    x: Array, start: Array, seed: int, steps: int, *, plus_plus: bool = False, gamma: float = 1.0, polish: int = 10
) -> _Found:
    """Take implicit steps of a size in shares of the number of clusters."""
    estimator = StochasticBackwardEulerKMeans(
        len(start),
        gamma=gamma * len(start),
        outer=steps,
        init="k-means++" if plus_plus else start,
        polish=polish,
        random_state=seed,
    )
    return _fitted(estimator, x)


def _gradient_steps(x: Array, start: Array, seed: int, steps: int) -> _Found:
    """Take as many gradient steps as the implicit ones have iterations, their size falling as fast."""
    estimator = StochasticBackwardEulerKMeans(
        len(start),
        gamma=len(start),
        outer=10 * steps,
        inner=1,
        alpha=0.0,
        beta=1.01**0.1,
        init=start,
        random_state=seed,
    )
    return _fitted(estimator, x)


RECIPE = Recipe(
    words="backward Euler: five steps, each from one point, which then moves to their mean",
    line="optimizer = BackwardEuler(model.parameters(), lr=lr, inner=5)",
    optimizer=lambda parameters, lr, baseline: BackwardEuler(parameters, lr=lr, inner=5),
    lr=0.7,
)

STUDY = Study(
    paper="backward_euler_kmeans",
    question="Do large implicit steps on small batches find lower minima of k-means than Lloyd's algorithm?",
    claim="From the same random starts stochastic backward Euler ends at lower minima than Lloyd's algorithm.",
    arms={
        "lloyd": Arm("Lloyd's algorithm until nothing moves", _lloyd),
        "sbe": Arm("100 implicit steps of size K, 10 steps of Lloyd's algorithm at the end", _implicit),
        "sbe_alone": Arm("the same without steps at the end", partial(_implicit, polish=0)),
        "sbe_half": Arm("implicit steps of size K / 2", partial(_implicit, gamma=0.5)),
        "sbe_plus_plus": Arm("implicit steps of size K from k-means++", partial(_implicit, plus_plus=True)),
        "restarts": Arm("control: the best of as many runs of Lloyd's algorithm as see as many samples", _restarts),
        "plus_plus": Arm("control: Lloyd's algorithm from k-means++, once", _plus_plus),
        "minibatch": Arm("control: mini-batch k-means on as many batches of the same size", _minibatch),
        "gradient_steps": Arm("control: gradient steps of size K on as many batches", _gradient_steps),
    },
    metrics={
        "left": Metric.lower("variance of digits that is left, mean over starts", 0.002, "share"),
        "worst": Metric.lower("the same from the worst start", 0.005, "share"),
        "rand": Metric.higher("adjusted Rand index with the digits' labels", 0.01),
        "mixture": Metric.lower("variance of the mixture that is left, mean over starts", 0.002, "share"),
    },
    headline="left",
    tuned="nothing: the step size is the number of clusters, or what an arm says, in all trials",
    limits=(
        "Two small sets, one with as many clusters as there are classes, one with as many as it was drawn from; 1,500 "
        "samples of each, 5 starts a seed. Defaults were chosen on digits, by what is known of them from elsewhere, "
        "and not tuned here. Equal numbers of samples are not equal times: small batches cost more. Restarts do not "
        "count how k-means++ would choose them."
    ),
    seeds=12,
)


def run(arm: Arm[Cluster], setting: Setting) -> Outcome:
    """Cluster both sets from each start."""
    samples, starts, steps = setting.pick(smoke=(100, 2, 2), desk=(1_500, 5, 100), gpu=(1_500, 50, 100))
    data = setting.images(default="digits", train=samples, validation=20, test=20)
    digits, labels = data.train.images.flatten(1).double().cpu().numpy(), data.train.labels.cpu().numpy()
    points = gaussian_grid(samples, generator=setting.generator("data"))[0].double().numpy()
    draws = torch.randint(2**31, (starts,), generator=setting.generator("method")).tolist()

    def found(x: Array, clusters: int) -> list[_Found]:
        seeds = [x[np.random.RandomState(draw).permutation(len(x))[:clusters]] for draw in draws]
        return [arm.make(x, start, draw, steps) for start, draw in zip(seeds, draws, strict=True)]

    def left(x: Array, each: _Found) -> float:
        return each.inertia / ((x - x.mean(axis=0)) ** 2).sum()

    of_digits, of_points = found(digits, len(data.classes)), found(points, 25)
    shares = [left(digits, each) for each in of_digits]
    return Outcome(
        metrics={
            "left": fmean(shares),
            "worst": max(shares),
            "rand": fmean(adjusted_rand_score(labels, each.labels) for each in of_digits),
            "mixture": fmean(left(points, each) for each in of_points),
        },
        arguments={"samples": samples, "starts": starts, "clusters": len(data.classes), "clusters_of_mixture": 25},
        curves={"variance of digits that is left, by number of the start": list(enumerate(shares, start=1))},
    )
