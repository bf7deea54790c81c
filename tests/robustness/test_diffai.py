"""DiffAI: bounds against sampled inputs, interval arithmetic and exact affine bounds, goals and proofs by hand."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient
from paperweight.errors import InputError
from paperweight.nets import MLP, LeNet, ResNet
from paperweight.robustness.diffai import (
    Ball,
    Concretize,
    CorrelateMax,
    DiffAI,
    HybridZonotope,
    Mix,
    Point,
    ball,
    hybrid_relu,
    propagate,
    verify,
    worst_margins,
)
from paperweight.testing import FunctionSubject, LayerSubject, TrainingProcedureSubject
from paperweight.testing.training_procedure import PlainTraining


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def zonotope(count: int, *shape: int, seed: int = 2) -> HybridZonotope:
    return HybridZonotope(
        normal(count, *shape, seed=seed),
        uniform(count, *shape, seed=seed + 1),
        0.3 * normal(3, count, *shape, seed=seed + 2),
        (10, 11, 12),
    )


def made(make, *given, seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*given)


class Residual(nn.Module):
    def __init__(self, correlated: int = 0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.correlate = CorrelateMax(correlated) if correlated else nn.Identity()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(36, 3)
        self.concretize = Concretize() if correlated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.correlate(self.stem((x - 0.5) / 0.25))
        x = torch.relu(x + self.second(F.relu(self.first(x))))
        return self.head(self.concretize(self.pool(x)).flatten(1))


def with_statistics(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give batch normalization running statistics that are not those of the beginning."""
    model.train()
    for number in range(5):
        model(uniform(16, *shape, seed=number))
    for number, part in enumerate(each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
        part.weight.data.copy_(normal(len(part.weight), seed=number))
    return model.eval()


def trains_for(goal):
    def procedure(model: nn.Module, data, *, steps: int = 8, goal=goal) -> DiffAI:
        return DiffAI(model, torch.optim.SGD(model.parameters(), lr=0.1), goal, steps)

    return procedure


LINEAR = nn.Linear(2, 3)
CONTRACT = {
    "CorrelateMax": LayerSubject(
        make=partial(CorrelateMax, count=2),
        inputs=(normal(4, 5),),
        shape=(4, 5),
        parameter_count=0,
        bad={"count": (0, 1.0, True)},
        null=partial(CorrelateMax, count=1),
        baseline=nn.Identity,
    ),
    "DiffAI": TrainingProcedureSubject(
        make=trains_for(Mix(Point(), Ball(0.01, ramp=0.5), weight=0.5)),
        evaluations=128,
        bad={"steps": (0, 1.5, True)},
        null=trains_for(Mix(Point(), Ball(0.1), weight=0.0)),
        baseline=lambda model, data: PlainTraining(model, lr=0.1),
    ),
    "verify": FunctionSubject(
        make=verify,
        arguments={"model": LINEAR, "inputs": uniform(3, 2), "labels": torch.tensor([0, 1, 2]), "radius": 0.1},
        bad={"radius": (-0.1, math.nan, math.inf, True)},
    ),
}

MODELS = {
    "mlp": (lambda: made(MLP, (1, 6, 6), 3, (12,)), (1, 6, 6)),
    "lenet": (lambda: made(LeNet, (1, 8, 8), 3), (1, 8, 8)),
    "resnet": (lambda: with_statistics(made(ResNet, (1, 8, 8), 3, 8, 4), (1, 8, 8)), (1, 8, 8)),
    "residual": (lambda: with_statistics(made(Residual), (1, 6, 6)), (1, 6, 6)),
    "correlated": (lambda: with_statistics(made(Residual, 7), (1, 6, 6)), (1, 6, 6)),
    "tanh": (
        lambda: made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.Tanh(), nn.Linear(9, 3))),
        (1, 6, 6),
    ),
}


def drawn_within(values: HybridZonotope, count: int, seed: int = 5) -> Tensor:
    """Draw values of a hybrid zonotope, half of them at its corners."""
    source = seeded(seed)
    own = 2 * torch.rand(count, *values.center.shape, generator=source) - 1
    shared = 2 * torch.rand(count, len(values.ids), len(values.center), generator=source) - 1
    half = count // 2
    own[:half], shared[:half] = own[:half].sign(), shared[:half].sign()
    spread = torch.einsum("sme,me...->se...", shared, values.errors)
    return values.center + own * values.box + spread


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_no_input_within_the_ball_leaves_the_bounds(name, shared):
    make, shape = MODELS[name]
    model, inputs = make(), uniform(4, *shape)
    near = ball(inputs, 0.07, shared=shared)
    with torch.no_grad():
        low, high = propagate(model, near).bounds()
        seen = torch.stack([model(each) for each in drawn_within(near, 1000)])
    assert (seen >= low - 1e-5).all()
    assert (seen <= high + 1e-5).all()
    assert (high > low).all()
    if name in ("mlp", "tanh"):  # no wider by much than they need be: what is drawn fills a part of them
        assert ((seen.amax(0) - seen.amin(0)) / (high - low)).mean() > 0.05


