"""Nested dropout against shorter layers, the law of the cut by hand and by counting, and null training."""

import copy
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits
from paperweight.errors import InputError
from paperweight.nets import MLP, LeNet, ResNet
from paperweight.regularization.nested_dropout import NestedDropout, accuracy_by_width, cut_law
from paperweight.studies.regularization._before_last import before_last_linear, last_is_registered_last
from paperweight.studies.regularization.nested_dropout import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject

DIM = 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


class Classifier(nn.Module):
    """Features of their own, the layer, and a last one with fixed weights."""

    def __init__(self, std: float | None = 2.0) -> None:
        super().__init__()
        self.cut = NestedDropout(DIM, std, generator=seeded())
        self.head = nn.Linear(DIM, 3, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            self.head.weight.copy_(normal(3, DIM, seed=1))
            self.head.bias.copy_(normal(3, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cut(x))


CONTRACT = {
    "NestedDropout": LayerSubject(
        make=lambda dim=DIM, std=3.0: NestedDropout(dim, std),
        inputs=(normal(4, DIM),),
        shape=(4, DIM),
        parameter_count=0,
        bad={"dim": (0, -1, 2.5), "std": (0.0, -1.0, math.nan, math.inf)},
        null=lambda: NestedDropout(DIM, std=None),
        baseline=nn.Identity,
    ),
    "cut_law": FunctionSubject(
        make=cut_law,
        arguments={"dim": 5, "std": 2.0},
        bad={"dim": (0, -1, 2.5), "std": (0.0, -1.0, math.nan, math.inf)},
    ),
    "accuracy_by_width": FunctionSubject(
        make=accuracy_by_width,
        arguments={
            "model": Classifier(),
            "inputs": normal(5, DIM),
            "labels": torch.tensor([0, 1, 2, 0, 1]),
            "widths": (1, 3, DIM),
        },
        bad={
            "model": (nn.Linear(DIM, 3), nn.Sequential(NestedDropout(DIM), NestedDropout(DIM))),
            "labels": (torch.tensor([0, 1]), torch.tensor([[0], [1], [2], [0], [1]])),
            "widths": ((), (0,), (1, DIM + 1), (2.5,)),
        },
    ),
}


def test_law_by_hand_and_its_size_far_from_1():
    weights = [math.exp(-((k / 2.5) ** 2)) for k in (1, 2, 3, 4)]
    assert cut_law(4, 2.5).tolist() == pytest.approx([weight / sum(weights) for weight in weights], rel=1e-12)
    assert cut_law(1, 0.1).tolist() == [1.0]
    assert cut_law(3, 1e-3).tolist() == [1.0, 0.0, 0.0]
    assert cut_law(4, 1e9).tolist() == pytest.approx([0.25] * 4)


def test_law_is_half_a_normal_with_the_spread_divided_by_the_root_of_2():
    law = cut_law(2_000, 100.0)
    places = torch.arange(1, 2_001, dtype=torch.float64)
    assert (law * places.square()).sum().sqrt().item() == pytest.approx(100 / math.sqrt(2), rel=0.01)


def test_cuts_are_drawn_by_the_law_one_for_all_samples_of_a_call():
    layer = NestedDropout(DIM, std=3.0, generator=seeded())
    counts = Counter[int]()
    for _ in range(6_000):
        kept = layer(torch.ones(2, 3, DIM)).flatten(0, 1)
        assert torch.equal(kept, kept[:1].expand(6, DIM))
        counts[int(kept[0].sum())] += 1
    weights = [math.exp(-((k / 3) ** 2)) for k in range(1, DIM + 1)]
    for k, weight in enumerate(weights, 1):
        assert counts[k] / 6_000 == pytest.approx(weight / sum(weights), abs=0.02)
    assert sum(counts.values()) == 6_000


def test_what_is_kept_is_not_scaled_and_the_rest_is_0_even_where_it_is_not_finite():
    x = normal(5, DIM)
    x[:, -1] = math.nan
    layer = NestedDropout(DIM, std=1.5, generator=seeded())
    for _ in range(20):
        cut = layer(x)
        kept = int((cut[0] != 0).sum())
        assert kept < DIM
        assert torch.equal(cut[:, :kept], x[:, :kept])
        assert not cut[:, kept:].any()


def test_a_dropped_feature_and_its_weights_have_gradient_0_and_the_others_that_of_a_shorter_layer():
    model = Classifier(std=3.0)
    for seed in range(8):
        x, labels = normal(4, DIM, seed=seed).requires_grad_(), torch.tensor([0, 1, 2, 0])
        model.zero_grad()
        model.cut.generator.manual_seed(seed)
        F.cross_entropy(model(x), labels).backward()
        model.cut.generator.manual_seed(seed)
        kept = int(model.cut(torch.ones(DIM)).sum())
        short, weight = x[:, :kept].detach().requires_grad_(), model.head.weight[:, :kept].detach().requires_grad_()
        F.cross_entropy(short @ weight.T + model.head.bias.detach(), labels).backward()
        torch.testing.assert_close(x.grad[:, :kept], short.grad)
        torch.testing.assert_close(model.head.weight.grad[:, :kept], weight.grad)
        assert not x.grad[:, kept:].any()
        assert not model.head.weight.grad[:, kept:].any()


def test_eval_mode_keeps_all_until_truncated_and_draws_nothing():
    x = normal(3, DIM)
    layer = NestedDropout(DIM, std=0.5, generator=seeded()).eval()
    assert torch.equal(layer(x), x)
    for width in (2, DIM, 1):
        layer.truncate(width)
        expected = x.clone()
        expected[:, width:] = 0
        assert torch.equal(layer(x), expected)
    assert torch.equal(layer.generator.get_state(), seeded().get_state())
    assert str(layer) == "NestedDropout(dim=6, std=0.5, width=1)"


def test_truncation_does_not_reach_training_and_is_kept_in_state_copies_and_formats():
    layer = NestedDropout(DIM, std=1e9, generator=seeded())
    layer.truncate(1)
    assert max(int(layer(torch.ones(DIM)).sum()) for _ in range(50)) == DIM
    other = NestedDropout(DIM)
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer).bfloat16()):
        assert same.eval()(torch.ones(DIM)).sum() == 1


