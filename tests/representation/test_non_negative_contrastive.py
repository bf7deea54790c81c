"""Non-negative contrastive learning: the loss by a loop and beside SimCLR's, activations, measures by hand, heads."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import nt_xent
from paperweight.nets import MLP, LeNet, ResNet, ViT
from paperweight.representation.non_negative_contrastive import (
    NonNegativeHead,
    class_consistency,
    feature_sparsity,
    ncl_loss,
    rep_relu,
)
from paperweight.studies.representation.non_negative_contrastive import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FEATURES, LABELS = normal(6, 4).relu(), torch.tensor([0, 1, 2, 0, 1, 1])

CONTRACT = {
    "rep_relu": FunctionSubject(make=rep_relu, arguments={"x": normal(5, 3)}, bad={"x": (torch.arange(3),)}),
    "ncl_loss": FunctionSubject(
        make=ncl_loss,
        arguments={"first": normal(5, 3), "second": normal(5, 3, seed=1)},
        bad={
            "first": (normal(5), normal(4, 3), normal(5, 2)),
            "second": (normal(5), normal(4, 3), normal(0, 3)),
            "temperature": (0.0, -1.0, math.nan, math.inf),
            "activation": ("gelu", "", None),
        },
        null=partial(ncl_loss, activation="none"),
        baseline=lambda first, second: nt_xent(first, second, temperature=0.5),
    ),
    "class_consistency": FunctionSubject(
        make=class_consistency,
        arguments={"features": FEATURES, "labels": LABELS},
        bad={
            "features": (normal(6), normal(0, 3)),
            "labels": (LABELS[:4], LABELS.float(), LABELS - 1),
            "eps": (-1.0, math.nan, math.inf),
        },
    ),
    "feature_sparsity": FunctionSubject(
        make=feature_sparsity,
        arguments={"features": FEATURES},
        bad={"features": (normal(6), normal(0, 3)), "eps": (-1.0, math.nan, math.inf)},
    ),
    "NonNegativeHead": LayerSubject(
        make=lambda linear=None: NonNegativeHead(nn.Linear(4, 3) if linear is None else linear),
        inputs=(normal(5, 4),),
        shape=(5, 3),
        parameter_count=15,
        bad={"linear": (nn.ReLU(), nn.Conv2d(1, 1, 1), 3)},
        expected_failures={"check_gradients": "the gradient is that of GELU, while what is computed is ReLU"},
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_activation_is_relu_bit_for_bit_with_the_gradient_of_gelu(dtype):
    x = (4 * normal(500, seed=2)).to(dtype)
    x[:4] = torch.tensor([0.0, -0.0, 6e4, -6e4])
    x.requires_grad_(True)
    y = rep_relu(x)
    assert torch.equal(y, F.relu(x))
    (given,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(F.gelu(x).sum(), x)
    assert torch.equal(given, expected)
    assert (given[x < -0.5] != 0).any()


@pytest.mark.parametrize("activation", ["rep_relu", "relu", "none"])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_by_a_loop(activation, temperature):
    first, second = normal(4, 3, seed=3).double(), normal(4, 3, seed=4).double()
    views = torch.cat([first, second])
    if activation != "none":
        views = views.clamp(min=0)
    views = views / views.norm(dim=1, keepdim=True).clamp(min=1e-12)
    total = 0.0
    for i in range(8):
        scores = [math.exp(float(views[i] @ views[j]) / temperature) for j in range(8) if j != i]
        total -= math.log(math.exp(float(views[i] @ views[(i + 4) % 8]) / temperature) / sum(scores))
    assert ncl_loss(first, second, temperature, activation).item() == pytest.approx(total / 8, rel=1e-9)


def test_non_negative_features_are_taken_as_they_are():
    first, second = normal(5, 3).abs(), normal(5, 3, seed=1).abs()
    losses = [ncl_loss(first, second, 0.2, activation) for activation in ("rep_relu", "relu", "none")]
    assert torch.equal(losses[0], losses[2])
    assert torch.equal(losses[1], losses[2])
    # Classes on axes of their own are the best that features can be: no cosine is below 0.
    axes = torch.eye(3)
    expected = -2 + math.log(math.exp(2) + 4)
    assert ncl_loss(axes, axes, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_what_is_0_rises_again_by_the_gradient_of_gelu_alone_and_not_where_it_is_0_for_the_whole_batch():
    # The first image's first view is 0 where its second view is not; the last dimension is 0 for all.
    first = torch.tensor([[1.0, -0.2, -0.2], [1.0, 0.5, -0.2]])
    second = torch.tensor([[1.0, 0.6, -0.2], [1.0, -0.1, -0.2]])
    for activation, alive in (("rep_relu", True), ("relu", False)):
        x = first.clone().requires_grad_(True)
        ncl_loss(x, second, 0.5, activation).backward()
        assert bool(x.grad[0, 1]) is alive
        assert not x.grad[:, 2].any()


def test_views_of_zeros_give_finite_losses_and_gradients():
    assert ncl_loss(normal(1, 3), normal(1, 3, seed=1)).item() == 0
    x = torch.full((3, 2), -50.0, requires_grad=True)
    loss = ncl_loss(x, x)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5), rel=1e-6)
    assert x.grad.isfinite().all()


def test_measures_by_hand():
    features = torch.tensor([[1.0, 0.0, 0.0, -2.0], [0.5, 3.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 1e-6, 0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 2])
    # Active are samples 0, 1 (both of class 0); 1, 2 (of two classes); none; and all (half of class 0).
    assert class_consistency(features, labels) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert class_consistency(features, labels, eps=0.0) == pytest.approx((1 + 1 / 3 + 0.5) / 3)
    assert feature_sparsity(features) == pytest.approx(8 / 16)
    assert feature_sparsity(features, eps=0.0) == pytest.approx(7 / 16)
    assert math.isnan(class_consistency(torch.zeros(2, 3), torch.tensor([0, 1])))
    dense = normal(400, 20).double()
    assert class_consistency(dense, torch.arange(400) % 4) == pytest.approx(0.25)


def test_a_head_by_hand_in_both_precisions_and_after_loading():
    linear = nn.Linear(2, 2, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -3.0], [-2.0, 4.0]]))
        linear.bias.copy_(torch.tensor([-1.0, 0.5]))
    head = NonNegativeHead(linear)
    assert head(torch.tensor([[2.0, -5.0], [1.0, 1.0]])).tolist() == [[1.0, 0.5], [0.0, 4.5]]
    assert head.linear.weight.tolist() == [[1.0, -3.0], [-2.0, 4.0]]
    twin = NonNegativeHead(nn.Linear(2, 2))
    twin.load_state_dict(head.state_dict())
    x = normal(4, 2)
    assert torch.equal(twin(x), head(x))
    assert torch.equal(copy.deepcopy(head).double()(x.double()).float(), head(x))
    head.linear.bias.requires_grad_(False)
    head(x).square().sum().backward()
    assert head.linear.weight.grad.all()
    assert head.linear.bias.grad is None


class Doubled(nn.Module):
    """Logits that are twice what a linear layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.head(self.body(x.flatten(1)).relu())


