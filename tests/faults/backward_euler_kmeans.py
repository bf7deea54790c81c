"""Faults of k-means by stochastic backward Euler."""

from tests.faults.planting import Fault

_STEPS, _KMEANS = "_implicit_steps", "_kmeans"

FAULTS = (
    Fault(
        "gradient of the sum",
        "return (found[:, None] * at - totals) / len(batch)",
        "return found[:, None] * at - totals",
    ),
    Fault("explicit steps", "y = start - gamma * gradient(y)", "y = y - gamma * gradient(y)"),
    Fault("gradient at the start alone", "y = start - gamma * gradient(y)", "y = start - gamma * gradient(start)"),
    Fault("weights of past and present turned round", "average.lerp_(y, 1 - alpha)", "average.lerp_(y, alpha)"),
    Fault("no average", "    return average\n", "    return y\n"),
    Fault("gamma stays", "gamma * (1 / self.beta) ** outer", "gamma"),
    Fault(
        "gamma without a bound",
        "min(gamma * (1 / self.beta) ** outer, _SLOPE / steepest)",
        "gamma * (1 / self.beta) ** outer",
    ),
    Fault("shares of the start for ever", "centroids, counts, objective = self", "centroids, _, objective = self"),
    Fault("no polish", "lloyd(x, centroids, int(self.polish))", "centroids"),
    Fault("the worst start kept", "min(attempts, key", "max(attempts, key"),
    Fault("inertia is the objective", "2 * len(samples) * objective", "objective"),
    Fault(
        "squared distances given",
        'compute_mode="donot_use_mm_for_euclid_dist").cpu()',
        'compute_mode="donot_use_mm_for_euclid_dist").square().cpu()',
    ),
    Fault("score without its sign", "return -nearest(*self", "return nearest(*self"),
    Fault(
        "seeds drawn with repetition",
        "X[draws.permutation(len(X))[: self.n_clusters]]",
        "X[draws.randint(len(X), size=self.n_clusters)]",
    ),
    Fault(
        "centroids that were given not looked at",
        "if not np.isfinite(given).all():",
        "if False:",
    ),
    Fault("clusters more than samples", "if samples < self.n_clusters:", "if False:"),
    Fault(
        "no half in the objective",
        "return nearest(x, centroids)[0].mean() / 2",
        "return nearest(x, centroids)[0].mean()",
        part=_KMEANS,
    ),
    Fault(
        "gradient by the size of the cluster",
        "(counts[:, None] * centroids - totals) / len(x)",
        "centroids - totals / counts[:, None]",
        part=_KMEANS,
    ),
    Fault(
        "an empty centroid moves to the origin",
        "torch.where(counts[:, None] > 0, totals / counts.clamp(min=1)[:, None], centroids)",
        "totals / counts.clamp(min=1)[:, None]",
        part=_KMEANS,
    ),
    Fault(
        "distances from the origin",
        "    origin = centroids.mean(dim=0)\n",
        "    origin = torch.zeros_like(centroids[0])\n",
        part=_KMEANS,
    ),
    Fault("all distances at once", "max(1, _ENTRIES // len(centroids))", "len(x)", part=_KMEANS),
    Fault(
        "inner steps go on from the last",
        "p.copy_(steps.start).add_(p.grad, alpha=-lr)",
        "p.add_(p.grad, alpha=-lr)",
        part=_STEPS,
    ),
    Fault(
        "step size divided in inner steps",
        '** group["outer_steps"]',
        '** (group["outer_steps"] + group["inner_steps"])',
        part=_STEPS,
    ),
    Fault(
        "step size not divided",
        'lr = group["lr"] * (1 / group["beta"]) ** group["outer_steps"]',
        'lr = group["lr"]',
        part=_STEPS,
    ),
    Fault(
        "ends at the last inner step",
        "        p.copy_(self.start.lerp_(self.average, share))",
        "        self.start.lerp_(self.average, share)",
        part=_STEPS,
    ),
    Fault("pushed away from the start", "(p - steps.start).mul_", "(steps.start - p).mul_", part=_STEPS),
    Fault("outer rate forgotten", '.end(p, group["outer_lr"])', ".end(p, 1.0)", part=_STEPS),
    Fault(
        "noise by the step size", 'math.sqrt(group["lr"]) * group["noise"]', 'group["lr"] * group["noise"]', part=_STEPS
    ),
    Fault(
        "the same noise at each step",
        '_draws(group["seed"], at, position, taken)',
        '_draws(group["seed"], at, position)',
        part=_STEPS,
    ),
    Fault("seed forgotten", '_draws(group["seed"], at, position, taken)', "_draws(at, position, taken)", part=_STEPS),
)
