"""VanillaNet against loops over pixels, a merging by hand, published and closed-form sizes, and torch's leaky ReLU."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.architecture.vanillanet import SeriesActivation, VanillaNet, deployed
from paperweight.nets import count_parameters
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(shape=(2, 6, 7), classes=3, dims=(4, 5), strides=(2,), act_num=1, **given) -> VanillaNet:
    return VanillaNet(shape, classes, dims=dims, strides=strides, act_num=act_num, **given)


def drawn(model: VanillaNet, seed: int = 0) -> VanillaNet:
    """Give every parameter and running statistic another value of a usual size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif value.is_floating_point() and not name.endswith("lam"):
                value.normal_(generator=generator)
    return model


def rectifying(dim: int) -> SeriesActivation:
    activation = SeriesActivation(dim, act_num=0)
    nn.init.ones_(activation.conv.weight)
    return activation


def deployed_state(model: VanillaNet, lam: float) -> dict[str, torch.Tensor]:
    model = copy.deepcopy(model)
    model.set_lambda(lam)
    return dict(deployed(model).state_dict())


def paired_parameters(shape, classes, dims, strides, patch, act_num) -> int:
    """Count by hand what the network learns in training."""
    first, last = dims[0], dims[-1]
    count = shape[0] * patch**2 * first + 2 * first + first**2
    count += sum(before**2 + 2 * before + before * after for before, after in itertools.pairwise(dims))
    count += sum(dim * (2 + (2 * act_num + 1) ** 2 + 2) for dim in dims)
    return count + last * classes + 2 * classes + classes**2 + classes


CONTRACT = {
    "VanillaNet": LayerSubject(
        make=partial(small, dims=(2, 3)),
        inputs=(normal(5, 2, 6, 7).float(),),
        shape=(5, 3),
        parameter_count=paired_parameters((2, 6, 7), 3, (2, 3), (2,), 2, 1),
        bad={
            "shape": ((2, 6), (2, 3, 7), (2, 7, 3), (0, 6, 7), (2, 6.0, 7)),
            "classes": (0, 2.5),
            "dims": ((4,), (4, 5, 6), (4, 0), (4, 5.0)),
            "strides": ((), (2, 2), (0,), (4,), (1.5,)),
            "patch": (0, 4, 2.0),
            "act_num": (-1, 1.5),
        },
    ),
    "SeriesActivation": LayerSubject(
        make=lambda dim=2, act_num=2: SeriesActivation(dim, act_num),
        inputs=(normal(3, 2, 4, 5).float(),),
        shape=(3, 2, 4, 5),
        parameter_count=2 * 5 * 5,
        bad={"dim": (0, 1.5), "act_num": (-1, 1.5)},
        null=lambda: rectifying(2),
        baseline=nn.ReLU,
    ),
    "deployed": FunctionSubject(
        make=deployed_state,
        arguments={"model": drawn(small()), "lam": 1.0},
        bad={"lam": (0.0, 0.5, 0.999, -0.1, 1.1, math.nan)},
    ),
}


@pytest.mark.parametrize("act_num", [0, 1, 2, 3])
def test_series_activation_is_a_loop_over_pixels_and_neighbours(act_num):
    layer = SeriesActivation(2, act_num).double()
    nn.init.normal_(layer.conv.weight, generator=torch.Generator().manual_seed(1))
    x = normal(2, 2, 4, 5)
    expected = torch.zeros_like(x)
    reach = range(-act_num, act_num + 1)
    for n, c, h, w in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        for i in reach:
            for j in reach:
                if 0 <= h + i < 4 and 0 <= w + j < 5:
                    weight = layer.conv.weight[c, 0, i + act_num, j + act_num].item()
                    expected[n, c, h, w] += weight * max(x[n, c, h + i, w + j].item(), 0.0)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_network_is_the_papers_sequence_with_a_leaky_relu_of_slope_lam(lam, training):
    model = drawn(small(shape=(2, 9, 8), dims=(4, 5, 6), strides=(1, 2), patch=3)).double().train(training)
    model.set_lambda(lam)
    state = copy.deepcopy(model.state_dict())
    values = [value for name, value in state.items() if not name.endswith(("lam", "num_batches_tracked"))]

    def take(count: int) -> list[torch.Tensor]:
        return [values.pop(0) for _ in range(count)]

    def norm(x: torch.Tensor) -> torch.Tensor:
        scale, shift, mean, variance = take(4)
        if training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        mean, variance, scale, shift = (v[:, None, None] for v in (mean, variance, scale, shift))
        return (x - mean) / (variance + 1e-6).sqrt() * scale + shift

    def pair(x: torch.Tensor, patch: int = 1) -> torch.Tensor:
        x = F.leaky_relu(norm(F.conv2d(x, *take(1), stride=patch)), lam)
        return F.conv2d(x, *take(1))

    def act(x: torch.Tensor) -> torch.Tensor:
        return norm(F.conv2d(x.clamp(min=0), *take(1), padding=1, groups=x.shape[1]))

    x = normal(5, 2, 9, 8)
    expected = act(norm(pair(x, 3)))
    expected = act(norm(pair(expected)))
    expected = act(F.max_pool2d(norm(pair(expected)), 2))
    expected = expected.mean((2, 3), keepdim=True)
    expected = F.leaky_relu(norm(F.conv2d(expected, *take(1))), lam)
    expected = F.conv2d(expected, *take(2))[:, :, 0, 0]
    assert not values
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