class Twice(nn.Module):
    """The last linear layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head(self.body(x.flatten(1))).relu())


@pytest.mark.parametrize(
    ("build", "fits"),
    [
        (lambda: LeNet((1, 8, 8), 3), True),
        (lambda: MLP((1, 8, 8), 3), True),
        (lambda: ResNet((1, 8, 8), 3), True),
        (lambda: ViT((1, 8, 8), 3), True),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), True),
        (Doubled, False),
        (Twice, False),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), False),
        (lambda: nn.Sequential(nn.Flatten(2), nn.Linear(64, 3), nn.Flatten()), False),
    ],
)
def test_the_recipe_changes_the_last_layer_alone_where_it_fits(build, fits):
    torch.manual_seed(0)
    model, images = build(), normal(5, 1, 8, 8)
    before = copy.deepcopy(model.state_dict())
    reason = RECIPE.fits(model, SimpleNamespace(train=SimpleNamespace(images=images)))
    assert ("last linear layer" in reason) is not fits
    assert not any(module._forward_hooks for module in model.modules())
    if fits:
        changed = RECIPE.surgery(model)
        heads = [module for module in changed.modules() if isinstance(module, NonNegativeHead)]
        seen: list[Tensor] = []
        heads[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        logits = changed.eval()(images)
        linear = heads[0].linear
        torch.testing.assert_close(logits, F.linear(seen[0].relu(), linear.weight.relu(), linear.bias))
        assert len(heads) == 1
        assert all(map(torch.equal, changed.state_dict().values(), before.values()))
        assert not any(isinstance(module, NonNegativeHead) for module in model.modules())
    else:
        assert reason.startswith("the network's logits must be")
