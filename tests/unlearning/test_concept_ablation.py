"""Concept ablation against closed forms of a linear model, a plain loop, and the weights that may move."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.generators.generation import generate
from paperweight.generators.pipeline import PipelineAdapter
from paperweight.generators.process import linear_schedule
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.testing import FunctionSubject, UnlearnerSubject
from paperweight.unlearning.concept_ablation import ConceptAblation, ablation_loss

WORDS = ("a", "photo", "of", "circle", "disc", "cross", "shape")
SHAPE = (1, 8, 8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def tiny(prediction="v") -> TextToImage:
    arguments = {"patch": 4, "width": 16, "blocks": 1, "heads": 2}
    return TextSpec(
        shape=SHAPE, words=WORDS, length=6, dim=8, steps=20, prediction=prediction, arguments=arguments
    ).build()


with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = tiny()


class Copied:
    """Does nothing."""

    def __call__(self, model, forget, retain, *, generator):
        return copy.deepcopy(model)


class LinearNetwork(nn.Module):
    """Computes A z + B c and, where it is wanted, drops entries of the sum."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4, bias=False)
        self.attn2 = nn.ModuleDict({name: nn.Linear(3, 4, bias=False) for name in ("to_k", "to_v")})
        self.dropout = nn.Dropout(dropout)
        generator = seeded(5)
        for weight in self.parameters():
            weight.data = 0.5 * torch.randn(weight.shape, generator=generator)

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        token = encoder_hidden_states[:, 0]
        given = self.attn2["to_k"](token) + self.attn2["to_v"](token)
        return self.dropout(self.mix(z.flatten(1)) + given).view_as(z)


TOKENS = {None: (0.2, -0.1, 0.4), "circle": (1.0, 0.5, -0.3), "cross": (-0.4, 0.8, 0.1), "shape": (0.3, 0.6, 0.9)}


class Linear(nn.Module):
    """Meets what ablation needs with closed forms."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.schedule = linear_schedule(10)
        self.clamp = None
        self.network = LinearNetwork(dropout=dropout)

    def condition(self, given, count: int) -> Tensor:
        return torch.stack([torch.tensor([TOKENS[word]]) for word in (given or [None] * count)])

    def eps(self, z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.network(z, t, condition)

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images - 1

    def decode(self, z: Tensor) -> Tensor:
        return (z + 1) / 2


def ablate_linear(model, words=("circle",), **given):
    eraser = ConceptAblation(**{"anchor": "shape", "images": 4, "sampling_steps": 3, **given})
    return eraser(model, list(words), [], generator=seeded(2), shape=(1, 2, 2))


make = partial(ConceptAblation, steps=3, lr=1e-2, images=4, sampling_steps=3, batch_size=2)
CONTRACT = {
    "ConceptAblation": UnlearnerSubject(
        make=make,
        random=True,
        reads=("forget",),
        model=tiny,
        inputs=(normal(2, *SHAPE), torch.tensor([1, 7]), normal(2, 6, 8, seed=4)),
        forget=["circle", "disc"],
        retain=["cross", "a photo of cross"],
        bad={
            "anchor": (3, ["shape", 3]),
            "variant": ("both",),
            "group": ("cross_attention",),
            "lam": (-0.1, math.inf, math.nan),
            "steps": (-1, 1.5),
            "lr": (-0.1, math.inf, math.nan),
            "batch_size": (0, 1.5),
            "images": (0, 1.5),
            "guidance": (-1.0, math.inf),
            "sampling_steps": (0, 1.5),
        },
        null=partial(make, steps=0),
        baseline=Copied,
    ),
    "ablation_loss": FunctionSubject(
        make=ablation_loss,
        arguments={
            "predict": lambda z, t, condition: z * condition,
            "z": normal(2, 3),
            "t": torch.tensor([0, 1]),
            "condition": normal(2, 3, seed=1),
            "anchor": normal(2, 3, seed=2),
        },
        bad={"anchor": (None,), "truth": (normal(2, 3),)},
    ),
}


def test_the_loss_by_hand_has_no_gradient_through_the_anchor():
    # At w = 3 the predictions are 3 * 2 and 3 * 1; d/dw (6 - sg 3)^2 = 2 * 3 * 2, without sg it were 2 * 3 * 1.
    w = torch.tensor(3.0, requires_grad=True)
    one, two = torch.tensor([[1.0]]), torch.tensor([[2.0]])

    def predict(z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return w * condition

    loss = ablation_loss(predict, one, one, two, anchor=one)
    loss.backward()
    assert loss.item() == 9
    assert w.grad == 12
    assert ablation_loss(predict, one, one, two, truth=5 * one) == 1


def moments(model: Linear, found: Linear) -> tuple[Tensor, Tensor]:
    """Give what keys and values together map the captions to, before and after."""
    tokens = model.condition(["circle", "shape", "cross"], 3)[:, 0]
    return tuple(tokens @ sum(part.weight for part in each.network.attn2.values()).T for each in (model, found))


@pytest.mark.parametrize("group", ["keys_and_values", "all"])
def test_the_first_step_is_against_the_sign_of_the_gradient_in_closed_form(group):
    """The residual is B (c* - c), whatever z is; Adam's first step has the length of the rate, beside the decay."""
    model = Linear()
    found = ablate_linear(model, steps=1, lr=0.01, group=group)
    weights = model.network.attn2
    word, anchor = torch.tensor(TOKENS["circle"]), torch.tensor(TOKENS["shape"])
    residual = (weights["to_k"].weight + weights["to_v"].weight) @ (word - anchor)
    gradient = torch.outer(residual, word)
    assert gradient.abs().min() > 1e-3
    for name, part in found.network.attn2.items():
        wanted = weights[name].weight * (1 - 0.01 * 0.01) - 0.01 * gradient.sign()
        torch.testing.assert_close(part.weight, wanted, rtol=0, atol=1e-5)
    assert torch.equal(found.network.mix.weight, model.network.mix.weight) == (group == "keys_and_values")