def intervals(layers, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Interval arithmetic as one writes it, with lower and upper ends."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            positive, negative = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
            low, high = (
                low @ positive.t() + high @ negative.t() + layer.bias,
                high @ positive.t() + low @ negative.t() + layer.bias,
            )
        else:
            low, high = layer(low), layer(high)
    return low, high


def test_without_shared_errors_it_is_interval_arithmetic():
    model = made(lambda: nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)))
    inputs = uniform(6, 5)
    low, high = intervals(model, (inputs - 0.1).clamp(0, 1), (inputs + 0.1).clamp(0, 1))
    found = propagate(model, ball(inputs, 0.1)).bounds()
    torch.testing.assert_close(found, (low, high), atol=1e-6, rtol=1e-5)


def test_shared_errors_make_affine_networks_exact():
    model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.Linear(8, 6), nn.Linear(6, 3)))
    inputs = uniform(4, 1, 3, 3)
    matrix = torch.eye(9)
    for layer in list(model)[1:]:
        matrix = layer.weight @ matrix
    reach = 0.05 * matrix.abs().sum(dim=1)
    center = model(inputs)
    low, high = propagate(model, ball(inputs, 0.05, shared=True, bounds=(-9, 9))).bounds()
    torch.testing.assert_close((low, high), (center - reach, center + reach), atol=1e-5, rtol=1e-5)
    boxed = propagate(model, ball(inputs, 0.05, bounds=(-9, 9))).radius()
    assert (boxed > reach + 1e-3).all()


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_shared_errors_prove_at_least_as_much_at_small_radii(name):
    make, shape = MODELS[name]
    model, inputs = make(), uniform(6, *shape)
    labels = model(inputs).argmax(dim=1)
    with torch.no_grad():
        margins = [
            worst_margins(propagate(model, ball(inputs, 0.005, shared=shared)), labels) for shared in (False, True)
        ]
    assert (margins[1] <= margins[0] + 1e-5).all()
    assert (margins[1] < margins[0] - 1e-4).any()


def test_relu_by_hand():
    """One entry that is positive, one negative, one that is cut, one that is scaled, one without shared errors."""
    values = HybridZonotope(
        torch.tensor([[3.0, -3.0, -1.0, 1.0, 1.0]]),
        torch.tensor([[0.5, 0.5, 1.0, 1.0, 3.0]]),
        torch.tensor([[[0.5, 0.5, 1.0, 2.0, 0.0]]]),
        (4,),
    )
    found = hybrid_relu(values)
    # Bounds of the third: -3 to 1, cut to [0, 1]; of the fourth: -2 to 4, slope 4 / 6 and offset 4 / 6; of the fifth
    # -2 to 4, cut to [0, 4].
    torch.testing.assert_close(found.center, torch.tensor([[3.0, 0.0, 0.5, 2 / 3 + 2 / 3, 2.0]]))
    torch.testing.assert_close(found.box, torch.tensor([[0.5, 0.0, 0.5, 2 / 3 + 2 / 3, 2.0]]))
    torch.testing.assert_close(found.errors, torch.tensor([[[0.5, 0.0, 0.0, 4 / 3, 0.0]]]))


def test_relu_holds_what_it_gives():
    values = zonotope(5, 8)
    low, high = hybrid_relu(values).bounds()
    seen = drawn_within(values, 2000).relu()
    assert (seen >= low - 1e-6).all()
    assert (seen <= high + 1e-6).all()


def test_a_sum_of_what_has_the_same_errors_sets_them_off():
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x

    shared = propagate(Nothing(), ball(uniform(2, 4), 0.1, shared=True)).bounds()
    torch.testing.assert_close(shared, (torch.zeros(2, 4), torch.zeros(2, 4)))
    boxed = propagate(Nothing(), ball(uniform(2, 4), 0.1, bounds=(-9, 9))).radius()
    torch.testing.assert_close(boxed, torch.full((2, 4), 0.2))


