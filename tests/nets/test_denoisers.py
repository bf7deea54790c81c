from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from paperweight.nets import MLPDenoiser, TokenDenoiser, UNet, count_parameters
from paperweight.nets._time import sinusoids


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Make = Callable[..., nn.Module]

DENOISERS: dict[str, Make] = {
    "mlp": lambda shape, **more: MLPDenoiser(shape, **{"width": 32, "blocks": 2, **more}),
    "token": lambda shape, **more: TokenDenoiser(shape, **{"width": 16, "blocks": 2, **more}),
    "unet": lambda shape, **more: UNet(shape[0], base=8, **more),
}

all_denoisers = pytest.mark.parametrize("make", DENOISERS.values(), ids=DENOISERS)


@all_denoisers
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 4)])
@pytest.mark.parametrize("tokens", [1, 5])
def test_output_has_the_shape_of_the_input(make: Make, shape, tokens: int):
    x, t = drawn(3, *shape), torch.tensor([0.0, 500.0, 999.0])
    assert make(shape)(x, t).shape == x.shape
    model = make(shape, condition_dim=6)
    assert model(x, t).shape == x.shape
    assert model(x, t, drawn(3, tokens, 6)).shape == x.shape
    double = model.double()(x.double(), t, drawn(3, tokens, 6).double())
    assert double.dtype == torch.float64


@all_denoisers
def test_samples_are_independent_and_each_depends_on_image_time_and_condition(make: Make):
    model = make((1, 8, 8), condition_dim=6)
    given = (drawn(4, 1, 8, 8), torch.arange(4), drawn(4, 3, 6, seed=1))
    before = model(*given)
    for position, value in enumerate((1.0, 300, 1.0)):
        changed = [part.clone() for part in given]
        changed[position][2] += value
        after = model(*changed)
        assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
        assert not torch.allclose(before[2], after[2], atol=1e-4)


@all_denoisers
def test_neighbouring_times_differ_and_whole_numbers_equal_reals(make: Make):
    model = make((1, 8, 8))
    x = drawn(1, 1, 8, 8).expand(2, -1, -1, -1)
    output = model(x, torch.tensor([500, 501]))
    assert not torch.equal(output[0], output[1])
    assert torch.equal(output, model(x, torch.tensor([500.0, 501.0])))


@all_denoisers
def test_gradient_reaches_every_parameter_and_the_condition(make: Make):
    model = make((1, 8, 8), condition_dim=6)
    condition = drawn(2, 3, 6, seed=1).requires_grad_()
    model(drawn(2, 1, 8, 8), torch.tensor([1, 600]), condition).square().sum().backward()
    for name, parameter in [*model.named_parameters(), ("condition", condition)]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@all_denoisers
def test_the_order_of_the_tokens_does_not_matter(make: Make):
    model = make((1, 8, 8), condition_dim=6)
    x, t, condition = drawn(2, 1, 8, 8), torch.tensor([1, 600]), drawn(2, 3, 6, seed=1)
    torch.testing.assert_close(model(x, t, condition), model(x, t, condition[:, [2, 0, 1]]))


def test_only_attention_tells_tokens_from_their_mean():
    x, t, condition = drawn(2, 1, 8, 8), torch.tensor([1, 600]), 3 * drawn(2, 3, 6, seed=1)
    mean = condition.mean(dim=1, keepdim=True)
    for name, make in DENOISERS.items():
        model = make((1, 8, 8), condition_dim=6)
        same = torch.allclose(model(x, t, condition), model(x, t, mean), rtol=1e-4, atol=1e-5)
        assert same == (name != "token"), name


def test_attention_to_one_token_is_that_token_whatever_is_asked():
    # With one token the weights of the attention are 1: queries and keys play no part.
    model = TokenDenoiser((1, 4, 4), width=16, blocks=1, condition_dim=6)
    x, t, condition = drawn(2, 1, 4, 4), torch.tensor([1, 600]), drawn(2, 1, 6, seed=1)
    before = model(x, t, condition)
    nn.init.normal_(model.blocks[0].attn2.to_q.weight)
    nn.init.normal_(model.blocks[0].attn2.to_k.weight)
    torch.testing.assert_close(model(x, t, condition), before)
    assert not torch.allclose(model(x, t, condition.repeat(1, 2, 1) * torch.tensor([[[1.0], [2.0]]])), before)


def test_parameters():
    # 16 inputs and outputs, width 8: stem, time (two), condition without bias, per block a norm and two layers, out.
    layer = 8 * 8 + 8
    expected = (16 * 8 + 8) + 2 * layer + 5 * 8 + 3 * (2 * 8 + 2 * layer) + 2 * 8 + (8 * 16 + 16)
    assert count_parameters(MLPDenoiser((1, 4, 4), width=8, blocks=3, condition_dim=5)) == expected
    attention = 3 * 64 + layer
    across = 8 * 8 + 2 * 5 * 8 + layer
    block = 3 * 16 + attention + across + (8 * 32 + 32) + (32 * 8 + 8)
    ends = (4 * 8 + 8) + 4 * 8 + 2 * layer + 16 + (8 * 4 + 1)
    model = TokenDenoiser((1, 4, 4), patch=2, width=8, blocks=2, heads=2, condition_dim=5)
    assert count_parameters(model) == ends + 2 * block


def test_times_are_encoded_as_written():
    code = sinusoids(torch.tensor([0.0, 7.0]), 4)
    torch.testing.assert_close(code[0], torch.tensor([1.0, 1, 0, 0]))
    angles = torch.tensor([7.0, 0.07])
    torch.testing.assert_close(code[1], torch.cat([angles.cos(), angles.sin()]))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: MLPDenoiser((1, 8)), "shape"),
        (lambda: MLPDenoiser((1, 8, 8), width=0), "width"),
        (lambda: MLPDenoiser((1, 8, 8), width=7), "width"),
        (lambda: MLPDenoiser((1, 8, 8), blocks=0), "blocks"),
        (lambda: MLPDenoiser((1, 8, 8), condition_dim=-1), "condition_dim"),
        (lambda: TokenDenoiser((1, 8, 0)), "shape"),
        (lambda: TokenDenoiser((1, 8, 8), patch=0), "patch"),
        (lambda: TokenDenoiser((1, 8, 6), patch=4), "patch"),
        (lambda: TokenDenoiser((1, 8, 8), width=18, heads=4), "width"),
        (lambda: TokenDenoiser((1, 8, 8), width=5, heads=5), "width"),
        (lambda: TokenDenoiser((1, 8, 8), blocks=1.5), "blocks"),
        (lambda: TokenDenoiser((1, 8, 8), heads=0), "heads"),
        (lambda: TokenDenoiser((1, 8, 8), condition_dim=-1), "condition_dim"),
        (lambda: UNet(1, condition_dim=-1), "condition_dim"),
    ],
)
def test_bad_sizes(make, name: str):
    with pytest.raises(ValueError, match=f"^{name} must"):
        make()
