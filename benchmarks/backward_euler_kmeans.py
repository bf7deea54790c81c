"""What a distance costs k-means by stochastic backward Euler, against scikit-learn's mini-batch k-means.

20,000 samples of 64 numbers, 100 clusters, batches of 1,000, 200 of them: as many distances of samples to centroids.
Fits take turns, on one CPU thread; each ratio is one of CPU times of neighbouring fits. Neither is polished, both label
all samples at the end.

    python benchmarks/backward_euler_kmeans.py [--blocks 40] [--json PATH]
"""

from typing import Any

import numpy as np
from alternating import alternate, compare, report
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from paperweight.representation.backward_euler_kmeans import StochasticBackwardEulerKMeans

SAMPLES, NUMBERS, CLUSTERS, BATCH, BATCHES = 20_000, 64, 100, 1_000, 200


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure fits in both precisions."""
    results: dict[str, dict[str, float]] = {}
    minibatch: Any = MiniBatchKMeans
    for dtype in (np.float64, np.float32):
        draws = np.random.RandomState(0)
        x = (draws.standard_normal((SAMPLES, NUMBERS)) + 3 * draws.standard_normal((CLUSTERS, NUMBERS))[
            draws.randint(CLUSTERS, size=SAMPLES)]).astype(dtype)  # fmt: skip
        start = x[:CLUSTERS]
        settings: dict[str, Any] = {"init": start, "batch_size": BATCH, "random_state": 0, "n_init": 1}
        ours = StochasticBackwardEulerKMeans(CLUSTERS, outer=BATCHES // 10, inner=10, polish=0, **settings)
        theirs = minibatch(
            CLUSTERS, max_iter=BATCHES * BATCH // SAMPLES, max_no_improvement=None, reassignment_ratio=0, **settings
        )
        runs = {"ours": lambda ours=ours, x=x: ours.fit(x), "theirs": lambda theirs=theirs, x=x: theirs.fit(x)}
        with threadpool_limits(1):
            times = alternate(runs, steps=1, blocks=blocks)
        results[np.dtype(dtype).name] = compare(times, "ours", "theirs")
    return results


if __name__ == "__main__":
    report(__doc__, measure)
