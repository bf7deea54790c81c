"""An attack that keeps no promise of this library keeps all of them through the adapter."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paperweight.attacks import AttackAdapter
from paperweight.testing import AttackSubject, run_check
from paperweight.testing.attack import attack_checks

RADIUS = 0.1


def rough(model: nn.Module, inputs: Tensor, labels: Tensor, radius: float = RADIUS) -> Tensor:
    """Step by the sign of a gradient of `backward()`, which reaches the weights, and draw from three random states."""
    inputs.requires_grad_()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    assert inputs.grad is not None
    share = min(1.0, 1 + torch.rand(()).item() * np.random.rand() * random.random())
    return (inputs + radius * share * inputs.grad.sign()).clamp(0, 1)


def drawn(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return torch.rand_like(inputs) * float(np.random.rand()) * random.random()


def unchanged() -> Callable[..., Tensor]:
    return AttackAdapter(lambda model, inputs, labels: inputs)


SUBJECT = AttackSubject(
    make=lambda: AttackAdapter(rough),
    norm=math.inf,
    radius=RADIUS,
    null=lambda: AttackAdapter(lambda model, inputs, labels: rough(model, inputs, labels, 0.0)),
    baseline=unchanged,
    random=True,
)


@pytest.mark.parametrize("check", attack_checks(SUBJECT))
def test_it_keeps_the_contract(check: str) -> None:
    result = run_check(check, attack_checks(SUBJECT)[check])
    assert result.passed or not result.applicable, result.reason


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))


def test_model_and_random_states_are_as_before_even_where_the_attack_fails() -> None:
    def fails(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        rough(model, inputs, labels)
        model.zero_grad()
        raise RuntimeError("lost")

    model = network()
    model[0].weight.requires_grad_(False)
    model(torch.ones(1, 3)).sum().backward()
    gradients = [weight.grad for weight in model.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with pytest.raises(RuntimeError, match="lost"):
        AttackAdapter(fails)(model, torch.rand(2, 3, generator=source(1)), torch.tensor([0, 1]), generator=source(0))
    assert all(weight.grad is before for weight, before in zip(model.parameters(), gradients, strict=True))
    assert [weight.requires_grad for weight in model.parameters()] == [False, True, True, True]
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]


def test_the_generator_alone_decides_what_is_drawn() -> None:
    attack, given = AttackAdapter(drawn), (network(), torch.zeros(2, 3), torch.tensor([0, 1]))
    first = attack(*given, generator=source(0))
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    assert torch.equal(attack(*given, generator=source(0)), first)
    assert not torch.equal(attack(*given, generator=source(1)), first)


def test_arrays_become_tensors_of_the_inputs_type() -> None:
    attack = AttackAdapter(lambda model, inputs, labels: inputs.numpy() + np.float64(0.5))
    changed = attack(network(), torch.zeros(2, 3), torch.tensor([0, 1]))
    assert changed.dtype == torch.float32
    assert changed.tolist() == [[0.5] * 3] * 2


def test_the_attack_may_overwrite_what_it_is_given_and_has_gradients() -> None:
    inputs, labels = torch.zeros(2, 3), torch.tensor([0, 1])

    def overwrites(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        assert torch.is_grad_enabled()
        assert not model.training
        labels.fill_(1)
        return inputs.fill_(0.5)

    with torch.no_grad():
        changed = AttackAdapter(overwrites)(network(), inputs, labels)
    assert changed.eq(0.5).all()
    assert inputs.eq(0).all()
    assert labels.tolist() == [0, 1]


def test_an_attack_of_one_type_is_given_that_type() -> None:
    seen: list[torch.dtype] = []

    def single(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        seen.extend([inputs.dtype, model(inputs).dtype])
        return inputs + 0.5

    model = network().double()
    for dtype in (torch.float64, torch.float32):
        changed = AttackAdapter(single, torch.float32)(model.to(dtype), torch.zeros(2, 3, dtype=dtype), torch.zeros(2))
        assert changed.dtype == dtype
    assert seen == [torch.float32] * 4
    assert model[0].weight.dtype == torch.float32


def test_another_shape_is_refused() -> None:
    attack = AttackAdapter(lambda model, inputs, labels: inputs[:1])
    with pytest.raises(ValueError, match=r"shape \(2, 3\), as it was given, got \(1, 3\)"):
        attack(network(), torch.zeros(2, 3), torch.tensor([0, 1]))


def test_what_is_no_tensor_is_refused() -> None:
    for given, name in ((None, "NoneType"), ((1, 2), "tuple")):
        with pytest.raises(ValueError, match=f"as it was given, got {name}"):
            AttackAdapter(lambda model, inputs, labels, given=given: given)(
                network(), torch.zeros(2, 3), torch.zeros(2)
            )


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