def test_merging_by_hand():
    # One channel, one patch of one pixel: the stem is x -> (2 x - 1) / 2 * 3 + 4 = 3 x + 2.5, then 5 (3 x + 2.5), whose
    # normalization (mean 2.5, variance 1) gives 15 x + 10; rectified, times 7, its normalization adds -3; the head is
    # x -> (x - 1) * 2 = 2 x - 2, then 0.5 (2 x - 2) + 1 = x.
    model = VanillaNet((1, 1, 1), 1, dims=(1,), strides=(), patch=1, act_num=0)
    state = model.state_dict()
    hand = [2, 3, 4, 1, 4, 0, 1, 5, 1, 0, 2.5, 1, 0, 7, 1, -3, 0, 1, 0, 1, 2, 0, 1, 1, 0, 1, 0.5, 1]
    assert len(hand) == len(state)
    model.load_state_dict(
        {name: torch.full_like(old, value) for (name, old), value in zip(state.items(), hand, strict=True)}
    )
    merged = deployed(model)
    convolutions = [layer for layer in merged if isinstance(layer, nn.Conv2d)]
    found = [(layer.weight.item(), layer.bias.item()) for layer in convolutions]
    assert found == [pytest.approx(pair, rel=1e-5, abs=1e-5) for pair in ((15, 10), (7, -3), (1, 0))]
    assert merged(torch.tensor([[[[1.0]]]])).item() == pytest.approx(7 * 25 - 3, rel=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("deep", [True, False], ids=["deep", "single"])
@pytest.mark.parametrize(
    ("shape", "dims", "strides", "patch", "act_num"),
    [
        ((1, 8, 8), (8, 16, 32), (2, 2), 2, 3),
        ((1, 28, 28), (8, 8, 16), (1, 2), 4, 3),
        ((3, 9, 11), (6, 5), (3,), 3, 2),
        ((2, 5, 5), (1, 1), (1,), 1, 0),
        ((3, 4, 4), (4,), (), 4, 1),
    ],
)
def test_deployed_network_gives_the_same_logits(shape, dims, strides, patch, act_num, deep, dtype, tolerance):
    model = drawn(VanillaNet(shape, 10, dims, strides, patch, act_num, deep)).to(dtype)
    model.set_lambda(1.0)
    x = normal(7, *shape).to(dtype)
    merged = deployed(model)
    assert all(value.dtype == dtype for value in merged.state_dict().values())
    logits = model.eval()(x)
    torch.testing.assert_close(merged(x), logits, rtol=tolerance, atol=tolerance * logits.abs().max().item())
    assert {type(layer) for layer in merged} <= {nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten}
    assert sum(isinstance(layer, nn.Conv2d) for layer in merged) == 2 * len(dims) + 1


def test_deploying_leaves_the_model_as_it_was_and_shares_nothing_with_it():
    model = drawn(small()).train()
    model.set_lambda(1.0)
    before = copy.deepcopy(model.state_dict())
    merged = deployed(model)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# The authors' table of models, in millions, for their deployed form.
@pytest.mark.parametrize(
    ("widths", "strides", "millions"),
    [
        ((1, 2, 4, 8), (2, 2, 2), 15.5),
        ((1, 2, 4, 8, 8), (2, 2, 2, 1), 32.5),
        ((1, 1, 2, 4, 8, 8), (1, 2, 2, 2, 1), 32.8),
        ((1, 1, 2, 4, 4, 8, 8), (1, 2, 2, 1, 2, 1), 37.1),
        ((1, 1, 2, *[4] * 7, 8, 8), (1, 2, 2, *[1] * 6, 2, 1), 58.6),
    ],
    ids=["5", "6", "7", "8", "13"],
)
def test_networks_of_the_paper_have_the_published_numbers_of_parameters(widths, strides, millions):
    dims = [512 * width for width in widths]
    with torch.device("meta"):
        single = VanillaNet((3, 224, 224), 1000, dims, strides, patch=4, deep=False)
        paired = VanillaNet((3, 224, 224), 1000, dims, strides, patch=4)
    # A normalization has two parameters a channel, the convolution into which it is folded one more.
    count = count_parameters(single) - 2 * sum(dims)
    assert round(count / 1e6, 1) == millions
    assert count_parameters(paired) == paired_parameters((3, 224, 224), 1000, dims, strides, 4, 3)


def test_deployed_network_has_the_parameters_of_a_single_one_less_its_normalizations():
    model = small(dims=(4, 5, 6), strides=(2, 1))
    model.set_lambda(1.0)
    single = small(dims=(4, 5, 6), strides=(2, 1), deep=False)
    assert count_parameters(deployed(model)) == count_parameters(single) - 2 * (4 + 5 + 6)


def test_lam_is_part_of_the_state_and_zero_at_first():
    model, other, untouched = (drawn(small()).eval() for _ in range(3))
    x = normal(2, 2, 6, 7).float()
    model.set_lambda(0.0)
    assert torch.equal(model(x), untouched(x))
    model.set_lambda(0.7)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))
    assert not torch.equal(model(x), untouched(x))


@pytest.mark.parametrize("lam", [-0.1, 1.1, math.nan])
def test_lam_outside_of_its_range_is_refused(lam):
    with pytest.raises(ValueError, match=r"lam must be in \[0, 1\]"):
        small().set_lambda(lam)


def test_without_deep_training_lam_means_nothing():
    model = drawn(small(deep=False)).eval()
    x = normal(2, 2, 6, 7).float()
    before = model(x)
    model.set_lambda(0.5)
    assert torch.equal(model(x), before)
    deployed(model)


def test_weights_start_small_and_biases_at_zero():
    model = VanillaNet((3, 32, 32), 10)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.3)
            assert layer.bias is None or not layer.bias.any()
