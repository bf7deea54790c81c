"""ESD against closed forms of a linear model, a plain loop, and the parameters that each mode may move."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.generators.generation import partly_denoised
from paperweight.generators.pipeline import PipelineAdapter
from paperweight.generators.process import guided, linear_schedule
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.testing import FunctionSubject, UnlearnerSubject
from paperweight.unlearning.esd import ESD, esd_target

WORDS = ("a", "photo", "of", "circle", "cross", "shape")
SHAPE = (1, 8, 8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def tiny() -> TextToImage:
    arguments = {"patch": 4, "width": 16, "blocks": 1, "heads": 2}
    return TextSpec(shape=SHAPE, words=WORDS, length=6, dim=8, steps=20, arguments=arguments, prediction="x0").build()


with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = tiny()


class Copied:
    """Does nothing."""

    def __call__(self, model, forget, retain, *, generator):
        return copy.deepcopy(model)


class LinearNetwork(nn.Module):
    """Computes A z + B c and, where it is wanted, drops entries of the sum."""

    def __init__(self, size: int = 4, dim: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.mix = nn.Linear(size, size, bias=False)
        self.attn2 = nn.ModuleDict({name: nn.Linear(dim, size, bias=False) for name in ("to_k", "to_v")})
        self.dropout = nn.Dropout(dropout)
        generator = seeded(5)
        for weight in self.parameters():
            weight.data = 0.5 * torch.randn(weight.shape, generator=generator)

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        token = encoder_hidden_states[:, 0]
        given = self.attn2["to_k"](token) + self.attn2["to_v"](token)
        return self.dropout(self.mix(z.flatten(1)) + given).view_as(z)


TOKENS = {None: (0.2, -0.1, 0.4), "circle": (1.0, 0.5, -0.3), "cross": (-0.4, 0.8, 0.1)}
CALLS: list[tuple[int, bool]] = []


class Linear(nn.Module):
    """Meets what ESD needs with closed forms, and notes every call: whose it is, and whether gradients flow."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.schedule = linear_schedule(10)
        self.clamp = None
        self.network = LinearNetwork(dropout=dropout)

    def condition(self, given, count: int) -> Tensor:
        return torch.stack([torch.tensor([TOKENS[word]]) for word in (given or [None] * count)])

    def eps(self, z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        CALLS.append((id(self), torch.is_grad_enabled()))
        return self.network(z, t, condition)


def erase_linear(model: nn.Module, words=("circle",), **given):
    eraser = ESD(**{"sampling_steps": 3, **given})
    return eraser(model, list(words), [], generator=seeded(2), shape=(1, 2, 2))


make = partial(ESD, steps=3, lr=1e-3, sampling_steps=4, batch_size=2)
CONTRACT = {
    "ESD": UnlearnerSubject(
        make=make,
        random=True,
        reads=("forget",),
        model=tiny,
        inputs=(normal(3, *SHAPE).float(), torch.tensor([0, 7, 19]), normal(3, 6, 8, seed=4).float()),
        forget=("circle", "circle", "a photo of circle"),
        retain=("cross", "shape"),
        bad={
            "mode": ("y", "xattn"),
            "eta": (-0.1, math.inf, math.nan),
            "start_guidance": (-1.0, math.inf),
            "steps": (-1, 1.5),
            "lr": (-0.1, math.inf, math.nan),
            "sampling_steps": (0, 1.5),
            "latents_from": ("teacher",),
            "batch_size": (0, 1.5),
        },
        null=partial(make, steps=0),
        baseline=Copied,
    ),
    "esd_target": FunctionSubject(
        make=esd_target,
        arguments={"without": normal(2, 3), "given": normal(2, 3, seed=1), "eta": 1.0},
        bad={"eta": (-0.1, math.inf, math.nan)},
    ),
}


def test_the_target_by_hand_and_the_two_ways_to_write_it():
    without, given = normal(4, 3, seed=1), normal(4, 3, seed=2)
    assert torch.equal(esd_target(without, given, 0.0), without)
    torch.testing.assert_close(esd_target(without, given, 1.0), 2 * without - given)
    for eta in (0.0, 0.5, 1.0, 2.0):
        torch.testing.assert_close(esd_target(without, given, eta), given - (eta + 1) * (given - without))
        torch.testing.assert_close(esd_target(without, given, eta), guided(given, without, -eta))


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.0])
def test_the_first_step_is_against_the_sign_of_the_gradient_in_closed_form(eta: float):
    """The residual is (1 + eta) B (c - c0), whatever z is, and Adam's first step has the length of the rate."""
    model = Linear()
    found = erase_linear(model, eta=eta, steps=1, lr=0.01, batch_size=3)
    weights = model.network.attn2
    word, empty = torch.tensor(TOKENS["circle"]), torch.tensor(TOKENS[None])
    residual = (1 + eta) * (weights["to_k"].weight + weights["to_v"].weight) @ (word - empty)
    gradient = torch.outer(residual, word) * 2 / len(residual)
    assert gradient.abs().min() > 1e-3
    for name, part in found.network.attn2.items():
        torch.testing.assert_close(part.weight, weights[name].weight - 0.01 * gradient.sign(), rtol=0, atol=1e-6)
    assert torch.equal(found.network.mix.weight, model.network.mix.weight)


