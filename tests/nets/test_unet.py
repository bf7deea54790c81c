from collections.abc import Iterator

import pytest
import torch
from torch import nn

from paperweight.nets import UNet, count_parameters


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def images(count: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 8), (28, 28), (12, 64)])
def test_output_has_the_shape_of_the_input(channels: int, height: int, width: int):
    model = UNet(channels, base=8)
    x = images(2, channels, height, width)
    assert model(x).shape == x.shape
    assert model(x, torch.tensor([0.0, 999.0])).shape == x.shape


def test_samples_are_independent():
    model = UNet(1, base=8)
    x, t = images(4, 1, 8, 8), torch.arange(4)
    changed, later = x.clone(), t.clone()
    changed[2] += 1
    later[1] = 500
    before = model(x, t)
    same = [0, 1, 3]
    assert torch.equal(before[same], model(changed, t)[same])
    assert not torch.allclose(before[2], model(changed, t)[2])
    same = [0, 2, 3]
    assert torch.equal(before[same], model(x, later)[same])
    assert not torch.allclose(before[1], model(x, later)[1])


def test_neighbouring_times_differ_and_whole_numbers_equal_reals():
    model = UNet(1, base=8)
    x = images(1, 1, 8, 8).expand(3, -1, -1, -1)
    output = model(x, torch.tensor([500, 501, 500]))
    assert not torch.equal(output[0], output[1])
    torch.testing.assert_close(output[0], output[2])
    assert torch.equal(output, model(x, torch.tensor([500.0, 501.0, 500.0])))


def test_gradient_reaches_every_parameter_and_without_time_all_but_those_of_the_time():
    model = UNet(1, base=8)
    x = images(2, 1, 8, 8)
    model(x).square().sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in model.named_parameters() if "time" in name or "embed" in name}
    model(x, torch.tensor([1, 2])).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_parameters():
    def convolution(inputs: int, outputs: int, side: int = 3) -> int:
        return inputs * outputs * side * side + outputs

    def block(inputs: int, outputs: int) -> int:
        shortcut = convolution(inputs, outputs, 1) if inputs != outputs else 0
        norms = 2 * inputs + 2 * outputs
        return norms + convolution(inputs, outputs) + convolution(outputs, outputs) + (32 + 1) * outputs + shortcut

    embed = (8 * 32 + 32) + (32 * 32 + 32)
    blocks = block(8, 8) + block(8, 16) + block(16, 32) + block(48, 16) + block(24, 8)
    assert count_parameters(UNet(3, base=8)) == embed + convolution(3, 8) + blocks + 16 + convolution(8, 3)


def test_commutes_with_shifts_by_coarse_pixels_on_a_torus():
    model = UNet(1, base=8).double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.padding == (1, 1):
            module.padding_mode = "circular"
    x = images(2, 1, 16, 16).double()
    torch.testing.assert_close(model(x.roll((4, 8), (2, 3))), model(x).roll((4, 8), (2, 3)))


def test_state_dict_round_trip_and_seed():
    first, second = UNet(1, base=8), UNet(1, base=8)
    torch.manual_seed(0)
    again = UNet(1, base=8)
    x = images(1, 1, 8, 8)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


def test_time_is_encoded_in_float32_for_a_half_precision_model():
    model = UNet(1, base=8)
    x, t = images(2, 1, 8, 8), torch.tensor([997.0, 998.0])
    output = model.bfloat16()(x.bfloat16(), t)
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


@pytest.mark.parametrize(("channels", "base", "name"), [(0, 8, "channels"), (1, 0, "base"), (1, 12, "base")])
def test_bad_arguments_are_named(channels: int, base: int, name: str):
    with pytest.raises(ValueError, match=rf"{name} must .*, got"):
        UNet(channels, base)


def test_bad_inputs_are_named():
    model = UNet(1, base=8)
    with pytest.raises(ValueError, match=r"multiples of 4 .*, got \(2, 1, 8, 10\)"):
        model(torch.zeros(2, 1, 8, 10))
    with pytest.raises(ValueError, match=r"multiples of 4 .*, got \(2, 1, 10, 8\)"):
        model(torch.zeros(2, 1, 10, 8))
    with pytest.raises(ValueError, match=r"t must have shape \(2,\), .*, got \(1,\)"):
        model(torch.zeros(2, 1, 8, 8), torch.zeros(1))
