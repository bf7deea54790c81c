"""Orthogonal convolutions: the penalty against the matrix, kernels that exist by construction, bounds on lengths."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture.orthogonal_convolution import (
    OrthogonalityPenalty,
    conv_matrix,
    isometry_bound,
    orthogonality_exists,
    orthogonality_loss,
)
from paperweight.errors import InputError
from paperweight.nets import LeNet
from paperweight.testing import FunctionSubject, LossSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_loss(kernel: Tensor, stride: int = 1) -> Tensor:
    """Sum over pairs of kernels and shifts, by slices."""
    outputs, inputs, side, _ = kernel.shape
    total = kernel.new_zeros(()) - max(0, outputs - inputs * stride**2)
    reach = range(-(side - 1) // stride * stride, side, stride)
    for first, second, down, right in itertools.product(range(outputs), range(outputs), reach, reach):
        if abs(down) >= side or abs(right) >= side:
            continue
        rows, cols = (slice(max(0, shift), side + min(0, shift)) for shift in (down, right))
        shifted_rows, shifted_cols = (slice(max(0, -shift), side + min(0, -shift)) for shift in (down, right))
        product = (kernel[first, :, rows, cols] * kernel[second, :, shifted_rows, shifted_cols]).sum()
        total = total + (product - float(first == second and down == right == 0)) ** 2
    return total


def with_kernels(first: Tensor, second: Tensor) -> nn.Module:
    """Make a network whose convolutions have these kernels, the second with a stride of 2."""
    layers = nn.Conv2d(1, 1, 1, device="meta"), nn.Conv2d(1, 1, 1, stride=2, device="meta")
    for layer, kernel in zip(layers, (first, second), strict=True):
        del layer.weight
        layer.weight = kernel
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


KERNEL = normal(3, 2, 3, 3)
UNFIT = (KERNEL[0], KERNEL[:0], KERNEL[:, :0], KERNEL.long())

CONTRACT = {
    "OrthogonalityPenalty": LossSubject(
        make=lambda weight=0.1: lambda *kernels: OrthogonalityPenalty(weight)(with_kernels(*kernels)),
        inputs=(KERNEL, normal(3, 3, 3, 3, seed=1)),
        slow=lambda first, second: 0.1 * (slow_loss(first) + slow_loss(second, 2)),
        differentiable=(0, 1),
        bad={"weight": (-0.1, math.inf, math.nan)},
        null=lambda: lambda *kernels: OrthogonalityPenalty(0.0)(with_kernels(*kernels)),
        baseline=lambda: lambda first, second: 0 * (first.sum() + second.sum()),
    ),
    "orthogonality_loss": LossSubject(
        make=lambda stride=1: lambda kernel: orthogonality_loss(kernel, stride),
        inputs=(KERNEL,),
        slow=slow_loss,
        bad={"stride": (0, -1, 1.5, True, (1, 2, 3))},
    ),
    "conv_matrix": FunctionSubject(
        make=conv_matrix,
        arguments={"kernel": KERNEL, "size": (4, 6), "stride": 2},
        bad={"kernel": (*UNFIT, normal(1, 1, 2, 3)), "size": (0, (5, 6), (2, 6), 2.0), "stride": (0, 1.5)},
    ),
    "isometry_bound": FunctionSubject(
        make=isometry_bound, arguments={"kernel": KERNEL}, bad={"kernel": UNFIT, "stride": (0, 1.5, True)}
    ),
    "orthogonality_exists": FunctionSubject(
        make=orthogonality_exists,
        arguments={"outputs": 3, "inputs": 2, "side": 3, "stride": 2},
        bad=dict.fromkeys(("outputs", "inputs", "side", "stride"), (0, -1, 2.5, True)),
    ),
}

SETTINGS = [
    (1, 2, 3, 1),
    (3, 2, 3, 1),
    (2, 2, 5, 1),
    (5, 1, 3, 2),
    (4, 1, 3, 2),
    (3, 1, 5, 2),
    (9, 2, 1, 1),
    (2, 1, 3, 3),
]


@pytest.mark.parametrize(("outputs", "inputs", "side", "stride"), SETTINGS)
def test_the_penalty_is_the_distance_of_the_matrix_from_an_orthogonal_one(outputs, inputs, side, stride):
    kernel = normal(outputs, inputs, side, side).double() / math.sqrt(inputs * side**2)
    for positions in (2 * ((side - 1) // stride) + 2, 2 * side + 1):
        matrix = conv_matrix(kernel, positions * stride, stride)
        assert matrix.shape == (outputs * positions**2, inputs * (positions * stride) ** 2)
        product = matrix @ matrix.T if outputs <= inputs * stride**2 else matrix.T @ matrix
        error = product - torch.eye(len(product), dtype=torch.float64)
        loss = orthogonality_loss(kernel, stride).item()
        assert error.square().sum().item() == pytest.approx(positions**2 * loss, rel=1e-10, abs=1e-10)
        spectral = torch.linalg.matrix_norm(error, 2).item()
        bound = isometry_bound(kernel, stride)
        assert spectral <= bound * (1 + 1e-10)
        assert bound <= spectral * 40  # not empty: within the number of shifts and channels
        image = normal(matrix.shape[1], seed=1).double()
        assert (matrix @ image).square().sum() <= (1 + bound) * image.square().sum()


def test_the_matrix_convolves_with_circular_padding():
    kernel, image = normal(3, 2, 3, 5).double(), normal(1, 2, 6, 8, seed=1).double()
    layer = nn.Conv2d(2, 3, (3, 5), padding=(1, 2), padding_mode="circular", stride=2, bias=False).double()
    layer.weight.data.copy_(kernel)
    found = conv_matrix(kernel, (6, 8), 2) @ image.flatten()
    torch.testing.assert_close(found, layer(image).flatten(), rtol=1e-12, atol=1e-12)


def test_by_hand():
    # Two pixels a and b: with itself a^2 + b^2, shifted by one a b on both sides.
    a, b = 0.5, 2.0
    kernel = torch.tensor([[[[a, b]]]], dtype=torch.float64)
    assert orthogonality_loss(kernel).item() == pytest.approx((a * a + b * b - 1) ** 2 + 2 * (a * b) ** 2)
    assert orthogonality_loss(kernel, 2).item() == pytest.approx((a * a + b * b - 1) ** 2 - 0)
    assert orthogonality_loss(kernel, (3, 1)).item() == pytest.approx((a * a + b * b - 1) ** 2 + 2 * (a * b) ** 2)


def test_kernels_of_one_pixel_have_the_penalty_of_their_matrix():
    matrix = normal(3, 5).double()
    expected = (matrix @ matrix.T - torch.eye(3)).square().sum()
    torch.testing.assert_close(orthogonality_loss(matrix[:, :, None, None]), expected)
    tall = (matrix @ matrix.T - torch.eye(3)).square().sum()  # of the transposed matrix: columns in view
    torch.testing.assert_close(orthogonality_loss(matrix.T[:, :, None, None]), tall)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("inputs", [1, 2])
def test_orthogonal_kernels_exist_as_constructed_and_nowhere_else(inputs, side, stride):
    reached = min(side, stride)
    places = list(itertools.product(range(inputs), range(reached), range(reached)))
    for outputs in range(1, inputs * max(side, stride) ** 2 + 3):
        exists = orthogonality_exists(outputs, inputs, side, stride)
        kernel = torch.zeros(outputs, inputs, side, side, dtype=torch.float64)
        for number, place in enumerate(places[:outputs]):  # one pixel each, of one step; kernels left over are 0
            kernel[number, *place] = 1
        rows = outputs <= inputs * stride**2
        possible = len(places) >= outputs if rows else len(places) >= inputs * stride**2
        assert exists == possible
        # A row too many, or a pixel unread, costs at least 1.
        loss = orthogonality_loss(kernel, stride).item()
        assert loss == 0 if exists else loss >= 1


def test_no_kernel_is_orthogonal_where_none_exists():
    # Kernels smaller than the stride leave pixels unread, so that columns of zeros have a distance of 1 each.
    assert not orthogonality_exists(5, 1, side=1, stride=2)
    kernel = normal(5, 1, 1, 1).double().requires_grad_()
    optimizer = torch.optim.LBFGS([kernel], max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = orthogonality_loss(kernel, 2)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() == pytest.approx(3.0, abs=1e-6)  # of the 4 pixels of a step one is read


def test_minimised_kernels_keep_lengths_at_every_size():
    assert orthogonality_exists(6, 2, side=3)
    kernel = (0.3 * normal(6, 2, 3, 3)).double().requires_grad_()
    optimizer = torch.optim.LBFGS([kernel], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = orthogonality_loss(kernel)
        loss.backward()
        return loss

    optimizer.step(closure)
    bound = isometry_bound(kernel)
    assert bound < 1e-3
    for size in (5, 8):
        values = torch.linalg.svdvals(conv_matrix(kernel.detach(), size))
        assert values.min() ** 2 >= 1 - bound
        assert values.max() ** 2 <= 1 + bound


def test_a_network_is_penalised_layer_by_layer():
    grouped = nn.Conv2d(4, 6, 3, groups=2).double()
    halves = sum(orthogonality_loss(part) for part in grouped.weight.chunk(2))
    torch.testing.assert_close(OrthogonalityPenalty(1.0)(grouped), halves)
    dilated = nn.Conv2d(2, 3, 3, dilation=(2, 1), stride=2).double()
    spread = torch.zeros(3, 2, 5, 3, dtype=torch.float64)
    spread[:, :, ::2] = dilated.weight.detach()
    torch.testing.assert_close(OrthogonalityPenalty(1.0)(dilated), orthogonality_loss(spread, 2))
    shared = nn.Conv2d(2, 2, 3)
    once = OrthogonalityPenalty(0.5)(nn.Sequential(shared))
    assert OrthogonalityPenalty(0.5)(nn.Sequential(shared, nn.ReLU(), shared)) == once
    model = LeNet((1, 8, 8), 3)
    OrthogonalityPenalty(0.1)(model).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"body.0.weight", "body.3.weight"}
    with pytest.raises(InputError, match=r"model must hold a torch\.nn\.Conv2d, got Linear without one"):
        OrthogonalityPenalty()(nn.Linear(2, 2))


def test_a_row_too_many_is_not_what_is_asked_for():
    # Three kernels of one pixel on one channel: K^T K = 1 is orthonormal, K K^T - 1 has a norm of 3 - 1 even then.
    kernel = torch.full((3, 1, 1, 1), 1 / math.sqrt(3), dtype=torch.float64)
    assert orthogonality_loss(kernel).item() == pytest.approx(0.0, abs=1e-12)
    assert isometry_bound(kernel) < 1e-5
    torch.testing.assert_close(
        F.conv2d(torch.ones(1, 1, 2, 2).double(), kernel).square().sum(), torch.tensor(4.0).double()
    )


def test_the_bound_is_not_lost_in_single_precision():
    # Of 512 kernels the loss of rows is 509 + 1e-8: in float32 what is left for columns would be 0.
    kernel = torch.linalg.qr(normal(512, 3).double()).Q.float()[:, :, None, None]
    matrix = kernel.flatten(1).double()
    error = torch.linalg.matrix_norm(matrix.T @ matrix - torch.eye(3, dtype=torch.float64), 2).item()
    assert 0 < error <= isometry_bound(kernel)
