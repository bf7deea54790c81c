"""Backward Euler k-means against autograd, closed forms, slow loops, torch's SGD, and scikit-learn's own checks."""

import copy
import io
import itertools
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn import Parameter

from paperweight.representation.backward_euler_kmeans import (
    BackwardEuler,
    EntropySGD,
    StochasticBackwardEulerKMeans,
    backward_euler_step,
    kmeans_gradient,
    kmeans_objective,
    lloyd,
)
from paperweight.testing import EstimatorSubject, FunctionSubject, OptimizerSubject


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SAMPLES, CENTROIDS = normal(40, 3), normal(4, 3, seed=1)
BAD_SAMPLES = (normal(3), normal(0, 3), normal(4, 2), torch.ones(4, 3, dtype=torch.int64), SAMPLES.float())
BAD_CENTROIDS = (normal(3), normal(0, 3), normal(4, 2), CENTROIDS.float())
BAD_AVERAGING = {"inner": (0, -1, 1.5, True), "alpha": (-0.1, 1.0, math.nan)}
OF_KMEANS = {"x": BAD_SAMPLES, "centroids": BAD_CENTROIDS}
CONTRACT = {
    "StochasticBackwardEulerKMeans": EstimatorSubject(
        make=lambda n_clusters=3, **given: StochasticBackwardEulerKMeans(
            n_clusters, **{"outer": 20, "inner": 3, "random_state": 0, **given}
        ),
        grid={"n_clusters": (2, 3)},
        bad={
            **BAD_AVERAGING,
            "n_clusters": (0, -1, 31, 2.5),
            "gamma": (0.0, -1.0, math.inf, math.nan, "automatic"),
            "outer": (-1, 1.5),
            "batch_size": (0, 2.5),
            "beta": (0.9, math.nan, math.inf),
            "init": ("++", np.zeros((2, 3)), np.full((3, 3), np.nan), [[0.0], [1.0], [2.0]]),
            "polish": (-1, 0.5),
            "n_init": (0, 1.5),
        },
    ),
    "BackwardEuler": OptimizerSubject(
        make=partial(BackwardEuler, lr=0.1),
        bad={**BAD_AVERAGING, "lr": (-0.1, math.nan, math.inf), "beta": (0.5, math.nan, math.inf)},
        null=partial(BackwardEuler, lr=0.1, inner=1, alpha=0.0, beta=1.0),
        baseline=partial(torch.optim.SGD, lr=0.1),
    ),
    "EntropySGD": OptimizerSubject(
        make=partial(EntropySGD, lr=0.1),
        bad={
            **BAD_AVERAGING,
            "lr": (-0.1, math.nan, math.inf),
            "scope": (-1.0, math.nan, math.inf),
            "noise": (-1.0, math.nan, math.inf),
            "outer_lr": (0.0, 1.5, math.nan),
            "seed": (-1, 0.5, True),
        },
        null=partial(EntropySGD, lr=0.1, scope=0.0, inner=1, alpha=0.0, noise=0.0),
        baseline=partial(torch.optim.SGD, lr=0.1),
        expected_failures=dict.fromkeys(
            ("check_parameter_order", "check_missing_gradient_is_skipped"),
            "noise is drawn for the place of a parameter in its group",
        ),
    ),
    "backward_euler_step": FunctionSubject(
        make=backward_euler_step,
        arguments={"start": CENTROIDS, "gradient": torch.sin, "gamma": 0.5, "inner": 4, "alpha": 0.5},
        bad={**BAD_AVERAGING, "gamma": (-0.1, math.nan, math.inf)},
        null=lambda start, gradient, gamma, inner, alpha: backward_euler_step(start, gradient, gamma, 1, 0.0),
        baseline=lambda start, gradient, gamma, inner, alpha: start - gamma * gradient(start),
    ),
    "kmeans_objective": FunctionSubject(
        make=kmeans_objective, arguments={"x": SAMPLES, "centroids": CENTROIDS}, bad=OF_KMEANS
    ),
    "kmeans_gradient": FunctionSubject(
        make=kmeans_gradient, arguments={"x": SAMPLES, "centroids": CENTROIDS}, bad=OF_KMEANS
    ),
    "lloyd": FunctionSubject(
        make=lloyd,
        arguments={"x": SAMPLES, "centroids": CENTROIDS, "steps": 3},
        bad={**OF_KMEANS, "steps": (-1, 1.5, True)},
    ),
}


