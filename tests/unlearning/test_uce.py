"""UCE against a case by hand, the minimum that it claims to be, its limits, and the keys of an edited model."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from paperweight.errors import InputError
from paperweight.generators.cross_attention import parameter_group
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.testing import FunctionSubject, UnlearnerSubject
from paperweight.unlearning.uce import UCE, uce_solve

WORDS = ("a", "photo", "of", "circle", "disc", "cross", "shape")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiny() -> TextToImage:
    arguments = {"patch": 4, "width": 16, "blocks": 2, "heads": 2}
    return TextSpec(shape=(1, 8, 8), words=WORDS, length=6, dim=8, steps=10, arguments=arguments).build()


CONTRACT = {
    "UCE": UnlearnerSubject(
        make=UCE,
        model=tiny,
        inputs=(normal(2, 1, 8, 8).float(), torch.tensor([1, 7]), normal(2, 6, 8, seed=4).float()),
        forget=["circle", "disc"],
        retain=["cross", "a photo of cross"],
        bad={
            "erase_scale": (-1.0, math.inf),
            "preserve_scale": (-1.0, math.nan),
            "lam": (0.0, -1.0, math.inf),
            "tokens": ("first",),
        },
        null=partial(UCE, erase_scale=0.0),
        baseline=lambda: lambda model, forget, retain: copy.deepcopy(model),
    ),
    "uce_solve": FunctionSubject(
        make=uce_solve,
        arguments={
            "weight": normal(3, 4),
            "erased": normal(2, 4, seed=1),
            "guides": normal(2, 4, seed=2),
            "preserved": normal(5, 4, seed=3),
        },
        bad={
            "lam": (0.0, -0.5),
            "erase_scale": (-1.0,),
            "guides": (normal(3, 4),),
            "preserved": (normal(5, 3),),
            "erased": (normal(2, 3),),
        },
    ),
}


def test_two_dimensions_by_hand():
    # W = diag(1, 2), c = (1, 0), g = (0, 1), lam = s_e = 1: left = W + (W g) c^T, right = diag(2, 1).
    edited = uce_solve(
        torch.diag(torch.tensor([1.0, 2.0])),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[0.0, 1.0]]),
        torch.empty(0, 2),
        lam=1.0,
    )
    torch.testing.assert_close(edited, torch.tensor([[0.5, 0.0], [1.0, 2.0]]))


@pytest.mark.parametrize("scales", [(1.0, 1.0, 0.5), (3.0, 0.2, 0.1), (0.5, 2.0, 4.0)])
def test_it_is_the_minimum_of_the_sum_of_squares(scales: tuple[float, float, float]):
    erase_scale, preserve_scale, lam = scales
    weight, c, g, p = normal(3, 4), normal(2, 4, seed=1), normal(2, 4, seed=2), normal(6, 4, seed=3)
    edited = uce_solve(weight, c, g, p, erase_scale=erase_scale, preserve_scale=preserve_scale, lam=lam)
    edited.requires_grad_()
    objective = lam * (edited - weight).square().sum()
    for row in range(2):
        objective = objective + erase_scale * (edited @ c[row] - weight @ g[row]).square().sum()
    for row in range(6):
        objective = objective + preserve_scale * (edited @ p[row] - weight @ p[row]).square().sum()
    objective.backward()
    assert edited.grad is not None
    assert edited.grad.abs().max() < 1e-12
    assert not torch.allclose(edited.detach(), weight, atol=1e-2)


def test_where_nothing_is_asked_nothing_changes():
    weight, c, p = normal(3, 4), normal(2, 4, seed=1), normal(6, 4, seed=3)
    for edited in (
        uce_solve(weight, c[:0], c[:0], p),
        uce_solve(weight, c, c, p),
        uce_solve(weight, c, normal(2, 4, seed=2), p, lam=1e12),
        uce_solve(weight, c, normal(2, 4, seed=2), p, erase_scale=0.0),
    ):
        torch.testing.assert_close(edited, weight, rtol=1e-9, atol=1e-9)


def test_one_concept_goes_where_its_guide_went_as_lam_vanishes():
    weight, c, g = normal(3, 4), normal(1, 4, seed=1), normal(1, 4, seed=2)
    for lam in (1e-2, 1e-4, 1e-6):
        edited = uce_solve(weight, c, g, c[:0], lam=lam)
        share = lam / (lam + c.square().sum())
        torch.testing.assert_close(edited @ c[0], weight @ (share * c[0] + (1 - share) * g[0]))


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_keys_and_values_of_the_word_become_those_of_the_guide(tokens: str):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny()
    caption, guide = "a photo of circle", "a photo of shape"
    erased = UCE(guide=guide, lam=1e-9, tokens=tokens)(model, [caption], [])
    positions = [3] if tokens == "last" else range(6)
    old, new = parameter_group(model.network, "keys_and_values"), parameter_group(erased.network, "keys_and_values")
    told, wanted = model.condition([caption], 1)[0], model.condition([guide], 1)[0]
    assert len(new) == 4
    for name, weight in new.items():
        for position in positions:
            torch.testing.assert_close(weight @ told[position], old[name] @ wanted[position], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(weight, old[name], atol=1e-3)


def test_the_empty_guide_is_its_end_and_nothing_but_keys_and_values_changes():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny()
    state = copy.deepcopy(model.state_dict())
    erased = UCE(lam=1e-9)(model, ["circle"], [])
    name = "blocks.1.attn2.to_v.weight"
    told, empty = model.condition(["circle"], 1)[0, 0], model.condition(None, 1)[0, 0]
    new, old = (dict(each.network.named_parameters())[name] for each in (erased, model))
    torch.testing.assert_close(new @ told, old @ empty, rtol=1e-4, atol=1e-4)
    edited = {f"network.{each}" for each in parameter_group(model.network, "keys_and_values")}
    for name, value in erased.state_dict().items():
        assert torch.equal(value, state[name]) == (name not in edited), name
        assert torch.equal(model.state_dict()[name], state[name])


def test_retained_captions_change_less_than_without_them():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny()

    def moved(retain: list[str]) -> float:
        erased = UCE(lam=0.01)(model, ["circle"], retain)
        token = model.condition(["cross"], 1)[0, 0]
        pairs = zip(
            *(parameter_group(each.network, "keys_and_values").values() for each in (model, erased)), strict=True
        )
        return sum((old @ token - new @ token).norm().item() for old, new in pairs)

    assert moved(["cross"]) < 0.5 * moved([])


def test_an_unknown_word_is_refused():
    with pytest.raises(InputError, match="cirle"):
        UCE()(tiny(), ["cirle"], [])


def test_a_model_without_words_of_its_own_is_refused():
    with pytest.raises(InputError, match="model must be a TextToImage"):
        UCE(tokens="all")(torch.nn.Linear(2, 2), ["circle"], ["cross"])


def test_one_text_in_place_of_a_list_is_refused():
    """It would be read letter by letter, and ``a`` is a word."""
    with pytest.raises(InputError, match="forget must be a list of captions, got the text 'a'"):
        UCE()(tiny(), "a", [])
    with pytest.raises(InputError, match="retain must be a list of captions"):
        UCE()(tiny(), ["circle"], "a")


def test_biases_of_keys_and_values_stay():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny()
        attention = model.network.blocks[0].attn2
        attention.to_k = torch.nn.Linear(8, 16)
    erased = UCE(guide="shape", lam=1e-9)(model, ["circle"], [])
    edited = erased.network.blocks[0].attn2.to_k
    assert torch.equal(edited.bias, attention.to_k.bias)
    told, wanted = model.condition(["circle"], 1)[0, 0], model.condition(["shape"], 1)[0, 0]
    torch.testing.assert_close(edited(told), attention.to_k(wanted), rtol=1e-3, atol=1e-3)