def test_errors_made_on_one_branch_alone_are_kept_apart():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = CorrelateMax(2), CorrelateMax(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) + self.right(2 * x)

    values = zonotope(3, 4)
    found = propagate(Branches(), values)
    assert len(found.ids) == len(set(found.ids)) == 3 + 2 + 1
    torch.testing.assert_close(found.errors[:3], 3 * values.errors)
    assert (found.errors[3:].abs().sum(dim=(1, 2)) > 0).all()
    torch.testing.assert_close(found.radius(), 3 * values.radius())


def test_abstract_layers_change_the_form_and_not_the_reach():
    values = zonotope(3, 4)
    boxed = propagate(Concretize(), values)
    assert boxed.ids == ()
    torch.testing.assert_close(boxed.box, values.radius())
    correlated = propagate(CorrelateMax(2), values)
    assert len(correlated.ids) == 5
    torch.testing.assert_close(correlated.radius(), values.radius())
    assert ((correlated.box == 0).sum(dim=1) == 2).all()
    for row in range(3):
        kept = correlated.box[row][correlated.box[row] > 0]
        moved = correlated.errors[3:, row].sum(dim=0)
        assert moved[moved > 0].min() >= kept.max()
    assert len(propagate(CorrelateMax(9), values).ids) == 3 + 4


def test_worst_margins_by_trying_every_corner():
    values = zonotope(4, 3)
    labels = torch.tensor([0, 1, 2, 1])
    found = worst_margins(values, labels)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6)
    tried = torch.stack(
        [values.center + c[:3] * values.box + (c[3:].view(3, 1, 1) * values.errors).sum(dim=0) for c in corners]
    )
    exact = (tried - tried.gather(2, labels.view(1, 4, 1).expand(64, -1, -1))).amax(dim=0)
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_proved_no_attack_changes(shared):
    model, inputs = made(MLP, (1, 6, 6), 3, (12,)), uniform(200, 1, 6, 6)
    labels = model(inputs).argmax(dim=1)
    proved = verify(model, inputs, labels, 0.02, shared=shared)
    attack = ProjectedGradient(0.02, steps=40, starts=3)
    held = model(attack(model, inputs, labels, generator=seeded())).argmax(dim=1) == labels
    assert not (proved & ~held).any()
    assert 0 < proved.sum() < 200
    assert not verify(model, inputs, (labels + 1) % 3, 0.02, shared=shared).any()


def test_at_radius_zero_everything_right_is_proved_in_any_mode():
    model = with_statistics(made(Residual), (1, 6, 6)).train()
    inputs = uniform(300, 1, 6, 6)
    with torch.no_grad():
        labels = model.eval()(inputs).argmax(dim=1)
    model.train()
    assert verify(model, inputs, labels, 0.0).all()
    assert model.training
    assert verify(model, inputs[:0], labels[:0], 0.1).shape == (0,)


def test_the_loss_over_a_ball_is_that_of_the_worst_margins_and_grows():
    model, inputs, labels = made(MLP, (1, 6, 6), 3, (12,)), uniform(8, 1, 6, 6), torch.arange(8) % 3
    low, high = propagate(model, ball(inputs, 0.05)).bounds()
    rows = torch.arange(8)
    worst = (high - low[rows, labels][:, None]).scatter(1, labels[:, None], 0)
    expected = -(worst.log_softmax(dim=1)[rows, labels]).mean()
    goal = Ball(0.05, ramp=0.5)
    torch.testing.assert_close(goal.loss(model, inputs, labels, 0.5), expected)
    torch.testing.assert_close(goal.loss(model, inputs, labels, 0.9), expected)
    plain = Point().loss(model, inputs, labels, 0.5)
    torch.testing.assert_close(goal.loss(model, inputs, labels, 0.0), plain)
    half = Ball(0.025).loss(model, inputs, labels, 0.0)
    torch.testing.assert_close(goal.loss(model, inputs, labels, 0.25), half)
    assert plain < half < expected


def test_a_mix_is_the_weighted_mean_and_grows():
    model, inputs, labels = made(MLP, (1, 6, 6), 3, (12,)), uniform(8, 1, 6, 6), torch.arange(8) % 3
    parts = [goal.loss(model, inputs, labels, 1.0) for goal in (Point(), Ball(0.05))]
    mixed = Mix(Point(), Ball(0.05), weight=0.4, ramp=0.5)
    for progress, weight in ((0.0, 0.0), (0.25, 0.2), (0.5, 0.4), (1.0, 0.4)):
        expected = (1 - weight) * parts[0] + weight * parts[1]
        torch.testing.assert_close(mixed.loss(model, inputs, labels, progress), expected)


