"""Noisy Softmax against hand-computed cases, a loop with the angle itself and the closed form of its gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits
from paperweight.errors import InputError
from paperweight.nets import LeNet, NormalisedMLP
from paperweight.regularization.noisy_softmax import NoisySoftmaxLoss, _gaps, _lowered
from paperweight.studies.regularization._last_layer import FeatureTraining, ends_in_linear, last_layer
from paperweight.testing import LossSubject

SIZE, CLASSES = 4, 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def linear(bias: bool = True) -> nn.Linear:
    layer = nn.Linear(SIZE, CLASSES, bias=bias, device="meta").to_empty(device="cpu").double()
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=10 + number))
    return layer


FEATURES, LABELS = normal(5, SIZE), torch.tensor([0, 2, 1, 1, 0])


class Again(nn.Module):
    """The loss with the same noise in every call."""

    def __init__(self, layer: nn.Linear | None = None, alpha: float = 0.8) -> None:
        super().__init__()
        self.loss = NoisySoftmaxLoss(linear() if layer is None else layer, alpha, generator=seeded())

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        self.loss.generator.manual_seed(0)
        return self.loss(features, labels)


def loop(features: Tensor, labels: Tensor, alpha: float = 0.8) -> float:
    """Equations 5 and 6, one number after the other, with the angle itself."""
    layer, total = linear(), 0.0
    noise = torch.randn(len(labels), generator=seeded()).tolist()
    rows, biases = layer.weight.tolist(), layer.bias.tolist()
    for x, y, xi in zip(features.tolist(), labels.tolist(), noise, strict=True):
        logits = [sum(map(math.prod, zip(w, x, strict=True))) + b for w, b in zip(rows, biases, strict=True)]
        theta = math.acos((logits[y] - biases[y]) / (math.hypot(*rows[y]) * math.hypot(*x)))
        noisy = logits[y] - alpha * math.hypot(*rows[y]) * math.hypot(*x) * (1 - math.cos(theta)) * abs(xi)
        others = sum(math.exp(z) for j, z in enumerate(logits) if j != y)
        total -= math.log(math.exp(noisy) / (math.exp(noisy) + others))
    return total / len(labels)


def clean() -> nn.Module:
    class Clean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, features: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(self.layer(features), labels)

    return Clean()


CONTRACT = {
    "NoisySoftmaxLoss": LossSubject(
        make=Again,
        inputs=(FEATURES, LABELS),
        slow=loop,
        bad={"layer": (nn.Identity(), nn.Conv2d(1, 1, 1)), "alpha": (-0.1, math.nan, math.inf)},
        null=lambda: Again(alpha=0.0),
        baseline=clean,
        expected_failures={
            "check_order_of_samples": "each sample draws noise of its own, in the order of the batch; that samples "
            "are treated alike is tested below"
        },
    )
}


def test_by_hand_with_a_right_angle_and_with_a_half():
    # W_0 = (0, 2), x = (3, 0): noise 6 |xi|. W_1 = (1, 0), x = (1, sqrt 3): cos 1/2, noise 2 * 1/2 |xi|.
    layer = nn.Linear(2, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.5, -0.5]))
    features = torch.tensor([[3.0, 0.0], [1.0, math.sqrt(3)]], dtype=torch.float64)
    first, second = torch.randn(2, generator=seeded(5)).abs().tolist()
    loss = NoisySoftmaxLoss(layer, alpha=0.25, generator=seeded(5))(features, torch.tensor([0, 1]))
    logits = [(0.5 - 0.25 * 6 * first, 2.5), (0.5 - 0.25 * second, 2 * math.sqrt(3) + 0.5)]
    expected = sum(math.log(1 + math.exp(other - right)) for right, other in logits) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_equations_by_hand():
    gaps = _gaps(
        torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]]), torch.tensor([[6.0, 8.0], [-3.0, -4.0], [0.0, 1.0]])
    )
    assert gaps.tolist() == [0.0, 50.0, 1.0]
    lowered = _lowered(torch.zeros(2, 3), torch.tensor([2, 0]), torch.tensor([1.5, 0.5]))
    assert lowered.tolist() == [[0.0, 0.0, -1.5], [-0.5, 0.0, 0.0]]


@pytest.mark.parametrize("bias", [True, False])
def test_eval_mode_and_alpha_0_are_cross_entropy_bit_for_bit_and_draw_nothing(bias):
    layer = linear(bias).float()
    for seed in range(3):
        features = 5 * normal(5, SIZE, seed=seed).float()
        expected = F.cross_entropy(layer(features), LABELS)
        draw = seeded()
        for loss in (
            NoisySoftmaxLoss(layer, generator=draw).eval(),
            NoisySoftmaxLoss(layer, alpha=0.0, generator=draw),
        ):
            assert torch.equal(loss(features, LABELS), expected)
        assert torch.equal(draw.get_state(), seeded().get_state())


def test_noise_never_makes_the_loss_of_an_example_less():
    layer, draw = linear(), seeded()
    loss = NoisySoftmaxLoss(layer, alpha=1.0, generator=draw)
    larger = 0
    for seed in range(200):
        features, label = 3 * normal(1, SIZE, seed=seed), torch.tensor([seed % CLASSES])
        noisy, plain = loss(features, label), F.cross_entropy(layer(features), label)
        assert noisy >= plain
        larger += int(noisy > plain)
    assert larger == 200


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_features_along_the_weights_of_their_class_get_no_noise_and_rounding_no_bonus(dtype):
    layer = linear().to(dtype)
    scales = torch.arange(1.0, 1001.0, dtype=torch.float64)[:, None].to(dtype) / 7
    labels = torch.arange(1000) % CLASSES
    precise = torch.promote_types(dtype, torch.float32)
    features, weights = scales.to(precise) * layer.weight[labels].to(precise), layer.weight[labels].to(precise)
    gaps = _gaps(features, weights)
    lengths = features.norm(dim=1) * weights.norm(dim=1)
    assert (gaps >= 0).all()
    assert (gaps <= 4 * torch.finfo(precise).eps * lengths).all()
    powers = 2.0 ** torch.arange(6)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2], [0, 0, 3, 4]]))
        layer.bias.zero_()
    exact = (powers[:, None].to(dtype) * layer.weight[labels[:6]]).detach()
    loss = NoisySoftmaxLoss(layer, alpha=1.0, generator=seeded())
    assert torch.equal(loss(exact, labels[:6]), F.cross_entropy(layer(exact), labels[:6]))


def test_gradient_of_features_is_the_closed_form():
    # p - e_y for the noisy logits; through f_y it is W_y - a (||W_y|| x / ||x|| - W_y) with a = alpha |xi|.
    layer = linear()
    features = FEATURES.clone().requires_grad_()
    NoisySoftmaxLoss(layer, alpha=0.8, generator=seeded()).double()(features, LABELS).backward()
    noise = 0.8 * torch.randn(5, generator=seeded()).abs().double()
    for x, y, a, found in zip(FEATURES, LABELS, noise, features.grad, strict=True):
        logits = layer(x).detach().clone()
        logits[y] -= a * (layer.weight[y].norm() * x.norm() - layer.weight[y] @ x).detach()
        error = logits.softmax(dim=0)
        error[y] -= 1
        slopes = layer.weight.detach().clone()
        slopes[y] -= a * (slopes[y].norm() * x / x.norm() - slopes[y])
        torch.testing.assert_close(found, error @ slopes / 5, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("zero", ["features", "weights"])
def test_gradients_are_finite_where_a_norm_is_0(zero):
    layer, features = linear(), FEATURES.clone()
    with torch.no_grad():
        (features if zero == "features" else layer.weight).zero_()
    features.requires_grad_()
    NoisySoftmaxLoss(layer, generator=seeded())(features, LABELS).backward()
    assert features.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


def test_each_example_draws_its_own_noise_anew_and_its_size_is_that_of_a_normal_number():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
    loss = NoisySoftmaxLoss(layer, alpha=0.5, generator=seeded())
    across, labels = torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    values = torch.stack([loss(across, labels).detach() for _ in range(4_000)])
    amounts = 2 * (values.expm1().log() - 1)  # the loss is log(1 + e^(1 + |xi| / 2))
    assert amounts.min() >= -1e-5
    assert amounts.mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)
    assert amounts.square().mean().item() == pytest.approx(1, abs=0.07)
    together = NoisySoftmaxLoss(layer, alpha=0.5, generator=seeded())(across.expand(4_000, 2), labels.expand(4_000))
    noise = torch.randn(4_000, generator=seeded()).abs()
    assert together.item() == pytest.approx((1 + noise / 2).exp().log1p().mean().item(), rel=1e-5)


def test_samples_are_treated_alike_where_their_noise_turns_with_them(monkeypatch):
    noise, order = normal(5).abs(), torch.tensor([3, 1, 4, 0, 2])
    loss = NoisySoftmaxLoss(linear(), generator=seeded())
    monkeypatch.setattr(loss, "_noise", lambda like: noise)
    value = loss(FEATURES, LABELS)
    monkeypatch.setattr(loss, "_noise", lambda like: noise[order])
    torch.testing.assert_close(loss(FEATURES[order], LABELS[order]), value, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"features": normal(5, 3)}, r"features must have shape \(N, 4\) .* got \(5, 3\)"),
        ({"features": normal(4)}, r"features must have shape \(N, 4\)"),
        ({"features": normal(0, 4), "labels": LABELS[:0]}, "N at least 1"),
        ({"labels": LABELS[:4]}, r"labels must be int64 of shape \(5,\), .* shape \(4,\)"),
        ({"labels": LABELS.double()}, r"labels must be int64 .* got torch\.float64"),
        ({"labels": torch.tensor([0, 1, 2, 3, 0])}, "labels must be from 0 to 2, got 0 to 3"),
        ({"labels": torch.tensor([0, 1, 2, -1, 0])}, "labels must be from 0 to 2, got -1 to 2"),
    ],
)
def test_bad_batches_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Again()(**({"features": FEATURES, "labels": LABELS} | given))


class TestLastLayer:
    """What the study's recipe finds in a network that it does not know."""

    images = normal(6, 1, 8, 8).float()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    @pytest.mark.parametrize("make", [LeNet, NormalisedMLP])
    def test_it_is_found_and_the_network_is_left_as_it_was(self, make):
        model = make((1, 8, 8), 3).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert last_layer(model, self.images) is model.head
        assert model.training
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_it_is_the_one_called_last_and_not_the_one_named_last(self):
        class Turned(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.last = nn.Linear(4, 3)
                self.first = nn.Linear(64, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.last(self.first(x.flatten(1)).relu())

        model = Turned()
        assert last_layer(model, self.images) is model.last

    @pytest.mark.parametrize(
        "layers",
        [
            [nn.Flatten(), nn.Linear(64, 3), nn.LogSoftmax(dim=1)],
            [nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3)],
            [nn.Linear(8, 3), nn.AvgPool2d((8, 1)), nn.Flatten()],
            [nn.Conv2d(1, 3, 8), nn.Flatten()],
        ],
        ids=["probabilities", "normalised", "pooled", "convolution"],
    )
    def test_other_ends_are_refused_with_what_to_do(self, layers):
        model = nn.Sequential(*layers)
        assert model(self.images).shape == (6, 3)
        reason = ends_in_linear(model, self.splits())
        assert reason.startswith("the network must end in a torch.nn.Linear")
        assert reason.endswith("leave out what follows its last linear layer")
        with pytest.raises(InputError, match="Sequential does not"):
            last_layer(model, self.images)

    def test_a_network_that_ends_in_one_fits(self):
        assert ends_in_linear(LeNet((1, 8, 8), 3), self.splits()) == ""

    def splits(self) -> Splits:
        part = LabelledImages(self.images, self.labels)
        return Splits(train=part, validation=part, test=part, classes=("a", "b", "c"), shape=(1, 8, 8))

    def test_a_layer_with_a_forward_of_its_own_is_refused(self):
        class Doubled(nn.Linear):
            def forward(self, input: Tensor) -> Tensor:
                return 2 * super().forward(input)

        with pytest.raises(InputError, match="must end in"):
            last_layer(nn.Sequential(nn.Flatten(), Doubled(64, 3)), self.images)

    def test_training_at_alpha_0_is_plain_training_on_the_same_batches_bit_for_bit(self):
        def network() -> nn.Module:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return LeNet((1, 8, 8), 3)

        ours, theirs = network(), network()
        training = FeatureTraining(
            ours,
            torch.optim.SGD(ours.parameters(), lr=0.1),
            self.images,
            self.labels,
            loss=lambda layer, draw: NoisySoftmaxLoss(layer, alpha=0.0, generator=draw),
            batch_size=2,
            epochs=2,
            generator=seeded(),
        )
        means = [training.step() for _ in range(2)]
        plain, draw, losses = torch.optim.SGD(theirs.parameters(), lr=0.1), seeded(), []
        for _ in range(2):
            for index in torch.randperm(6, generator=draw).split(2):
                loss = F.cross_entropy(theirs(self.images[index]), self.labels[index])
                plain.zero_grad()
                loss.backward()
                plain.step()
                losses.append(loss.detach())
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
        assert torch.equal(torch.stack(means), torch.stack(losses).unflatten(0, (2, 3)).mean(dim=1))
        assert not ours.head._forward_pre_hooks
