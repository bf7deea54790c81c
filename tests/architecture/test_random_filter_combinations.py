"""Combined random filters against two convolutions in a row, a loop over numbers, and least squares."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture.random_filter_combinations import LCConv2d, combine_filters, replace_convolutions
from paperweight.nets import MLP, LeNet, ResNet, replace_modules
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filters_of(model: nn.Module, expansion: int = 2) -> dict[str, Tensor]:
    """Make a copy of the model, with what is random drawn from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(replace_convolutions(model, expansion).state_dict())


CONTRACT = {
    "LCConv2d": LayerSubject(
        make=lambda in_channels=3, out_channels=4, kernel_size=(3, 2), expansion=2: LCConv2d(
            in_channels, out_channels, kernel_size, stride=(2, 1), padding=(0, 1), expansion=expansion
        ),
        inputs=(normal(2, 3, 7, 5).float(),),
        shape=(2, 4, 3, 6),
        parameter_count=8 * 3 * 6 + 4 * 8 + 4,
        bad={
            "in_channels": (0, -1, 2.5),
            "out_channels": (0, -1, 2.5),
            "kernel_size": (0, (3, 0)),
            "expansion": (0, -1, 0.5),
        },
    ),
    "combine_filters": FunctionSubject(
        make=combine_filters,
        arguments={"mixing": normal(2, 5), "filters": normal(5, 3, 2, 2, seed=1)},
        bad={"mixing": (torch.zeros(2, 4), torch.zeros(5)), "filters": (torch.zeros(4, 3, 2, 2), torch.zeros(5, 3, 4))},
    ),
    "replace_convolutions": FunctionSubject(
        make=filters_of,
        arguments={"model": nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())},
        bad={"model": (nn.Linear(2, 2), nn.Conv2d(1, 1, 1)), "expansion": (0, -1)},
    ),
}


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"padding": "same", "dilation": 2, "bias": False}]
)
def test_it_is_a_random_convolution_and_a_pointwise_one_in_a_row(options):
    torch.manual_seed(0)
    layer = LCConv2d(3, 4, 3, expansion=5, **options).double()
    x = normal(2, 3, 9, 8)
    geometry = {name: value for name, value in options.items() if name != "bias"}
    between = F.conv2d(x, layer.filters, **geometry)
    assert between.shape[1] == 20
    expected = F.conv2d(between, layer.mixing[:, :, None, None], layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-13)
    merged = layer.merged()
    assert type(merged) is nn.Conv2d
    assert torch.equal(merged(x), layer(x))
    assert merged.weight.requires_grad


def test_filters_are_combined_as_in_a_loop_over_numbers():
    mixing, filters = normal(2, 3), normal(3, 2, 2, 1, seed=1)
    combined = combine_filters(mixing, filters)
    for o in range(2):
        for c in range(2):
            for i in range(2):
                by_hand = sum(mixing[o, j].item() * filters[j, c, i, 0].item() for j in range(3))
                assert combined[o, c, i, 0].item() == pytest.approx(by_hand, abs=1e-14)


def test_only_the_mixing_and_the_bias_are_learned():
    layer = LCConv2d(3, 4, 3, expansion=2)
    layer(normal(2, 3, 6, 6).float()).square().sum().backward()
    assert layer.filters.grad is None
    assert layer.mixing.grad is not None
    assert layer.bias.grad is not None
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"mixing", "bias"}
    learned = LCConv2d(3, 4, 3, learn_spatial=True)
    learned(normal(2, 3, 6, 6).float()).square().sum().backward()
    assert learned.filters.grad is not None


@pytest.mark.parametrize(("expansion", "reached"), [(7, True), (6, False)])
def test_enough_random_filters_span_all_and_fewer_do_not(expansion, reached):
    # 3 channels of 3x3 are 27 numbers; with 4 channels of the output, 28 filters span them and 24 do not.
    torch.manual_seed(0)
    layer = LCConv2d(3, 4, 3, expansion=expansion).double()
    target = normal(4, 27)
    found = torch.linalg.lstsq(layer.filters.flatten(1).T, target.T).solution
    error = (layer.filters.flatten(1).T @ found - target.T).norm() / target.norm()
    assert (error < 1e-9) == reached
    assert (error > 0.05) != reached


def test_filters_are_uniform_within_pytorchs_bounds():
    torch.manual_seed(0)
    layer = LCConv2d(4, 64, 5, expansion=8)
    bound = 1 / 10
    assert layer.filters.abs().max() <= bound
    assert layer.filters.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    plain = nn.Conv2d(4, 64, 5).weight.std()
    assert layer.weight.std().item() == pytest.approx(plain.item() / 3**0.5, rel=0.05)


def test_spatial_convolutions_of_a_network_are_replaced_and_others_stay():
    torch.manual_seed(0)
    model = LeNet((1, 12, 12), 5).double().eval()
    x = normal(3, 1, 12, 12)
    before = model(x)
    new = replace_convolutions(model, expansion=3)
    found = {name: part for name, part in new.named_modules() if isinstance(part, LCConv2d)}
    assert {name: tuple(part.filters.shape) for name, part in found.items()} == {
        "body.0": (18, 1, 5, 5),
        "body.3": (48, 6, 5, 5),
    }
    assert all(part.filters.dtype == torch.float64 and not part.filters.requires_grad for part in found.values())
    assert not any(part.training for part in new.modules())
    assert torch.equal(model(x), before)
    assert new(x).shape == before.shape
    back = replace_modules(new, lambda _, part: isinstance(part, LCConv2d), lambda part: part.merged(), wanted="one")
    assert {name: p.shape for name, p in back.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    torch.testing.assert_close(back(x), new(x), rtol=1e-12, atol=1e-13)


def test_a_choice_is_kept_to_and_what_cannot_be_replaced_stays():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    )
    with pytest.raises(ValueError, match=r"model must hold a convolution of more than 1x1, without groups, padded by"):
        replace_convolutions(model)
    with pytest.raises(ValueError, match="got MLP without one"):
        replace_convolutions(MLP((1, 8, 8), 3))
    deep = ResNet((1, 8, 8), 3, width=4)
    new = replace_convolutions(deep, 2, replaced=lambda name, layer: layer.stride == (2, 2))
    assert sum(isinstance(part, LCConv2d) for part in new.modules()) == 2