@pytest.mark.parametrize("name", ["residual", "correlated", "lenet"])
def test_the_loss_has_the_gradient_of_finite_differences(name):
    make, shape = MODELS[name]
    model = make().double()
    inputs, labels = uniform(3, *shape).double(), torch.tensor([0, 1, 2])
    goal = Ball(0.01)
    goal.loss(model, inputs, labels, 1.0).backward()
    for parameter in (next(iter(model.parameters())), list(model.parameters())[-2]):
        flat, step = parameter.data.view(-1), 1e-6
        for place in (0, len(flat) // 2):
            values = []
            for sign in (1, -1):
                flat[place] += sign * step
                values.append(goal.loss(model, inputs, labels, 1.0).item())
                flat[place] -= sign * step
            slope = (values[0] - values[1]) / (2 * step)
            assert parameter.grad.view(-1)[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_training_makes_more_provable():
    images, labels = uniform(300, 1, 6, 6), torch.arange(300) % 3
    images = 0.2 * images + 0.6 * torch.stack([labels == 0, labels == 1, labels == 2], dim=1).float().repeat(
        1, 12
    ).view(300, 1, 6, 6)
    proved = {}
    for name, goal in {"plain": Point(), "mixed": Mix(Point(), Ball(0.2, ramp=0.5), weight=0.5, ramp=0.5)}.items():
        model = made(MLP, (1, 6, 6), 3, (12,))
        training = DiffAI(model, torch.optim.Adam(model.parameters(), lr=5e-3), goal, steps=100)
        for number in range(100):
            rows = torch.arange(64 * number, 64 * number + 64) % 300
            training.step(images[rows], labels[rows])
        proved[name] = verify(model, images, labels, 0.2).double().mean().item()
    assert proved["mixed"] > proved["plain"] + 0.3


def test_in_train_mode_batch_norm_takes_the_statistics_of_the_centers():
    model = made(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).train()
    inputs = uniform(8, 1, 5, 5)
    center = propagate(model, ball(inputs, 0.0)).center
    again = made(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).train()
    torch.testing.assert_close(center, again(inputs), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model[1].running_var, again[1].running_var)


class Viewed(nn.Module):
    """Flattens images as many networks do, by the number of examples."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        if self.way == "view":
            return self.head(x.view(x.size(0), -1))
        return self.head(x.reshape((x.size(0), 8)) if self.way == "shape" else x.flatten(start_dim=1))


@pytest.mark.parametrize("shared", [False, True])
def test_ways_to_flatten_are_one(shared):
    inputs = uniform(4, 1, 4, 4)
    found = [
        propagate(made(Viewed, way), ball(inputs, 0.1, shared=shared)).bounds() for way in ("flatten", "view", "shape")
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


class Scaled(nn.Module):
    """Adds what is not the sum of the two."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, x, alpha=-3)


class Padded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 1), value=-1.0)


class Named(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(input=x, start_dim=1)


class Softmaxed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(dim=1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Softmaxed(), "cannot pass through Tensor.softmax"),
        (Branching(), "depends on values"),
        (Square(), "product of two activations"),
        (Scaled(), "cannot pass through add"),
        (Padded(), "padding by other values"),
        (Named(), "cannot pass through flatten"),
        (nn.BatchNorm2d(1, track_running_stats=False).eval(), "without running statistics"),
        (nn.GELU(), "cannot pass through GELU"),
        (nn.Sequential(nn.Dropout(0.5)).train(), "cannot pass through Dropout"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding of mode 'reflect'"),
    ],
)
def test_what_bounds_cannot_pass_is_told(model, words):
    with pytest.raises(InputError, match=words):
        propagate(model, ball(uniform(2, 1, 4, 4), 0.1))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Ball(-0.1), "radius"),
        (lambda: Ball(math.inf), "radius"),
        (lambda: Ball(0.1, ramp=1.5), "ramp"),
        (lambda: Mix(Point(), Point(), weight=-0.1), "weight"),
        (lambda: Mix(Point(), Point(), weight=math.nan), "weight"),
        (lambda: Mix(Point(), Point(), ramp=True), "ramp"),
    ],
)
def test_bad_goals_are_named(make, named):
    with pytest.raises(ValueError, match=f"^{named} must"):
        make()