def test_std_none_gives_the_tensor_itself_and_draws_nothing():
    x, layer = normal(2, DIM), NestedDropout(DIM, std=None, generator=seeded())
    assert layer(x) is x
    assert torch.equal(layer.generator.get_state(), seeded().get_state())


def test_the_law_does_not_lose_digits_with_the_format_of_the_network():
    layer = NestedDropout(1_000, std=300.0, generator=seeded()).bfloat16()
    same = NestedDropout(1_000, std=300.0, generator=seeded())
    x = torch.ones(1_000)
    assert [int(layer(x).sum()) for _ in range(3_000)] == [int(same(x).sum()) for _ in range(3_000)]


@pytest.mark.parametrize("shape", [(), (DIM - 1,), (DIM, 2)])
def test_features_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 6\), got"):
        NestedDropout(DIM)(torch.zeros(shape))


@pytest.mark.parametrize("width", [0, DIM + 1, 2.0])
def test_widths_outside_the_range_are_refused(width):
    layer = NestedDropout(DIM)
    with pytest.raises(ValueError, match="width must be a whole number from 1 to 6"):
        layer.truncate(width)
    assert int(layer.width) == DIM


def test_accuracy_by_width_is_that_of_the_classifier_on_fewer_features_and_leaves_it_as_it_was():
    model = Classifier().train()
    model.cut.truncate(4)
    inputs, labels = normal(1_203, DIM), torch.randint(0, 3, (1_203,), generator=seeded(3))
    found = accuracy_by_width(model, inputs, labels, widths=[5, 1, 3])
    assert list(found) == [5, 1, 3]
    for width, accuracy in found.items():
        logits = inputs[:, :width] @ model.head.weight[:, :width].T + model.head.bias
        assert accuracy == pytest.approx((logits.argmax(dim=1) == labels).double().mean().item(), abs=1e-12)
    assert model.training
    assert int(model.cut.width) == 4


def test_accuracy_by_width_leaves_a_model_that_fails_as_it_was():
    model = Classifier().train()
    model.cut.truncate(4)
    with pytest.raises(RuntimeError):
        accuracy_by_width(model, normal(3, DIM).double(), torch.tensor([0, 1, 2]), widths=[1, 2])
    assert int(model.cut.width) == 4
    assert model.training


class TestRecipe:
    """What the study's recipe does with a network that it does not know."""

    images, labels = normal(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])

    def splits(self) -> Splits:
        part = LabelledImages(self.images, self.labels)
        return Splits(train=part, validation=part, test=part, classes=("a", "b", "c"), shape=(1, 8, 8))

    @pytest.mark.parametrize("make", [LeNet, MLP, ResNet])
    def test_the_layer_comes_before_the_last_linear_one_which_keeps_its_weights(self, make):
        model = make((1, 8, 8), 3)
        assert last_is_registered_last(model, self.splits()) == ""
        changed = RECIPE.surgery(model)
        cut, head = changed.head
        assert isinstance(cut, NestedDropout)
        assert cut.dim == cut.std == head.in_features
        assert torch.equal(head.weight, model.head.weight)
        assert isinstance(model.head, nn.Linear)
        assert torch.equal(changed.eval()(self.images), model.eval()(self.images))

    def test_at_std_none_it_trains_like_the_baseline_bit_for_bit(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            ours = LeNet((1, 8, 8), 3)
        theirs = copy.deepcopy(ours)
        ours = before_last_linear(ours, lambda dim: NestedDropout(dim, std=None))
        for model in (ours, theirs):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            for _ in range(4):
                optimizer.zero_grad()
                F.cross_entropy(model(self.images), self.labels).backward()
                optimizer.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))

    def test_networks_without_a_linear_layer_last_are_refused_with_what_to_do(self):
        bare = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
        with pytest.raises(InputError, match="model must hold a module of type Linear"):
            RECIPE.surgery(bare)
        assert last_is_registered_last(bare, self.splits()).startswith("the network must end in a torch.nn.Linear")

        class Turned(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.last = nn.Linear(4, 3)
                self.first = nn.Linear(64, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.last(self.first(x.flatten(1)).relu())

        reason = last_is_registered_last(Turned(), self.splits())
        assert reason == (
            "the linear layer that gives the logits must be registered after all others, in Turned 'first' is; "
            "assign it last in __init__"
        )
