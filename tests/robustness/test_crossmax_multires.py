"""CrossMax and multi-resolution: an outlier by hand, copies against a slow loop, heads that learn alone."""

import copy
import math
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets import LeNet
from paperweight.robustness.crossmax_multires import (
    CrossMax,
    MultiResolution,
    SelfEnsemble,
    crossmax,
    multi_resolution,
)
from paperweight.testing import DefenseSubject, FunctionSubject, LayerSubject
from paperweight.testing.classifiers import toy_classifier, toy_images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


NOTHING: dict[str, Any] = {"scales": (1.0,), "noise": 0.0, "shift": 0, "contrast": (1.0, 1.0), "colour": (1.0, 1.0)}


def only(**given: Any) -> dict[str, Any]:
    return NOTHING | given


MILD = partial(MultiResolution, scales=(1.0, 0.5), noise=0.02, shift=0)
RANGES = ((-0.1, 1.0), (1.0, 0.5), (math.nan, 1.0))
BAD = {
    "scales": ((), (0.0,), (1.1,), (math.nan,), (True,)),
    "noise": (-0.1, math.nan, math.inf, True),
    "shift": (-1, 1.0, True),
    "contrast": (*RANGES, (0.5, math.inf)),
    "colour": (*RANGES, (0.5, 1.1)),
    "bounds": ((1.0, 0.0), (math.nan, 1.0)),
}


def network() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Linear(5, 3))


def ensemble(layers: tuple[str, ...] = ("0", "2"), shape: tuple[int, ...] = (6,)) -> Any:
    return SelfEnsemble(network(), layers, shape)


CONTRACT = {
    "CrossMax": LayerSubject(
        make=CrossMax, inputs=(normal(4, 5, 3),), shape=(4, 3), parameter_count=0, bad={"k": (0, -1, 1.0, True)}
    ),
    "MultiResolution": DefenseSubject(
        make=MILD,
        random=True,
        tolerance=0.1,
        bad=BAD,
        null=lambda model, *, generator: MultiResolution(model, **NOTHING, generator=generator),
        baseline=lambda model, *, generator: model,
    ),
    "SelfEnsemble": LayerSubject(
        make=ensemble,
        inputs=(normal(4, 6, seed=1),),
        shape=(4, 3, 3),
        parameter_count=6 * 5 + 5 + 2 * 5 + 5 * 3 + 3 + 2 * (2 * 5 + 5 * 3 + 3),
        bad={"layers": ((), ("9",), "0"), "shape": ((0,), (6.0,), (True,))},
    ),
    "crossmax": FunctionSubject(
        make=crossmax,
        arguments={"logits": normal(4, 5, 3)},
        bad={"k": (0, -1, 6, 2.0, True), "logits": (normal(4, 3), normal(4, 0, 3))},
    ),
    "multi_resolution": FunctionSubject(
        make=lambda generator=None, **given: multi_resolution(generator=generator or seeded(), **given),
        arguments={"images": toy_images(3, (3, 8, 8))},
        bad=BAD | {"images": (normal(4, 3), torch.zeros(2, 1, 8, 8, dtype=torch.int64))},
    ),
}


@pytest.mark.parametrize("k", [None, 1, 3, 4])
@pytest.mark.parametrize("predictors", [4, 5])
def test_aggregation_is_that_of_a_loop_of_numbers(k: int | None, predictors: int) -> None:
    logits = normal(6, predictors, 3, seed=2).double()
    found = crossmax(logits, k)
    for row, result in zip(logits.tolist(), found.tolist(), strict=True):
        own = [[value - max(each) for value in each] for each in row]
        for label in range(3):
            values = [each[label] for each in own]
            values = [value - max(values) for value in values]
            expected = median(values) if k is None else sorted(values, reverse=True)[k - 1]
            assert result[label] == pytest.approx(expected, abs=1e-12)


def test_one_outlier_does_not_lift_a_class_as_it_does_the_mean() -> None:
    logits = normal(1, 5, 4, seed=3)
    logits[0, :4, 0] += 9
    logits[0, 4, 1] = 1e6
    assert crossmax(logits).argmax().item() == 0
    assert logits.mean(dim=1).argmax().item() == 1