def test_every_caption_goes_to_its_own_anchor():
    model = Linear()
    before, after = moments(model, ablate_linear(model, ("circle", "cross"), steps=200, lr=0.02))
    torch.testing.assert_close(after[[0, 2]], after[[1, 1]], rtol=0, atol=0.1)
    before, after = moments(
        model, ablate_linear(model, ("circle", "cross"), anchor=("shape", "cross"), steps=200, lr=0.02)
    )
    torch.testing.assert_close(after[0], after[1], rtol=0, atol=0.1)
    for other in (0, 1):
        assert (before[2] - before[other]).abs().max() > 0.3
        assert (after[2] - after[other]).abs().max() > 0.3


def reference(variant: str, lam: float, group: str, prediction: str) -> TextToImage:
    """Ablate circle and disc by a plain loop; written anew from the paper."""
    model = copy.deepcopy(MODELS[prediction]).eval()
    chosen = [
        parameter
        for name, parameter in model.named_parameters()
        if name.startswith("network.") and (group == "all" or ".attn2.to_k." in name or ".attn2.to_v." in name)
    ]
    generator, adam = seeded(4), torch.optim.AdamW(chosen, lr=3e-3, weight_decay=0.01)
    drawn = [
        generate(MODELS[prediction], captions, SHAPE, generator=generator, guidance=2.0, steps=3)
        for captions in (["shape", "a shape", "shape"], ["a shape", "shape"])
    ]
    images = 2 * torch.cat(drawn) - 1

    def batch():
        which = torch.randint(5, (3,), generator=generator)
        times = torch.randint(20, (3,), generator=generator)
        noise = torch.randn(3, *SHAPE, generator=generator)
        abar = model.schedule.abar[times].float().view(3, 1, 1, 1)
        noisy = abar.sqrt() * images[which] + (1 - abar).sqrt() * noise
        v = abar.sqrt() * noise - (1 - abar).sqrt() * images[which]
        return which, times, noisy, {"eps": noise, "v": v, "x0": images[which]}[prediction]

    def said(words: list[str], which: Tensor) -> Tensor:
        return model.condition([words[int(index) % 2] for index in which], 3).detach()

    for _ in range(4):
        which, times, noisy, truth = batch()
        with torch.no_grad():
            wanted = truth if variant == "noise" else model(noisy, times, said(["shape", "a shape"], which))
        loss = (model(noisy, times, said(["circle", "a disc"], which)) - wanted).square().mean()
        if lam:
            which, times, noisy, truth = batch()
            kept = model(noisy, times, said(["shape", "a shape"], which)) - truth
            loss = loss + lam * kept.square().mean()
        adam.zero_grad()
        loss.backward()
        norm = torch.stack([parameter.grad.square().sum() for parameter in chosen]).sum().sqrt()
        for parameter in chosen:
            parameter.grad *= min(1.0, 1 / norm.item())
        adam.step()
    return model


MODELS = {"v": MODEL}
with torch.random.fork_rng():
    torch.manual_seed(1)
    MODELS |= {"x0": tiny("x0"), "eps": tiny("eps")}
    for part in (each for model in MODELS.values() for each in model.parameters()):
        part.data += 0.3 * torch.randn(part.shape)