@pytest.mark.parametrize("mode", ["x", "all"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("latents_from", ["original", "student"])
def test_a_linear_model_learns_the_target_exactly(mode, eta: float, latents_from):
    model = Linear()
    found = erase_linear(
        model,
        eta=eta,
        mode=mode,
        steps=900 if mode == "all" else 300,
        lr=0.01,
        latents_from=latents_from,
        words=["circle"] * 2,
    )
    z, t = normal(6, 1, 2, 2, dtype=torch.float32), torch.zeros(6, dtype=torch.int64)
    word, empty = model.condition(["circle"] * 6, 6), model.condition(None, 6)
    wanted = (1 + eta) * model.eps(z, t, empty) - eta * model.eps(z, t, word)
    torch.testing.assert_close(found.eps(z, t, word), wanted, rtol=0, atol=5e-3)
    assert (model.eps(z, t, word) - wanted).abs().max() > 0.3


def test_every_word_to_forget_is_learned():
    model = Linear()
    found = erase_linear(model, words=("circle", "cross"), steps=500, lr=0.02)
    z, t = normal(6, 1, 2, 2, dtype=torch.float32), torch.zeros(6, dtype=torch.int64)
    for name in ("circle", "cross"):
        word, empty = model.condition([name] * 6, 6), model.condition(None, 6)
        wanted = 2 * model.eps(z, t, empty) - model.eps(z, t, word)
        torch.testing.assert_close(found.eps(z, t, word), wanted, rtol=0, atol=1e-2)


@pytest.mark.parametrize("latents_from", ["original", "student"])
def test_who_is_sampled_from(latents_from):
    model = Linear()
    CALLS.clear()
    erase_linear(model, steps=6, latents_from=latents_from)
    ours = [grad for owner, grad in CALLS if owner != id(model)]
    theirs = [grad for owner, grad in CALLS if owner == id(model)]
    assert sum(ours) == 6
    assert not any(theirs)
    sampling = (len(theirs) - 12) if latents_from == "original" else (len(ours) - 6)
    assert sampling > 0
    assert sampling % 2 == 0
    assert len(ours) + len(theirs) == 18 + sampling


@pytest.mark.parametrize(("mode", "latents_from"), [("x", "student"), ("u", "original"), ("all", "student")])
def test_steps_on_a_text_model_are_those_of_a_plain_loop(mode, latents_from):
    eraser = ESD(
        mode=mode, eta=0.7, start_guidance=2.0, steps=4, lr=1e-3, sampling_steps=6, batch_size=2,
        latents_from=latents_from,
    )  # fmt: skip
    found = eraser(MODEL, ["circle", "cross"], [], generator=seeded(4))
    student = copy.deepcopy(MODEL).eval()
    frozen = copy.deepcopy(MODEL).eval().requires_grad_(False)
    chosen = [
        parameter
        for name, parameter in student.network.named_parameters()
        if mode == "all" or (".attn2." in f".{name}") == (mode == "x")
    ]
    adam, generator = torch.optim.Adam(chosen, lr=1e-3), seeded(4)
    for _ in range(4):
        words = [("circle", "cross")[int(torch.randint(2, (), generator=generator))]] * 2
        walker = frozen if latents_from == "original" else student
        z, t = partly_denoised(walker, words, SHAPE, generator=generator, guidance=2.0, steps=6)
        without, given = frozen(z, t, None), frozen(z, t, frozen.condition(words, 2))
        adam.zero_grad()
        loss = (student(z, t, student.condition(words, 2)) - (1.7 * without - 0.7 * given)).square().mean()
        loss.backward()
        adam.step()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), parameter, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "moved"),
    [
        ("x", lambda name: ".attn2." in name),
        ("u", lambda name: name.startswith("network.") and ".attn2." not in name),
        ("x-strict", lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name),
        ("all", lambda name: name.startswith("network.")),
    ],
)
def test_a_mode_moves_its_parameters_and_no_other(mode, moved):
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    found = make(mode=mode, steps=6)(MODEL, ["circle"], ["cross"], generator=seeded())
    changed = {name for name, value in found.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if moved(name)}
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())
    assert all(parameter.grad is None for model in (MODEL, found) for parameter in model.parameters())


