from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import local_gradients, peak_saved_bytes


def built(count: int = 3, width: int = 6) -> tuple[list[nn.Module], list[nn.Module]]:
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(count)]
    heads: list[nn.Module] = [nn.Linear(width, 4) for _ in range(count)]
    return parts, heads


def classified(head: nn.Module):
    return lambda output, _, labels: F.cross_entropy(head(output), labels)


def batch(size: int = 10, width: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(size, width, generator=g), torch.randint(4, (size,), generator=g)


def test_each_part_gets_the_gradient_of_its_own_loss_alone():
    parts, heads = built()
    inputs, labels = batch()
    losses = local_gradients(parts, [classified(head) for head in heads], inputs, labels)
    given = inputs
    for part, head, loss in zip(parts, heads, losses, strict=True):
        own = F.cross_entropy(head(part(given)), labels)
        weights = [*part.parameters(), *head.parameters()]
        expected = torch.autograd.grad(own, weights)
        assert torch.equal(own, loss)
        assert all(torch.equal(p.grad, g) for p, g in zip(weights, expected, strict=True))
        given = part(given).detach()


def test_one_part_is_back_propagation():
    parts, heads = built()
    inputs, labels = batch()
    local_gradients([nn.Sequential(*parts)], [classified(heads[-1])], inputs, labels)
    found = [p.grad.clone() for part in parts for p in part.parameters()]
    expected = torch.autograd.grad(
        F.cross_entropy(heads[-1](nn.Sequential(*parts)(inputs)), labels),
        [p for part in parts for p in part.parameters()],
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_objective_sees_the_input_of_its_part_without_history():
    parts, _ = built()
    seen: list[tuple[Tensor, Tensor]] = []

    def rebuilt(output: Tensor, given: Tensor, _: Tensor) -> Tensor:
        seen.append((given, output.detach()))
        return (output - given).square().mean()

    inputs, labels = batch()
    local_gradients(parts, [rebuilt] * 3, inputs, labels)
    assert torch.equal(seen[0][0], inputs)
    for (_, output), (given, _) in pairwise(seen):
        assert torch.equal(output, given)
        assert not given.requires_grad


def test_parts_without_objectives_are_refused():
    parts, heads = built()
    with pytest.raises(ValueError, match="one objective for each of at least one part, got 3 parts and 1 objectives"):
        local_gradients(parts, [classified(heads[0])], *batch())
    with pytest.raises(ValueError, match="got 0 parts and 0 objectives"):
        local_gradients([], [], *batch())


def test_a_part_that_changes_its_input_is_refused():
    parts = [nn.Linear(6, 6), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 6))]
    inputs, labels = batch()
    with pytest.raises(ValueError, match="parts must leave their inputs as they are, part 1 changes its own in place"):
        local_gradients(parts, [lambda output, given, _: (output - given).square().mean()] * 2, inputs, labels)


def test_what_is_changed_in_place_before_the_backward_pass_is_an_error_as_without_measuring():
    weight = torch.ones(4, requires_grad=True)

    def wrong() -> None:
        h = (weight * 2).exp()
        h.add_(1)
        h.sum().backward()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        wrong()
    with pytest.raises(RuntimeError, match="was changed in place"):
        peak_saved_bytes(wrong, [weight])


def test_saved_bytes_are_those_counted_by_hand():
    weights = [torch.randn(5, 5, requires_grad=True) for _ in range(3)]
    x = torch.randn(7, 5)

    def forward(times: int) -> Tensor:
        h = x
        for weight in weights[:times]:
            h = (h @ weight).tanh()  # keeps its input for the weight, and its output for tanh
        return h.sum()

    each = 7 * 5 * 4
    assert peak_saved_bytes(lambda: forward(1).backward(), weights) == 2 * each
    assert peak_saved_bytes(lambda: forward(3).backward(), weights) == 4 * each
    assert peak_saved_bytes(lambda: [forward(1).backward() for _ in range(4)], weights) == 2 * each
    kept: list[Tensor] = []
    assert peak_saved_bytes(lambda: kept.extend(forward(1) for _ in range(4)), weights) == 5 * each
    assert peak_saved_bytes(lambda: forward(2).backward()) == 3 * each + 5 * 5 * 4  # the second weight, too
    with torch.no_grad():
        assert peak_saved_bytes(lambda: forward(3), weights) == 0


def test_gradients_are_those_without_measuring_and_local_learning_keeps_less():
    parts, heads = built(count=8)
    inputs, labels = batch(size=200)
    weights = [p for part in (*parts, *heads) for p in part.parameters()]

    def local() -> None:
        local_gradients(parts, [classified(head) for head in heads], inputs, labels)

    def whole() -> None:
        F.cross_entropy(heads[-1](nn.Sequential(*parts)(inputs)), labels).backward()

    local()
    expected = [p.grad.clone() for p in weights]
    for p in weights:
        p.grad = None
    local_peak = peak_saved_bytes(local, weights)
    assert all(torch.equal(p.grad, g) for p, g in zip(weights, expected, strict=True))
    assert local_peak < peak_saved_bytes(whole, weights) / 3