@pytest.mark.parametrize(
    ("variant", "lam", "group", "prediction"),
    [
        ("model", 0.0, "keys_and_values", "v"),
        ("model", 0.7, "all", "x0"),
        ("noise", 0.0, "all", "eps"),
        ("noise", 0.3, "keys_and_values", "x0"),
    ],
)
def test_steps_on_a_text_model_are_those_of_a_plain_loop(variant, lam: float, group, prediction: str):
    eraser = ConceptAblation(
        anchor=("shape", "a shape"), variant=variant, group=group, lam=lam, steps=4, lr=3e-3, batch_size=3, images=5,
        guidance=2.0, sampling_steps=3,
    )  # fmt: skip
    found = eraser(MODELS[prediction], ["circle", "a disc"], ["cross"], generator=seeded(4))
    wanted, moved = reference(variant, lam, group, prediction), 0.0
    for name, parameter in wanted.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), parameter, rtol=0, atol=1e-4)
        moved = max(moved, (parameter - MODELS[prediction].get_parameter(name)).abs().max().item())
    assert moved > 5e-3


@pytest.mark.parametrize("group", ["keys_and_values", "all"])
def test_a_group_moves_its_weights_and_no_other(group):
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    found = make(group=group)(MODEL, ["circle"], ["cross"], generator=seeded())
    changed = {name for name, value in found.named_parameters() if not torch.equal(value, before[name])}
    keys = ("network.blocks.0.attn2.to_k.weight", "network.blocks.0.attn2.to_v.weight")
    assert changed == ({name for name in before if name.startswith("network.")} if group == "all" else set(keys))
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())
    assert all(parameter.grad is None for model in (MODEL, found) for parameter in model.parameters())


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_the_caption_is_answered_as_its_anchor_is(prediction: str):
    model, z, t = MODELS[prediction], normal(64, *SHAPE, seed=9), torch.arange(64) % 20
    eraser = ConceptAblation(anchor="shape", steps=60, lr=1e-2, images=8, sampling_steps=3)
    found = eraser(model, ["circle"], [], generator=seeded())
    with torch.no_grad():
        word, anchor = (model.condition([each] * 64, 64) for each in ("circle", "shape"))
        apart = [(each(z, t, word) - each(z, t, anchor)).square().mean().item() for each in (model, found)]
    assert apart[1] < 0.5 * apart[0]


def test_without_a_rate_or_steps_the_copy_equals_the_model():
    for given in ({"lr": 0.0}, {"steps": 0}):
        found = make(**given)(MODEL, ["circle"], [], generator=seeded())
        assert all(torch.equal(value, MODEL.state_dict()[name]) for name, value in found.state_dict().items())


def test_a_model_in_train_mode_is_used_in_eval_mode_and_its_modes_and_flags_are_kept():
    model = Linear(dropout=0.5)
    model.network.mix.weight.requires_grad_(False)
    quiet = ablate_linear(copy.deepcopy(model).eval(), steps=4, group="all", lr=0.01, lam=0.5)
    model.network.mix.eval()
    modes = [part.training for part in model.modules()]
    found = ablate_linear(model, steps=4, group="all", lr=0.01, lam=0.5)
    assert [part.training for part in model.modules()] == modes
    assert [part.training for part in found.modules()] == modes
    for name, value in found.named_parameters():
        assert torch.equal(value, quiet.get_parameter(name))
        assert value.requires_grad == model.get_parameter(name).requires_grad


def test_of_an_adapted_pipeline_the_denoiser_alone_is_copied():
    unet = LinearNetwork()
    pipeline = SimpleNamespace(
        encode_prompt=lambda prompt, **_: (torch.tensor([[TOKENS[word or None]] for word in prompt]), None),
        unet=unet,
        scheduler=SimpleNamespace(
            alphas_cumprod=linear_schedule(10).abar, config=SimpleNamespace(prediction_type="epsilon")
        ),
    )
    adapter = PipelineAdapter(pipeline)
    before = copy.deepcopy(unet.state_dict())
    found = ablate_linear(adapter, steps=3, lr=0.01)
    assert pipeline.unet is unet is adapter.network is not found.network
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    changed = [name for name, value in found.network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["attn2.to_k.weight", "attn2.to_v.weight"]
    with pytest.raises(InputError, match="shape must be given for a PipelineAdapter"):
        make()(adapter, ["circle"], [], generator=seeded())


def test_what_cannot_be_erased_is_refused():
    with pytest.raises(InputError, match="forget must be a list of captions"):
        make()(MODEL, "circle", [], generator=seeded())
    with pytest.raises(InputError, match="cirle"):
        make()(MODEL, ["circle", "cirle"], [], generator=seeded())
    with pytest.raises(InputError, match="shap"):
        make(anchor="shap")(MODEL, ["circle"], [], generator=seeded())
    with pytest.raises(InputError, match="one for each of the 2 captions to forget, got 3"):
        make(anchor=("shape", "cross", "a"))(MODEL, ["circle", "disc"], [], generator=seeded())
    with pytest.raises(ValueError, match="images must be at least the number 2 of captions to forget, got 1"):
        make(images=1)(MODEL, ["circle", "disc"], [], generator=seeded())
    with pytest.raises(ValueError, match="sampling_steps must be at most the model's 20 training times, got 21"):
        make(sampling_steps=21)(MODEL, ["circle"], [], generator=seeded())