def groups(seed: int = 0, far: float = 6.0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    corners = far * np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return np.concatenate([corner + draws.standard_normal((50, 2)) for corner in corners])


def slow_objective(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    return torch.stack([(row - centroids).square().sum(dim=1).min() for row in x]).mean() / 2


def test_objective_and_gradient_against_a_loop_and_autograd():
    centroids = CENTROIDS.clone().requires_grad_()
    value = slow_objective(SAMPLES, centroids)
    value.backward()
    torch.testing.assert_close(kmeans_objective(SAMPLES, CENTROIDS), value.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(kmeans_gradient(SAMPLES, CENTROIDS), centroids.grad, rtol=0, atol=1e-12)


def test_far_from_the_origin_little_is_lost():
    shift = 1e4
    near, far = ((x + s).float() for x, s in ((SAMPLES, 0.0), (SAMPLES, shift)))
    centroids = CENTROIDS.float()
    exact = slow_objective(far.double(), (centroids + shift).double()).item()
    assert kmeans_objective(far, centroids + shift).item() == pytest.approx(exact, rel=1e-5)
    assert kmeans_objective(near, centroids).item() == pytest.approx(exact, rel=1e-2)


def test_distances_are_exact_beside_centroids_that_are_far_apart():
    x = torch.cat([SAMPLES, SAMPLES + 1e8])
    centroids = torch.cat([SAMPLES.mean(dim=0, keepdim=True), SAMPLES.mean(dim=0, keepdim=True) + 1e8])
    expected = (SAMPLES - SAMPLES.mean(dim=0)).square().sum(dim=1).mean() / 2
    assert kmeans_objective(x, centroids).item() == pytest.approx(expected.item(), rel=1e-6)


def test_an_empty_cluster_has_no_gradient_and_stays():
    centroids = torch.cat([CENTROIDS, torch.full((1, 3), 1e3, dtype=torch.float64)])
    assert kmeans_gradient(SAMPLES, centroids)[-1].eq(0).all()
    assert torch.equal(lloyd(SAMPLES, centroids, 5)[-1], centroids[-1])


def test_lloyd_is_a_gradient_step_of_size_n_over_n_j_and_that_of_scikit_learn():
    labels = torch.cdist(SAMPLES, CENTROIDS).argmin(dim=1)
    counts = torch.bincount(labels, minlength=4)[:, None].double()
    assert counts.min() > 0
    step = CENTROIDS - len(SAMPLES) / counts * kmeans_gradient(SAMPLES, CENTROIDS)
    torch.testing.assert_close(lloyd(SAMPLES, CENTROIDS, 1), step, rtol=1e-12, atol=1e-12)
    end = lloyd(SAMPLES, CENTROIDS, 100)
    reference = KMeans(4, init=CENTROIDS.numpy(), n_init=1, algorithm="lloyd", tol=0).fit(SAMPLES.numpy())
    np.testing.assert_allclose(end.numpy(), reference.cluster_centers_, rtol=1e-10)
    torch.testing.assert_close(kmeans_gradient(SAMPLES, end), torch.zeros_like(end), rtol=0, atol=1e-15)
    assert torch.equal(lloyd(SAMPLES, CENTROIDS, 0), CENTROIDS)


def test_an_exact_step_has_the_closed_form_and_lowers_the_objective():
    """c_j = (c_j + gamma n_j mean_j / n) / (1 + gamma n_j / n), as long as no sample changes its cluster."""
    x = torch.from_numpy(groups())
    start = lloyd(x, x[::50], 100) + 0.05 * normal(4, 2, seed=3)
    labels = torch.cdist(x, start).argmin(dim=1)
    for gamma in (0.1, 1.0, 2.5):
        moved = backward_euler_step(start, partial(kmeans_gradient, x), gamma, inner=400, alpha=0.5)
        assert torch.equal(torch.cdist(x, moved).argmin(dim=1), labels)
        for j in range(4):
            share, mean = (labels == j).double().mean(), x[labels == j].mean(dim=0)
            expected = (start[j] + gamma * share * mean) / (1 + gamma * share)
            torch.testing.assert_close(moved[j], expected, rtol=1e-10, atol=1e-10)
        assert kmeans_objective(x, moved) < kmeans_objective(x, start)


def test_the_iteration_by_hand():
    """start 1, gradient y, gamma 0.5, alpha 0.25: y = 0.5, 0.75, 0.625; means 0.625, 0.71875, 0.6484375."""
    found = [backward_euler_step(torch.tensor([1.0]), lambda y: y, 0.5, inner, 0.25).item() for inner in (1, 2, 3)]
    assert found == [0.625, 0.71875, 0.6484375]


def descent(x: np.ndarray, start: np.ndarray, seed: int, *, gamma, outer, inner, size, alpha, beta) -> np.ndarray:
    """Take the implicit steps in numpy, sample by sample."""
    draws, centroids, n = np.random.RandomState(seed), start.copy(), len(x)

    def assigned(row: np.ndarray, at: np.ndarray) -> int:
        return int(np.argmin(((row - at) ** 2).sum(axis=1)))

    shares = np.bincount([assigned(row, centroids) for row in x], minlength=len(start)) / n
    for number in range(outer):
        step = min(gamma / beta**number, 1.5 / shares.max())
        batches = draws.randint(n, size=(inner, size))
        y, average, counts = centroids.copy(), centroids.copy(), np.zeros(len(start))
        for batch in batches:
            gradient = np.zeros_like(y)
            for index in batch:
                j = assigned(x[index], y)
                gradient[j] += (y[j] - x[index]) / size
                counts[j] += 1
            y = centroids - step * gradient
            average = alpha * average + (1 - alpha) * y
        centroids, shares = average, counts / counts.sum()
    return centroids


@pytest.mark.parametrize("gamma", [2.0, 50.0])
def test_descent_against_a_slow_loop(gamma):
    x = groups(1)
    start = x[[3, 60, 120, 10]]
    settings = {"gamma": gamma, "outer": 6, "inner": 4, "alpha": 0.6, "beta": 1.1}
    model = StochasticBackwardEulerKMeans(4, init=start, batch_size=20, polish=0, random_state=7, **settings).fit(x)
    expected = descent(x, start, 7, size=20, **settings)
    np.testing.assert_allclose(model.cluster_centers_, expected, rtol=1e-9)
    assert len(model.history_) == model.n_iter_ == 6


def test_what_is_reported_of_a_fit():
    x = groups(2)
    model = StochasticBackwardEulerKMeans(4, random_state=0).fit(x)
    centroids = torch.from_numpy(model.cluster_centers_)
    distances = torch.cdist(torch.from_numpy(x), centroids)
    np.testing.assert_array_equal(model.labels_, distances.argmin(dim=1))
    np.testing.assert_array_equal(model.predict(x), model.labels_)
    np.testing.assert_allclose(model.transform(x), distances, rtol=1e-9)
    assert model.inertia_ == pytest.approx(distances.min(dim=1).values.square().sum().item())
    assert model.score(x) == pytest.approx(-model.inertia_)
    assert model.inertia_ == pytest.approx(2 * len(x) * kmeans_objective(torch.from_numpy(x), centroids).item())
    np.testing.assert_allclose(np.bincount(model.labels_), 50, atol=2)


def test_numbers_whose_squares_are_lost_are_refused():
    x = groups(2)
    with pytest.raises(ValueError, match="X must have distances whose squares float64 holds"):
        StochasticBackwardEulerKMeans(4).fit(1e200 * x)
    with pytest.raises(ValueError, match="init must be finite in float32"):
        StochasticBackwardEulerKMeans(2, init=1e300 * x[:2]).fit(x.astype(np.float32))


@pytest.mark.parametrize("make", [partial(BackwardEuler, inner=2), partial(EntropySGD, inner=2)])
def test_weights_that_others_change_between_cycles_stay_changed(make):
    p, frozen = Parameter(normal(5)), Parameter(normal(5))
    optimizer = make([p, frozen], lr=0.1)
    frozen.grad = torch.ones(5, dtype=torch.float64)
    follow(optimizer, p, 2)
    frozen.grad = None
    with torch.no_grad():
        p.zero_()
        frozen.fill_(7.0)
    follow(optimizer, p, 2, first=2)
    assert torch.equal(frozen, torch.full((5,), 7.0, dtype=torch.float64))
    twin = Parameter(torch.zeros(5, dtype=torch.float64))
    fresh = make([twin], lr=0.1)
    if isinstance(fresh, BackwardEuler):
        follow(fresh, twin, 2, first=2)
        assert torch.equal(p, twin)


def test_controls_see_as_many_samples(monkeypatch):
    from paperweight.representation import backward_euler_kmeans as method
    from paperweight.studies.representation import backward_euler_kmeans as study

    x = np.random.default_rng(0).standard_normal((1500, 2))
    seen = []
    of_batch = method.sums
    monkeypatch.setattr(method, "sums", lambda x, c: seen.append(len(x)) or of_batch(x, c))
    for clusters in (10, 25):
        seen.clear()
        StochasticBackwardEulerKMeans(clusters, outer=3, polish=0, random_state=0).fit(x)
        assert seen == [len(x)] + 30 * [study._batch(x, clusters)]


def test_a_step_size_that_falls_to_nothing_is_no_error():
    model = StochasticBackwardEulerKMeans(4, random_state=0, beta=1e9).fit(groups(2))
    assert np.isfinite(model.cluster_centers_).all()
    p = Parameter(torch.ones(1))
    optimizer = BackwardEuler([p], inner=1, beta=1e9)
    for _ in range(50):
        p.grad = torch.ones(1)
        optimizer.step()
    assert p.item() == pytest.approx(0.9 + 0.1 * 0.75, abs=1e-6)


def test_relabelled_starts_give_relabelled_centroids():
    x, order = groups(3), np.array([2, 0, 3, 1])
    start = x[[5, 70, 110, 160]]
    one, other = (
        StochasticBackwardEulerKMeans(4, init=init, random_state=1, outer=10, polish=0).fit(x).cluster_centers_
        for init in (start, start[order])
    )
    np.testing.assert_allclose(one[order], other, rtol=1e-9)


def test_seeds_are_distinct_samples_and_the_best_of_several_starts_is_kept():
    x = groups(4)
    kept = {"outer": 0, "polish": 0, "random_state": 5}
    one = StochasticBackwardEulerKMeans(4, **kept).fit(x)
    assert {tuple(row) for row in one.cluster_centers_} <= {tuple(row) for row in x}
    many = StochasticBackwardEulerKMeans(150, **kept).fit(x)
    assert len(np.unique(many.cluster_centers_, axis=0)) == 150
    several = StochasticBackwardEulerKMeans(4, n_init=5, **kept).fit(x)
    assert several.inertia_ < one.inertia_
    spread = StochasticBackwardEulerKMeans(4, init="k-means++", **kept).fit(x)
    assert spread.inertia_ < one.inertia_


def test_it_escapes_a_minimum_in_which_lloyd_is_caught():
    """Two starts in one group and one between two others is a fixed point of Lloyd's algorithm."""
    x = groups(5, far=8.0)
    trapped = lloyd(torch.from_numpy(x), torch.tensor([[-1.0, 0.0], [1.0, 0.0], [8.0, 4.0], [0.0, 8.0]]).double(), 200)
    caught = KMeans(4, init=trapped.numpy(), n_init=1).fit(x).inertia_
    model = StochasticBackwardEulerKMeans(4, init=trapped.numpy(), gamma=6.0, random_state=0, outer=200).fit(x)
    assert caught > 5 * model.inertia_


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_lists_and_dtypes(dtype):
    x = groups(6).astype(dtype)
    fits = [StochasticBackwardEulerKMeans(4, random_state=0, outer=5).fit(given) for given in (x, torch.from_numpy(x))]
    assert all(model.cluster_centers_.dtype == dtype for model in fits)
    np.testing.assert_array_equal(fits[0].cluster_centers_, fits[1].cluster_centers_)
    whole = StochasticBackwardEulerKMeans(2, random_state=0).fit([[0], [0], [9], [9]])
    assert sorted(whole.cluster_centers_[:, 0]) == [0, 9]
    assert pickle.loads(pickle.dumps(fits[0])).predict(x).tolist() == fits[0].labels_.tolist()
    turned = StochasticBackwardEulerKMeans(4, random_state=0, outer=5).fit(np.flip(x, axis=0))
    assert len(turned.predict(x[::-1])) == len(x)
    start = torch.from_numpy(x[:4])
    given = StochasticBackwardEulerKMeans(4, init=start, outer=0, polish=0).fit(x)
    np.testing.assert_array_equal(given.cluster_centers_, x[:4])


def test_distances_are_held_in_parts(monkeypatch):
    from paperweight.representation import _kmeans

    whole = kmeans_gradient(SAMPLES, CENTROIDS), kmeans_objective(SAMPLES, CENTROIDS)
    seen = []
    of_part = _kmeans._nearest
    monkeypatch.setattr(_kmeans, "_ENTRIES", 30)
    monkeypatch.setattr(_kmeans, "_nearest", lambda x, c: seen.append(x.shape) or of_part(x, c))
    torch.testing.assert_close(kmeans_gradient(SAMPLES, CENTROIDS), whole[0], rtol=1e-12, atol=1e-12)
    assert {shape[0] for shape in seen} == {7, 5}
    assert kmeans_objective(SAMPLES, CENTROIDS).item() == pytest.approx(whole[1].item())


def follow(optimizer: torch.optim.Optimizer, p: Parameter, steps: int, first: int = 0) -> list[torch.Tensor]:
    """Step on the gradient of sum(cos p), with noise of the step."""
    seen = []
    for step in range(first, first + steps):
        p.grad = -p.detach().sin() + 0.1 * normal(*p.shape, seed=50 + step)
        optimizer.step()
        seen.append(p.detach().clone())
    return seen


def test_the_optimizer_takes_implicit_steps():
    """Each cycle of inner steps is `backward_euler_step`, its step size divided by beta from one to the next."""
    p, at = Parameter(normal(5)), normal(5)
    seen = follow(BackwardEuler([p], lr=0.8, inner=3, alpha=0.4, beta=1.5), p, 9)
    for cycle in range(3):
        steps = iter(range(3 * cycle, 3 * cycle + 3))

        def gradient(y: torch.Tensor, steps=steps) -> torch.Tensor:
            return -y.sin() + 0.1 * normal(5, seed=50 + next(steps))

        at = backward_euler_step(at, gradient, 0.8 / 1.5**cycle, 3, 0.4)
        torch.testing.assert_close(seen[3 * cycle + 2], at, rtol=1e-12, atol=1e-12)


def test_entropy_sgd_by_a_slow_loop():
    p, x = Parameter(normal(5)), normal(5)
    seen = follow(EntropySGD([p], lr=0.2, scope=0.7, inner=3, alpha=0.25, outer_lr=0.6, noise=0.0), p, 6)
    y, mean = x.clone(), x.clone()
    for step in range(6):
        y = y - 0.2 * (-y.sin() + 0.1 * normal(5, seed=50 + step) + 0.7 * (y - x))
        mean = 0.25 * mean + 0.75 * y
        if step % 3 == 2:
            x = x - 0.6 * (x - mean)
            y, mean = x.clone(), x.clone()
        torch.testing.assert_close(seen[step], y, rtol=1e-12, atol=1e-12)


def test_backward_euler_is_entropy_sgd_without_noise_where_the_step_is_one_over_the_scope():
    gamma = 0.8
    one, other = (Parameter(normal(5)) for _ in range(2))
    euler = follow(BackwardEuler([one], lr=gamma, inner=4, alpha=0.5), one, 12)
    entropy = follow(EntropySGD([other], lr=gamma, scope=1 / gamma, inner=4, alpha=0.5, noise=0.0), other, 12)
    for p, q in zip(euler, entropy, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_the_noise_has_its_size_and_its_seed():
    def moved(**given) -> torch.Tensor:
        p = Parameter(torch.zeros(20_000))
        p.grad = torch.zeros(20_000)
        EntropySGD([p], lr=0.25, scope=0.0, **given).step()
        return p.detach()

    noise = moved(noise=0.3)
    assert noise.std().item() == pytest.approx(math.sqrt(0.25) * 0.3, rel=0.03)
    assert abs(noise.mean().item()) < 4 * 0.15 / math.sqrt(20_000)
    assert torch.equal(noise, moved(noise=0.3, seed=0))
    assert not torch.equal(noise, moved(noise=0.3, seed=1))
    p = Parameter(torch.zeros(50))
    optimizer = EntropySGD([p], lr=1.0, scope=0.0, noise=1.0, inner=50, alpha=0.0)
    steps = []
    for _ in range(4):
        before, p.grad = p.detach().clone(), torch.zeros(50)
        optimizer.step()
        steps.append(p.detach() - before)
    assert all(abs(torch.corrcoef(torch.stack(pair))[0, 1]) < 0.6 for pair in itertools.pairwise(steps))


@pytest.mark.parametrize("make", [partial(BackwardEuler, inner=4), partial(EntropySGD, inner=4, noise=0.1)])
def test_resuming_within_a_cycle(make):
    p = Parameter(normal(5))
    optimizer = make([p], lr=0.3)
    follow(optimizer, p, 6)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    twin = Parameter(p.detach().clone())
    resumed = make([twin], lr=0.1)
    resumed.load_state_dict(torch.load(buffer))
    copied = copy.deepcopy((optimizer, p))
    expected = follow(optimizer, p, 5, first=6)
    for found in (follow(resumed, twin, 5, first=6), follow(*copied, 5, first=6)):
        assert all(map(torch.equal, found, expected))


def test_groups_have_cycles_and_settings_of_their_own():
    p, q = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    optimizer = BackwardEuler(
        [{"params": [p], "inner": 1, "alpha": 0.0}, {"params": [q], "inner": 2}], lr=0.5, alpha=0.5
    )
    for _ in range(2):
        p.grad, q.grad = p.detach().clone(), q.detach().clone()
        optimizer.step()
    # p: two steps of SGD; q: y = 0.5 and 0.75, means 0.75 and 0.75.
    assert (p.item(), q.item()) == (0.25, 0.75)
    q.grad = None
    for _ in range(2):
        optimizer.step()
    assert q.item() == 0.75
