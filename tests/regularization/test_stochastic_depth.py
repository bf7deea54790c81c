"""Stochastic depth against hand-computed cases, the mean over all masks, plain blocks, and counts of what is run."""

import copy
import math
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.errors import InputError
from paperweight.nets import LeNet, ResNet, ResNet18, ViT
from paperweight.regularization.stochastic_depth import StochasticDepth, add_stochastic_depth, linear_decay_survival
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))


def resnet(depth: int = 20) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNet((1, 8, 8), 10, depth=depth, width=4)


def branches(model: nn.Module) -> list[StochasticDepth]:
    return [module for module in model.modules() if isinstance(module, StochasticDepth)]


def probabilities(model: nn.Module) -> dict[str, float]:
    return {str(number): branch.survival for number, branch in enumerate(branches(model))}


CONTRACT = {
    # By the global stream, which each check seeds before a call, the branch survives.
    "StochasticDepth": LayerSubject(
        make=lambda survival=0.6, mode="batch": StochasticDepth(small(), survival, mode),
        inputs=(normal(3, 4).float(),),
        shape=(3, 4),
        parameter_count=31,
        bad={"survival": (0.0, -0.1, 1.1, math.nan), "mode": ("rows", None)},
        null=lambda: StochasticDepth(nn.Linear(4, 4), survival=1.0),
        baseline=lambda: nn.Linear(4, 4),
    ),
    "linear_decay_survival": FunctionSubject(
        make=linear_decay_survival,
        arguments={"branches": 5},
        bad={"branches": (0, -1, 2.5), "p_last": (0.0, -0.1, 1.1, math.nan)},
    ),
    "add_stochastic_depth": FunctionSubject(
        make=lambda model, survival=linear_decay_survival, mode="batch", is_branch=None: probabilities(
            add_stochastic_depth(model, survival, mode=mode, **({"is_branch": is_branch} if is_branch else {}))
        ),
        arguments={"model": resnet()},
        bad={
            "model": (LeNet((1, 8, 8), 10), nn.Identity()),
            "survival": (lambda n: [0.5], lambda n: [0.0] * n, lambda n: [1.5] * n),
            "mode": ("rows",),
            "is_branch": (lambda block, child: False,),
        },
    ),
}


class Counter(nn.Module):
    """Three times its input, with a count of the samples that it was run on, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))
        self.forward_samples: list[int] = []
        self.backward_samples: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forward_samples.append(len(x))
        y = self.weight * x
        y.register_hook(lambda gradient: self.backward_samples.append(len(gradient)))
        return y


class Block(nn.Module):
    """A block of a person's own, before whose sum nothing is named as in the library's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 0.5))
        self.inner = small()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.inner(x)


def test_decay_by_hand():
    assert linear_decay_survival(4) == (0.875, 0.75, 0.625, 0.5)
    assert linear_decay_survival(2, p_last=0.2) == pytest.approx((0.6, 0.2))
    assert linear_decay_survival(1, p_last=0.3) == pytest.approx((0.3,))
    assert linear_decay_survival(7, p_last=1.0) == (1.0,) * 7


@pytest.mark.parametrize(("count", "p_last"), [(54, 0.5), (1, 0.5), (13, 0.8), (3, 0.01)])
def test_sum_of_the_decay_is_the_closed_form(count, p_last):
    assert sum(linear_decay_survival(count, p_last)) == pytest.approx(count - (1 - p_last) * (count + 1) / 2)


def test_expected_depth_of_the_papers_network():
    assert round(sum(linear_decay_survival(54))) == 40  # of 110 layers