def test_a_constant_for_a_predictor_changes_nothing_and_agreement_tells_nothing() -> None:
    logits = normal(3, 5, 4, seed=4).double()
    torch.testing.assert_close(crossmax(logits + normal(1, 5, 1).double()), crossmax(logits))
    assert (crossmax(logits) <= 0).all()
    assert (crossmax(logits[:, :1].expand(3, 5, 4)) == 0).all()
    assert (crossmax(logits[:, :1]) == 0).all()


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-math.inf, math.inf)])
def test_copies_are_those_of_a_loop_over_images(bounds: tuple[float, float]) -> None:
    images = toy_images(4, (3, 6, 4), seed=1)
    given: dict[str, Any] = {"scales": (1.0, 0.5), "contrast": (0.2, 3.0), "colour": (0.1, 0.7), "bounds": bounds}
    found = multi_resolution(images, seeded(7), shift=2, noise=0.3, **given)
    source = seeded(7)
    expected: list[Tensor] = []
    for scale in (1.0, 0.5):
        factors = 0.2 + 2.8 * torch.rand(4, 1, 1, 1, generator=source)
        offsets = torch.randint(-2, 3, (2, 4), generator=source)
        shares = 0.1 + 0.6 * torch.rand(4, 1, 1, 1, generator=source)
        low = 0.3 * torch.rand(4, 3, round(6 * scale), round(4 * scale), generator=source)
        high = 0.3 * torch.rand(4, 3, 6, 4, generator=source)
        made: list[Tensor] = []
        for n, image in enumerate(images):
            one = (image.mean() + factors[n] * (image - image.mean())).clamp(*bounds)
            one = torch.roll(one, (int(offsets[0, n]), int(offsets[1, n])), dims=(1, 2))
            one = shares[n] * one + (1 - shares[n]) * one.mean(dim=0)
            if scale < 1:
                one = F.interpolate(one[None], size=(3, 2), mode="bicubic")[0] + low[n]
                one = F.interpolate(one[None], size=(6, 4), mode="bicubic")[0]
            else:
                one = one + low[n]
            made.append((one + high[n]).clamp(*bounds))
        expected.append(torch.stack(made))
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=1e-5, atol=1e-6)


def test_each_image_has_a_shift_of_its_own_in_both_directions() -> None:
    images = torch.zeros(300, 1, 5, 5)
    images[:, 0, 2, 2] = 1
    found = multi_resolution(images, seeded(), **only(shift=1))
    places = found.flatten(1).argmax(dim=1)
    assert set(places.tolist()) == {6, 7, 8, 11, 12, 13, 16, 17, 18}
    assert (found.sum(dim=(1, 2, 3)) == 1).all()


@pytest.mark.parametrize("make", [LeNet, lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(128, classes))])
def test_the_widened_layer_gives_of_equal_copies_what_the_network_gives(make: Any) -> None:
    model = make((2, 8, 8), 3).double()
    images = toy_images(3, (2, 8, 8)).double()
    defended = MultiResolution(model, **only(scales=(1.0, 1.0, 1.0)), generator=seeded())
    torch.testing.assert_close(defended(images), model(images))
    first = next(part for part in defended.model.modules() if isinstance(part, (nn.Conv2d, nn.Linear)))
    assert first.weight.requires_grad
    assert first.weight.shape[1] == 3 * next(model.parameters()).shape[1]


def test_copies_keep_their_place_in_the_widened_layer() -> None:
    model = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False))
    defended: Any = MultiResolution(model, scales=(1.0, 0.5), generator=seeded())
    assert torch.equal(defended.model[0].weight[:, :2], defended.model[0].weight[:, 2:])
    assert defended.model[0].in_channels == 4
    assert not hasattr(model[0], "generator")


def test_frozen_weights_stay_frozen_and_a_network_that_cannot_be_widened_is_told() -> None:
    model = toy_classifier().requires_grad_(False)
    assert not any(p.requires_grad for p in MultiResolution(model, generator=seeded()).parameters())
    with pytest.raises(ValueError, match="one group"):
        MultiResolution(nn.Sequential(nn.Conv2d(2, 2, 1, groups=2)), generator=seeded())
    with pytest.raises(ValueError, match=r"torch\.nn\.Conv2d or torch\.nn\.Linear"):
        MultiResolution(nn.Flatten(), generator=seeded())


def test_answers_are_random_in_eval_mode_and_gradients_reach_the_image() -> None:
    defended = MultiResolution(toy_classifier(), generator=seeded()).eval()
    images = toy_images(2).requires_grad_()
    assert not torch.equal(defended(images), defended(images))
    defended(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_heads_read_what_layers_give_even_where_it_is_changed_in_place() -> None:
    each = ensemble(("1",)).eval()
    x = normal(4, 6, seed=5)
    features = each.model[1](each.model[0](x))
    head = each.heads[0]
    torch.testing.assert_close(each(x)[:, 0], head[1](head[0](features)))
    assert torch.equal(each(x)[:, 1], network().eval()(x))


def test_a_step_moves_heads_alone_each_as_it_would_alone() -> None:
    x, y = normal(8, 6, seed=6), torch.arange(8) % 3
    both = ensemble().train()
    alone = copy.deepcopy(both)
    before = copy.deepcopy(both.model.state_dict())
    for each, heads in ((both, slice(0, 2)), (alone, slice(1, 2))):
        optimizer = torch.optim.SGD(each.heads.parameters(), lr=0.1)
        outputs = each(x)[:, heads]
        torch.stack([F.cross_entropy(one, y) for one in outputs.unbind(dim=1)]).sum().backward()
        optimizer.step()
    assert torch.equal(both.heads[1][1].weight, alone.heads[1][1].weight)
    assert all(torch.equal(value, before[name]) for name, value in both.model.state_dict().items())
    assert not both.model[1].training
    assert both.heads[0][0].training


def test_the_classifier_given_stays_as_it_was() -> None:
    model = network().train()
    SelfEnsemble(model, ["0"], (6,))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert model[1].num_batches_tracked == 0


def test_a_layer_that_is_not_called_is_told() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_module("unused", nn.Identity())
    with pytest.raises(ValueError, match=r"did not call 0\.unused"):
        SelfEnsemble(model, ["0.unused"], (2,))
