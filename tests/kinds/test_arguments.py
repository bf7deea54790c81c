"""What is read of the objects that arms make: every argument, defaults included, the same in every process."""

import functools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.kinds.arguments import constructor_arguments, not_kept, plain


class Keeping:
    def __init__(self, model, lr: float = 0.1, betas=(0.9, 0.99), *, loss=F.cross_entropy, generator=None) -> None:
        self.model, self.lr, self.betas, self.loss, self.generator = model, lr, betas, loss, generator


class Losing:
    def __init__(self, kept: int = 1, lost: int = 2) -> None:
        self.kept, self._lost = kept, lost


def test_arguments_of_an_object_are_its_attributes_in_the_order_of_the_signature():
    found = constructor_arguments(Keeping(nn.Linear(1, 1), 0.5, generator=torch.Generator()))
    assert list(found.items()) == [
        ("model", "torch.nn.modules.linear.Linear"),
        ("lr", 0.5),
        ("betas", (0.9, 0.99)),
        ("loss", "torch.nn.functional.cross_entropy"),
        ("generator", "torch._C.Generator"),
    ]


def test_arguments_of_an_optimizer_are_its_defaults_but_for_what_it_steps():
    found = constructor_arguments(torch.optim.AdamW([torch.ones(1)], lr=0.5))
    assert {name: found[name] for name in ("lr", "betas", "eps", "weight_decay")} == {
        "lr": 0.5,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.01,
    }
    assert "params" not in found


def test_an_argument_that_is_not_kept_is_named_with_its_class():
    assert not_kept(Losing()) == ["lost"]
    assert "lost" not in constructor_arguments(Losing())


@pytest.mark.parametrize(
    ("made", "arguments"),
    [
        (F.leaky_relu, {"negative_slope": 0.01, "inplace": False}),
        (functools.partial(F.leaky_relu, inplace=True), {"negative_slope": 0.01, "inplace": True}),
        (functools.partial(F.leaky_relu, torch.ones(1), 0.3), {"input": "torch.Tensor", "negative_slope": 0.3}),
        (functools.partial(Keeping, lr=2.0), {"lr": 2.0, "betas": (0.9, 0.99), "generator": None}),
        (functools.partial(torch.add, alpha=2), {"alpha": 2}),
        (object(), {}),
    ],
    ids=["function", "keyword", "positional", "class", "built-in", "no constructor"],
)
def test_arguments_that_are_bound_or_have_a_default_are_read(made, arguments):
    assert constructor_arguments(made).items() >= arguments.items()


def test_parameters_and_iterators_are_left_out():
    class Owner:
        def __init__(self, weights, batches, bias: bool = True) -> None:
            self.weights, self.batches, self.bias = weights, batches, nn.Parameter(torch.ones(1))

    assert constructor_arguments(Owner(iter([]), (x for x in ()), True)) == {}


@pytest.mark.parametrize("value", [True, 3, 0.5, math.inf, "word", None, (1, 2.0, None), [("a", 1), ("b", 2)]], ids=str)
def test_plain_values_stay_as_they_are(value):
    assert plain(value) is value


def test_other_values_are_named_alike_in_every_process():
    values = [nn.Linear(1, 1), nn.Linear, torch.ones(1), torch.tanh, len, {"a": 1}, (nn.ReLU(),), Keeping.__init__]
    found = [plain(value) for value in (*values, lambda: 0, functools.partial(torch.add, alpha=2))]
    assert found[:7] == [
        "torch.nn.modules.linear.Linear",
        "torch.nn.modules.linear.Linear",
        "torch.Tensor",
        "torch.tanh",
        "len",
        "dict",
        "tuple",
    ]
    assert found[-1] == "torch.add"
    assert "0x" not in json.dumps(found)
