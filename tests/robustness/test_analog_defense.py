"""Analog defense: the projection by hand, gradients wrong as they shall be, and right for who knows the secret."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.robustness.analog_defense import AnalogHead, ObfuscatedProjection, centred_sign, direct_feedback
from paperweight.testing import FunctionSubject, LayerSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def projection(in_features: int = 4, out_features: int = 6, known: bool = False) -> ObfuscatedProjection:
    return ObfuscatedProjection(in_features, out_features, known, generator=seeded(1))


def head(features: int = 4, classes: int = 3, inner: int = 8, outer: int = 12, binary: bool = True) -> AnalogHead:
    return AnalogHead(features, classes, inner, outer, binary, generator=seeded(2))


SIZES = (0, -1, 2.0, True)
X = normal(5, 4, seed=3)

CONTRACT = {
    "ObfuscatedProjection": LayerSubject(
        make=projection,
        inputs=(X,),
        shape=(5, 6),
        parameter_count=0,
        bad={"in_features": SIZES, "out_features": SIZES},
        expected_failures={"check_gradients": "the backward pass goes through another matrix, as is its purpose"},
    ),
    "AnalogHead": LayerSubject(
        make=head,
        inputs=(X,),
        shape=(5, 3),
        parameter_count=4 * 8 + 8 + 12 * 3 + 3,
        bad=dict.fromkeys(("features", "classes", "inner", "outer"), SIZES),
        expected_failures={"check_gradients": "what is below the signs has a synthetic gradient"},
    ),
    "centred_sign": FunctionSubject(
        make=centred_sign, arguments={"x": X}, bad={"x": (normal(5), normal(5, 0), normal(2, 3, 4))}
    ),
    "direct_feedback": FunctionSubject(
        make=direct_feedback,
        arguments={"hidden": X, "logits": normal(5, 3), "feedback": normal(3, 4)},
        bad={"feedback": (normal(4, 3), normal(3, 4, 1), normal(3, 5), normal(2, 4))},
    ),
}


def test_the_projection_is_the_square_of_a_complex_product() -> None:
    layer = projection().double()
    matrix = torch.complex(layer.real, layer.imaginary)
    torch.testing.assert_close(layer(X.double()), (X.to(matrix.dtype) @ matrix).abs().square())


def test_the_projection_of_signs_has_mean_one_and_the_matrices_are_independent() -> None:
    layer = projection(200, 500)
    assert layer(normal(20, 200, seed=4).sign()).mean().item() == pytest.approx(1.0, rel=0.02)
    for one, other in (("real", "imaginary"), ("real", "back"), ("imaginary", "back")):
        both = torch.stack([getattr(layer, one).flatten(), getattr(layer, other).flatten()])
        assert abs(both.corrcoef()[0, 1].item()) < 0.02
    assert layer.back.square().mean().item() == pytest.approx(1 / 500, rel=0.05)


def test_the_gradient_of_the_projection_goes_through_the_other_matrix_and_through_the_true_one_if_known() -> None:
    layer = projection().double()
    x, g = X.double().requires_grad_(), normal(5, 6, seed=5).double()
    (found,) = torch.autograd.grad(layer(x), x, g)
    assert torch.equal(found, g @ layer.back.T)
    known = projection(known=True).double()
    assert torch.equal(known(x), layer(x))
    assert torch.autograd.gradcheck(known, (x,))
    assert not torch.autograd.gradcheck(layer, (x,), raise_exception=False)


def test_signs_are_about_the_mean_of_each_input_alone() -> None:
    x = torch.tensor([[0.0, 1.0, 5.0], [100.0, 101.0, 102.0]])
    assert centred_sign(x).tolist() == [[-1, -1, 1], [-1, 0, 1]]
    x.requires_grad_()
    assert torch.autograd.grad(centred_sign(x).sum(), x)[0].abs().sum() == 0


def test_smooth_signs_are_a_tanh_in_units_of_the_spread_and_near_signs_where_steep() -> None:
    x = torch.tensor([[0.0, 1.0, 5.0]], dtype=torch.float64)
    spread = (2**2 + 1 + 3**2) ** 0.5 / 3**0.5
    expected = [math.tanh(0.7 * value / spread) for value in (-2, -1, 3)]
    assert centred_sign(x, 0.7)[0].tolist() == pytest.approx(expected)
    torch.testing.assert_close(centred_sign(x, 1e3), centred_sign(x))
    torch.testing.assert_close(centred_sign(50 * x - 3, 0.7), centred_sign(x, 0.7))
    assert torch.autograd.gradcheck(lambda given: centred_sign(given, 2.0), (x.requires_grad_(),))
    assert (centred_sign(torch.ones(2, 3), 2.0) == 0).all()


def test_layers_below_the_signs_learn_from_the_error_of_the_output_and_the_last_one_from_its_gradient() -> None:
    model, y = head().double(), torch.tensor([0, 2, 1, 1, 0])
    x = X.double().requires_grad_()
    logits = model(x)
    F.cross_entropy(logits, y).backward()
    with torch.no_grad():
        hidden = model.first(x).relu()
        signs = (hidden - hidden.mean(dim=1, keepdim=True)).sign()
        projected = (signs @ model.projection.real) ** 2 + (signs @ model.projection.imaginary) ** 2
        above = (projected - projected.mean(dim=1, keepdim=True)).clamp(min=0)
        error = (logits.softmax(dim=1) - F.one_hot(y, 3)) / 5
        synthetic = error @ model.feedback * (hidden > 0)
    torch.testing.assert_close(logits, model.last(above))
    torch.testing.assert_close(model.last.weight.grad, error.T @ above)
    torch.testing.assert_close(model.first.weight.grad, synthetic.T @ x)
    torch.testing.assert_close(x.grad, synthetic @ model.first.weight)


def test_without_signs_the_gradient_goes_through_the_projection() -> None:
    model = head(binary=False).double()
    x, g = X.double().requires_grad_(), normal(5, 3, seed=6).double()
    (found,) = torch.autograd.grad(model(x), x, g)
    with torch.no_grad():
        hidden = model.first(x).relu()
        projected = model.projection(hidden)
        centred = projected - projected.mean(dim=1, keepdim=True)
        back = (g @ model.last.weight) * (centred > 0)
        back = (back - back.mean(dim=1, keepdim=True)) @ model.projection.back.T
        expected = (back * (hidden > 0)) @ model.first.weight
    torch.testing.assert_close(found, expected)


def test_an_exposed_head_has_the_true_gradient_and_gives_nearly_the_same() -> None:
    smooth = head(binary=False).double()
    assert torch.equal(smooth.exposed()(X.double()), smooth(X.double()))
    for model in (smooth, head().double()):
        assert torch.autograd.gradcheck(model.exposed(slope=2.0), (X.double().requires_grad_(),))
        assert not model.projection.known
    signed = head().double()
    torch.testing.assert_close(signed.exposed(slope=1e4)(X.double()), signed(X.double()))
    for slope in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="slope must"):
            signed.exposed(slope)


def test_a_guess_of_the_projection_is_another_one_with_the_same_trained_layers() -> None:
    model = head().double()
    guess = model.exposed(generator=seeded(9))
    assert torch.equal(guess.last.weight, model.last.weight)
    assert guess.projection.known
    assert guess.projection.real.dtype == torch.float64
    assert not torch.equal(guess.projection.real, model.projection.real)
    assert torch.equal(guess.projection.real, ObfuscatedProjection(8, 12, generator=seeded(9)).real.double())
    assert not torch.equal(guess(X.double()), model(X.double()))


def test_it_learns_and_keeps_its_secret_through_copies() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), AnalogHead(16, 2, 32, 64, generator=seeded()))
    x = normal(200, 2, seed=7)
    y = (x[:, 0] + x[:, 1] > 0).long()
    secret = copy.deepcopy(model[2].projection.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(dim=1) == y).double().mean() > 0.9
    assert all(torch.equal(value, secret[name]) for name, value in model[2].projection.state_dict().items())
    for each in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(each(x), model(x))
    assert math.isfinite(F.cross_entropy(model(1e4 * x), y).item())