def test_eval_mode_is_the_mean_of_training_over_all_masks():
    # Two linear blocks without anything after the sum, so that the mean passes through: all four masks, weighed.
    first, second, x = nn.Linear(3, 3).double(), nn.Linear(3, 3, bias=False).double(), normal(5, 3)
    p, q = 0.7, 0.4
    mean = torch.zeros_like(x)
    for b, c in product((0, 1), (0, 1)):
        hidden = x + b * first(x)
        mean += (p if b else 1 - p) * (q if c else 1 - q) * (hidden + c * second(hidden))
    one, other = StochasticDepth(first, p).eval(), StochasticDepth(second, q).eval()
    hidden = x + one(x)
    torch.testing.assert_close(hidden + other(hidden), mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_training_takes_the_two_values_of_its_rule_at_the_right_rate(mode):
    branch = StochasticDepth(nn.Identity(), 0.3, mode, seeded(0))
    x = torch.ones(50, 1)
    calls = torch.stack([(0 * x + branch(x))[:, 0] for _ in range(400)])
    value = 1.0 if mode == "batch" else 1 / 0.3
    assert calls.unique().tolist() == pytest.approx([0.0, value])
    draws = calls[:, :1] if mode == "batch" else calls
    assert bool(calls.eq(calls[:, :1]).all()) is (mode == "batch")
    deviation = math.sqrt(0.3 * 0.7 / draws.numel())
    assert (draws > 0).float().mean().item() == pytest.approx(0.3, abs=4 * deviation)


def test_a_dropped_branch_is_run_neither_forward_nor_backward_and_the_optimizer_leaves_it():
    counter = Counter()
    branch = StochasticDepth(counter, 0.5, generator=seeded(0))
    optimizer = torch.optim.SGD(branch.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    survived = []
    for _ in range(40):
        x = torch.ones(2, 1, requires_grad=True)
        before = counter.weight.item()
        optimizer.zero_grad()
        y = x + branch(x)
        survived.append(not torch.equal(y, x))
        y.sum().backward()
        optimizer.step()
        assert (counter.weight.grad is not None) is survived[-1] is (counter.weight.item() != before)
        assert x.grad.flatten().tolist() == pytest.approx([1 + before if survived[-1] else 1.0] * 2)
    assert 10 < sum(survived) < 30
    assert counter.forward_samples == counter.backward_samples == [2] * sum(survived)


def test_rows_by_a_loop_over_samples_and_only_survivors_are_run():
    counter = Counter()
    branch = StochasticDepth(counter, 0.5, mode="row", generator=seeded(3))
    mirror, computed = seeded(3), []
    for _ in range(30):
        x = normal(3, 2).float().requires_grad_()
        alive = [draw < 0.5 for draw in torch.rand(3, generator=mirror).tolist()]
        y = x + branch(x)
        torch.testing.assert_close(y, torch.stack([row * (7.0 if b else 1.0) for row, b in zip(x, alive, strict=True)]))
        y.sum().backward()
        torch.testing.assert_close(x.grad, torch.tensor([[7.0 if b else 1.0] * 2 for b in alive]))
        computed += [sum(alive)] if any(alive) else []
    assert counter.forward_samples == counter.backward_samples == computed
    assert len(computed) < 30
    assert torch.equal(branch.eval()(x), 3 * x)


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_at_survival_1_a_network_trains_like_the_plain_one_bit_for_bit_and_draws_nothing(mode):
    plain, generator = resnet(), seeded(0)
    wrapped = add_stochastic_depth(plain, partial(linear_decay_survival, p_last=1.0), mode=mode, generator=generator)
    state = generator.get_state()
    results = []
    for model in (plain, wrapped):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        for step in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(normal(6, 1, 8, 8, seed=step).float()), torch.arange(6)).backward()
            optimizer.step()
        results.append([*model.state_dict().values(), model.eval()(normal(6, 1, 8, 8).float())])
    assert all(map(torch.equal, *results))
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("build", [resnet, lambda: ResNet18((1, 8, 8), 10, width=4)])
def test_each_block_is_the_papers_rule_for_every_draw(build):
    plain = build()
    wrapped = add_stochastic_depth(plain, lambda count: [0.5] * count, generator=seeded(1))
    mirror, x = seeded(1), normal(4, 1, 8, 8).float()
    for _ in range(4):
        drawn = wrapped(x)
        expected = x
        for layer in plain.body:
            if hasattr(layer, "residual"):
                kept = torch.rand((), generator=mirror).item() < 0.5
                expected = torch.relu(layer.shortcut(expected) + (layer.residual(expected) if kept else 0.0))
            else:
                expected = layer(expected)
        assert torch.equal(drawn, plain.head(expected))
    expected = x
    plain.eval()
    for layer in plain.body:
        if hasattr(layer, "residual"):
            expected = torch.relu(0.5 * layer.residual(expected) + layer.shortcut(expected))
        else:
            expected = layer(expected)
    # The draws were the same, and so are the running statistics that both have gathered.
    torch.testing.assert_close(wrapped.eval()(x), plain.head(expected), rtol=0, atol=0)


def test_running_statistics_count_the_steps_that_a_branch_survived():
    model = add_stochastic_depth(resnet(), lambda count: [0.5] * count, generator=seeded(0))
    counts = [0] * len(branches(model))
    mirror = seeded(0)
    for step in range(20):
        before = [branch.branch[1].running_mean.clone() for branch in branches(model)]
        model(normal(4, 1, 8, 8, seed=step).float())
        for number, branch in enumerate(branches(model)):
            survived = torch.rand((), generator=mirror).item() < 0.5
            counts[number] += survived
            assert torch.equal(branch.branch[1].running_mean, before[number]) is not survived
    assert [int(branch.branch[1].num_batches_tracked) for branch in branches(model)] == counts
    assert len(set(counts)) > 1


def test_dropping_is_off_in_eval_mode_and_draws_nothing():
    generator = seeded(0)
    model = add_stochastic_depth(resnet(), generator=generator).eval()
    state = generator.get_state()
    assert torch.equal(model(normal(4, 1, 8, 8).float()), model(normal(4, 1, 8, 8).float()))
    assert torch.equal(generator.get_state(), state)


def test_branches_get_linear_decay_in_the_order_of_the_network_and_the_model_stays_as_it_was():
    plain = resnet()
    plain.body[3].residual.eval()
    modes = [module.training for module in plain.modules()]
    wrapped = add_stochastic_depth(plain, partial(linear_decay_survival, p_last=0.1))
    assert [branch.survival for branch in branches(wrapped)] == list(linear_decay_survival(9, p_last=0.1))
    found = [layer.residual.survival for layer in wrapped.body if hasattr(layer, "residual")]
    assert found == list(linear_decay_survival(9, p_last=0.1))
    assert [branch.training for branch in branches(wrapped)] == [False] + 8 * [True]
    assert not branches(plain)
    assert [module.training for module in plain.modules()] == modes
    with torch.no_grad():
        wrapped.head.bias.add_(1.0)
    assert not torch.equal(plain.head.bias, wrapped.head.bias)


def test_branches_of_a_transformer_and_of_a_persons_own_block_are_named_by_the_caller():
    transformer = ViT((1, 8, 8), 10, dim=8, depth=2, heads=2)
    parts = ("attention", "perceptron")
    wrapped = add_stochastic_depth(transformer, mode="row", is_branch=lambda block, child: child in parts)
    assert len(branches(wrapped)) == 4
    wrapped(normal(8, 1, 8, 8).float()).sum().backward()
    own = add_stochastic_depth(
        nn.Sequential(Block(), Block()),
        lambda count: [0.01] * count,
        generator=seeded(0),
        is_branch=lambda block, child: isinstance(block, Block) and child == "inner",
    )
    x = normal(3, 4).float()
    assert len(branches(own)) == 2
    assert torch.equal(own(x), x)


def test_a_model_without_branches_or_with_wrapped_ones_is_refused():
    with pytest.raises(InputError, match="must hold a residual branch, got LeNet without one; name its branches"):
        add_stochastic_depth(LeNet((1, 8, 8), 10))
    wrapped = add_stochastic_depth(resnet())
    with pytest.raises(InputError, match="not wrapped yet"):
        add_stochastic_depth(wrapped)
    skip = nn.ModuleDict({"residual": nn.Linear(2, 2)})
    with pytest.raises(InputError, match="must hold a residual branch"):
        add_stochastic_depth(nn.Sequential(skip))


def test_branches_share_a_generator_also_in_a_copy_and_same_seeds_drop_the_same():
    model = add_stochastic_depth(resnet(), generator=seeded(5))
    other = copy.deepcopy(model)
    assert len({id(branch.generator) for branch in branches(other)}) == 1
    x = normal(4, 1, 8, 8).float()
    for _ in range(3):
        assert torch.equal(model(x), other(x))


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_half_precision_and_an_input_of_no_samples(mode):
    branch = StochasticDepth(nn.Identity(), 0.5, mode, seeded(0))
    for _ in range(4):
        x = torch.ones(3, 2, dtype=torch.bfloat16)
        assert (x + branch(x)).dtype == torch.bfloat16
        assert (x[:0] + branch(x[:0])).shape == (0, 2)