def test_the_error_against_the_target_falls():
    def error(model: TextToImage) -> float:
        with torch.no_grad():
            z, t = normal(64, *SHAPE, seed=9, dtype=torch.float32), torch.arange(64) % 20
            word = MODEL.condition(["circle"] * 64, 64)
            wanted = 2 * MODEL(z, t, None) - MODEL(z, t, word)
            return (model(z, t, word) - wanted).square().mean().item()

    found = ESD(steps=100, lr=3e-3, sampling_steps=4, batch_size=8)(MODEL, ["circle"], [], generator=seeded())
    assert error(found) < 0.3 * error(MODEL)


def test_without_a_rate_or_steps_the_copy_equals_the_model():
    for given in ({"lr": 0.0}, {"steps": 0}):
        found = make(**given)(MODEL, ["circle"], [], generator=seeded())
        assert all(torch.equal(value, MODEL.state_dict()[name]) for name, value in found.state_dict().items())


def test_a_model_in_train_mode_is_used_in_eval_mode_and_its_modes_and_flags_are_kept():
    model = Linear(dropout=0.5)
    model.network.mix.weight.requires_grad_(False)
    model.network.dropout.eval()
    quiet = erase_linear(copy.deepcopy(model).eval(), steps=4, mode="all", lr=0.01)
    model.network.dropout.train()
    model.network.mix.eval()
    modes = [part.training for part in model.modules()]
    found = erase_linear(model, steps=4, mode="all", lr=0.01)
    assert [part.training for part in model.modules()] == modes
    assert [part.training for part in found.modules()] == modes
    for name, value in found.named_parameters():
        assert torch.equal(value, quiet.get_parameter(name))
        assert value.requires_grad == model.get_parameter(name).requires_grad
    assert not torch.equal(found.network.mix.weight, model.network.mix.weight)


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
    found = erase_linear(adapter, steps=3, lr=0.01)
    assert pipeline.unet is unet is adapter.network is not found.network
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    changed = [name for name, value in found.network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["attn2.to_k.weight", "attn2.to_v.weight"]
    with pytest.raises(InputError, match="shape must be given for a PipelineAdapter"):
        ESD(steps=1, sampling_steps=2)(adapter, ["circle"], [], generator=seeded())


def test_what_cannot_be_erased_is_refused():
    with pytest.raises(InputError, match="forget must be a list of captions"):
        make()(MODEL, "circle", [], generator=seeded())
    with pytest.raises(InputError, match="cirle"):
        make()(MODEL, ["circle", "cirle"], [], generator=seeded())
    with pytest.raises(ValueError, match="sampling_steps must be at most the model's 20 training times, got 21"):
        make(sampling_steps=21)(MODEL, ["circle"], [], generator=seeded())
